//! A hostile tenant with a valid account, and users with invalid ones: what they try, and that none of it succeeds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod bed;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::{kv, stream};
use bed::{Bed, connect_text};
use futures::StreamExt;
use millrace_lattice_config::Role;
use millrace_lattice_config::jwt::{Claims, User, credentials, read_credentials};
use millrace_lattice_config::tenants::Record;
use nkeys::KeyPair;

/// A user of a tenant without any rule: the most that an account can give.
fn unbounded(bed: &Bed, record: &Record) -> String {
    let folder = bed.home.root().join("keys/accounts").join(&record.name);
    let seed = fs::read_to_string(folder.join("signing-1.nk")).unwrap();
    let (account, user) = (KeyPair::from_seed(seed.trim()).unwrap(), KeyPair::new_user());
    let claims = User { issuer_account: record.account.clone(), ..User::default() };
    let token = Claims::new("evil", &user.public_key(), claims).sign(&account).unwrap();
    credentials(&token, &user.seed().unwrap())
}

#[tokio::test]
async fn a_tenant_reaches_nothing_of_another() {
    let bed = Bed::new();
    let victim = bed.add("victim").await;
    let evil = bed.add("evil").await;
    let url = bed.server.url();

    // The victim at work: a stream, values, a service, a request that is waiting for its answer.
    let own = connect_text(&url, &unbounded(&bed, &victim)).await.unwrap();
    let js = jetstream::new(own.clone());
    let config = stream::Config {
        name: "MILLRACE_victim_p_a_b".into(),
        subjects: vec!["millrace.victim.p.edge.a.b".into()],
        ..Default::default()
    };
    let edge = js.create_stream(config).await.unwrap();
    js.publish("millrace.victim.p.edge.a.b", "secret".into()).await.unwrap().await.unwrap();
    let config = kv::Config { bucket: "MILLRACE-KV_victim_limits".into(), ..Default::default() };
    let values = js.create_key_value(config).await.unwrap();
    values.put("limit", "secret".into()).await.unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let mut everything = own.subscribe(">").await.unwrap();
    let count = heard.clone();
    let evidence = tokio::spawn(async move {
        while let Some(message) = everything.next().await {
            if message.payload.as_ref() == b"evil" {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    js.query_account().await.unwrap();

    let hostile = connect_text(&url, &unbounded(&bed, &evil)).await.unwrap();
    let overheard = Arc::new(AtomicUsize::new(0));
    let mut attempts = 0;
    let mut successes = 0;
    // To listen: to all, to what the victim's parts use, by queue groups, to inboxes.
    let mut ears = Vec::new();
    for subject in [
        ">",
        "*.>",
        "victim.>",
        "wasmbus.>",
        "wasmbus.evt.victim.>",
        "wasmbus.ctl.v1.victim.>",
        "wadm.>",
        "millrace.victim.>",
        "millrace-audit.victim.>",
        "$KV.>",
        "$JS.>",
        "_INBOX.>",
        "$SYS.>",
        "$SYS.ACCOUNT.*.CONNECT",
        "$SYS.REQ.>",
    ] {
        attempts += 2;
        for mut ear in [
            hostile.subscribe(subject).await.unwrap(),
            hostile.queue_subscribe(subject, "wadm_server".into()).await.unwrap(),
        ] {
            let count = overheard.clone();
            ears.push(tokio::spawn(async move {
                while let Some(message) = ear.next().await {
                    if message.payload.windows(6).any(|bytes| bytes == b"secret") {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
    }
    // To speak: to its parts, edges, buckets, audit log, and an inbox whose name is known.
    let inbox = own.new_inbox();
    for subject in [
        "victim.stage.wrpc.0.0.1.handle",
        "wasmbus.ctl.v1.victim.host.ping",
        "wasmbus.evt.victim.host_stopped",
        "wasmbus.rpc.victim.x.linkdefs.put",
        "wadm.api.victim.model.list",
        "wadm.api.victim.model.deploy.p",
        "millrace.victim.status",
        "millrace.victim.p.edge.a.b",
        "millrace.victim.p.dead.a",
        "millrace-audit.victim.platform",
        "$KV.MILLRACE-KV_victim_limits.limit",
        "$KV.LATTICEDATA_victim.x",
        "$JS.ACK.MILLRACE_victim_p_a_b.stage.1.1.1.1.1",
        &inbox,
    ] {
        attempts += 1;
        hostile.publish(subject.to_owned(), "evil".into()).await.unwrap();
    }
    // With the victim's account in the subject.
    for subject in [
        format!("{}.wadm.api.victim.model.list", victim.account),
        format!("$JS.{}.API.INFO", victim.account),
        format!("$SYS.REQ.ACCOUNT.{}.JSZ", victim.account),
        format!("$SYS.REQ.ACCOUNT.{}.CONNZ", victim.account),
        format!("$SYS.REQ.ACCOUNT.{}.INFO", victim.account),
        format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", victim.account),
        "$SYS.REQ.CLAIMS.LIST".to_owned(),
        "$SYS.REQ.CLAIMS.UPDATE".to_owned(),
        "$SYS.REQ.CLAIMS.DELETE".to_owned(),
        "$SYS.REQ.SERVER.PING.CONNZ".to_owned(),
        "$SYS.REQ.SERVER.PING.JSZ".to_owned(),
    ] {
        attempts += 1;
        let answer = tokio::time::timeout(
            Duration::from_millis(500),
            hostile.request(subject.clone(), "evil".into()),
        );
        // It hears its own question on `>` and answers nothing; an answer has something of the victim in it.
        if let Ok(Ok(answer)) = answer.await {
            let text = String::from_utf8_lossy(&answer.payload).into_owned();
            let about = text.contains("victim") || text.contains(&victim.account);
            successes += usize::from(about && !text.contains("\"error\""));
        }
    }
    // To take: its streams, values and consumers, by their names.
    let theirs = jetstream::new(hostile.clone());
    attempts += 6;
    successes += usize::from(theirs.get_stream("MILLRACE_victim_p_a_b").await.is_ok());
    successes += usize::from(theirs.delete_stream("MILLRACE_victim_p_a_b").await.is_ok());
    successes += usize::from(theirs.get_key_value("MILLRACE-KV_victim_limits").await.is_ok());
    successes += usize::from(theirs.get_key_value("LATTICEDATA_victim").await.is_ok());
    let names: Vec<_> = theirs.stream_names().collect().await;
    successes += names.iter().flatten().filter(|name| name.contains("victim")).count();
    // A stream of the same name, or one that mirrors or catches everything of the victim's, is its own and empty.
    for (name, mirror, subjects) in [
        ("MILLRACE_victim_p_a_b", None, vec!["millrace.victim.>".to_owned()]),
        ("mirror", Some("KV_MILLRACE-KV_victim_limits".to_owned()), vec![]),
    ] {
        attempts += 1;
        let mirror = mirror.map(|name| stream::Source { name, ..Default::default() });
        let config = stream::Config { name: name.into(), mirror, subjects, ..Default::default() };
        if theirs.create_stream(config).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut made = theirs.get_stream(name).await.unwrap();
            successes += usize::from(made.info().await.unwrap().state.messages > 0);
        }
    }

    // Meanwhile the victim goes on, and the hostile one hears none of it.
    js.publish("millrace.victim.p.edge.a.b", "secret".into()).await.unwrap().await.unwrap();
    values.put("limit", "secret too".into()).await.unwrap();
    own.publish("wasmbus.evt.victim.x", "secret".into()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for ear in ears {
        ear.abort();
    }
    evidence.abort();
    successes += overheard.load(Ordering::Relaxed) + heard.load(Ordering::Relaxed);
    println!("attempts {attempts}, successes {successes}");
    assert_eq!(successes, 0, "of {attempts}");
    assert_eq!(edge.get_info().await.unwrap().state.messages, 2);
}

#[tokio::test]
async fn credentials_that_do_not_count() {
    let bed = Bed::new();
    let record = bed.add("acme").await;
    let evil = bed.add("evil").await;
    let url = bed.server.url();
    let file = bed.tenants.creds_file("acme", Role::Operator).unwrap();
    let good = fs::read_to_string(file).unwrap();
    connect_text(&url, &good).await.unwrap();
    let (claims, token, key) = read_credentials(&good).unwrap();
    let seed = key.seed().unwrap();

    let seed_of = |tenant: &str| {
        let folder = bed.home.root().join("keys/accounts").join(tenant);
        let seed = fs::read_to_string(folder.join("signing-1.nk")).unwrap();
        KeyPair::from_seed(seed.trim()).unwrap()
    };
    let (signing, foreign) = (seed_of("acme"), seed_of("evil"));
    let now = millrace_lattice_config::now();
    let made = |change: &dyn Fn(&mut Claims<User>), signer: &KeyPair| {
        let mut claims = claims.clone();
        change(&mut claims);
        credentials(&claims.sign(signer).unwrap(), &seed)
    };
    let account = record.account.clone();
    let mut tries = vec![
        ("signed by nobody's key", made(&|_| {}, &KeyPair::new_account())),
        ("signed by another tenant", made(&|_| {}, &foreign)),
        (
            "another tenant's account, own key",
            made(&|c| c.nats.claims.issuer_account = evil.account.clone(), &signing),
        ),
        ("expired", made(&|c| c.exp = now - 10, &signing)),
        ("not yet valid", made(&|c| c.nbf = now + 3600, &signing)),
        ("a bearer's token", {
            let bearer = made(&|c| c.nats.claims.bearer_token = true, &signing);
            bearer.replace(&seed, &KeyPair::new_user().seed().unwrap())
        }),
        ("somebody else's key", credentials(&token, &KeyPair::new_user().seed().unwrap())),
    ];
    // The signature of one token under the claims of another.
    let (head, _) = token.rsplit_once('.').unwrap();
    let other = made(&|c| c.nats.claims.permissions = Default::default(), &foreign);
    let signature = other.lines().nth(1).unwrap().rsplit_once('.').unwrap().1;
    tries.push(("a signature from elsewhere", credentials(&format!("{head}.{signature}"), &seed)));
    // What the account's own identity key signs counts no more either: only signing keys do.
    let identity = bed.home.root().join("keys/accounts/acme/account.nk");
    let identity = KeyPair::from_seed(fs::read_to_string(identity).unwrap().trim()).unwrap();
    assert_eq!(identity.public_key(), account);
    tries.push((
        "signed by the account's identity key",
        made(&|c| c.nats.claims.issuer_account = String::new(), &identity),
    ));
    // The control: a token made in the same way that does count.
    connect_text(&url, &made(&|c| c.exp = now + 60, &signing)).await.unwrap();
    let attempts = tries.len();
    let mut successes = Vec::new();
    for (what, creds) in tries {
        if connect_text(&url, &creds).await.is_ok() {
            successes.push(what);
        }
    }
    // And nobody at all.
    if async_nats::connect(&url).await.is_ok() {
        successes.push("no credentials");
    }
    println!("attempts {}, successes {}", attempts + 1, successes.len());
    assert!(successes.is_empty(), "{successes:?}");

    // The account is gone: its users are cut, and do not come back.
    let live = connect_text(&url, &good).await.unwrap();
    bed.tenants.remove("acme", Duration::ZERO).await.unwrap();
    bed.tenants.purge("acme").await.unwrap();
    bed::until("cut", async || live.connection_state() != async_nats::connection::State::Connected)
        .await;
    assert!(connect_text(&url, &good).await.is_err());
}

/// A tenant takes all that its account allows, and its neighbour notices nothing.
#[tokio::test]
async fn a_tenant_that_takes_all_it_can() {
    let bed = Bed::new();
    let greedy = bed.add("greedy").await;
    bed.add("quiet").await;
    let url = bed.server.url();
    let creds = unbounded(&bed, &greedy);
    let mut connections = Vec::new();
    for _ in 0..greedy.limits.connections + 20 {
        match connect_text(&url, &creds).await {
            Ok(client) => connections.push(client),
            Err(_) => break,
        }
    }
    assert!(connections.len() as i64 <= greedy.limits.connections, "{}", connections.len());
    let js = jetstream::new(connections[0].clone());
    let mut streams = 0;
    for number in 0..greedy.limits.streams + 20 {
        let config = stream::Config { name: format!("s{number}"), ..Default::default() };
        match js.create_stream(config).await {
            Ok(_) => streams += 1,
            Err(_) => break,
        }
    }
    assert!(streams < greedy.limits.streams, "{streams}");
    // More than it may have at once is refused in one message already.
    let big = vec![0; usize::try_from(greedy.limits.payload).unwrap() + 1];
    assert!(connections[0].publish("x", big.into()).await.is_err());
    // The neighbour connects and stores as before.
    let quiet = bed.connect("quiet", Role::Operator).await;
    let js = jetstream::new(quiet);
    let config = stream::Config {
        name: "edge".into(),
        subjects: vec!["millrace.quiet.x".into()],
        ..Default::default()
    };
    js.create_stream(config).await.unwrap();
    js.publish("millrace.quiet.x", "y".into()).await.unwrap().await.unwrap();
}
