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
use millrace_lattice_config::tenants::{Limits, Record};
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

/// A tenant at work: publishes, reads and acknowledges, until told to stop. How long each round took, sorted, and how many
/// failed.
async fn work(
    js: jetstream::Context,
    consumer: jetstream::consumer::PullConsumer,
    stop: Arc<std::sync::atomic::AtomicBool>,
) -> (Vec<Duration>, usize) {
    let (mut took, mut errors) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let begun = std::time::Instant::now();
        let round = async {
            let sent = js.publish("millrace.quiet.x", "y".into()).await.map_err(drop)?;
            sent.await.map_err(drop)?;
            let batch = consumer.batch().max_messages(1).expires(Duration::from_secs(5));
            let mut batch = batch.messages().await.map_err(drop)?;
            let message = batch.next().await.ok_or(())?.map_err(drop)?;
            message.double_ack().await.map_err(drop)
        };
        match tokio::time::timeout(Duration::from_secs(10), round).await {
            Ok(Ok(())) => took.push(begun.elapsed()),
            _ => errors += 1,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    (took, errors)
}

fn p99(took: &[Duration]) -> Duration {
    took[(took.len() * 99 / 100).min(took.len() - 1)]
}

/// A tenant takes all of each thing that its account bounds, and more, while another one works.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_tenant_exhausts_another_does_not_miss() {
    let bed = Bed::new();
    let limits = Limits {
        connections: 40,
        leaf_nodes: 0,
        subscriptions: 1000,
        payload: 64 << 10,
        disk: 64 << 20,
        memory: 4 << 20,
        streams: 24,
        consumers: 60,
    };
    let go = &mut |_| std::ops::ControlFlow::Continue(());
    let greedy = bed.tenants.add("greedy", &limits, &Default::default(), go).await.unwrap();
    bed.add("quiet").await;
    let url = bed.server.url();
    let js = jetstream::new(bed.connect("quiet", Role::Operator).await);
    let config = stream::Config {
        name: "edge".into(),
        subjects: vec!["millrace.quiet.x".into()],
        ..Default::default()
    };
    let edge = js.create_stream(config).await.unwrap();
    let config = jetstream::consumer::pull::Config {
        durable_name: Some("work".into()),
        ..Default::default()
    };
    let consumer = edge.create_consumer(config).await.unwrap();

    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let alone = tokio::spawn(work(js.clone(), consumer.clone(), stop.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    let (alone, errors) = alone.await.unwrap();
    assert!(errors == 0 && !alone.is_empty(), "{errors} errors alone");

    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let beside = tokio::spawn(work(js.clone(), consumer, stop.clone()));
    let creds = unbounded(&bed, &greedy);
    // What, how often it was tried, and how often it succeeded beyond the limit.
    let mut report: Vec<(&str, usize, i64)> = Vec::new();
    let usage = async || bed.tenants.show("greedy").await.unwrap().usage;

    // JetStream has some subscriptions of its own in each account, which do not count against the limit.
    let mut idle = usage().await;
    while idle.connections > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        idle = usage().await;
    }
    let mut held = Vec::new();
    let mut tried = 0;
    while tried < 100 {
        tried += 1;
        if let Ok(client) = connect_text(&url, &creds).await {
            held.push(client);
        }
    }
    report.push(("connections", tried, held.len() as i64 - limits.connections));
    let first = held[0].clone();
    held.truncate(4);

    let mut heard = held[1].subscribe("own.done").await.unwrap();
    jetstream::new(held[1].clone()).query_account().await.unwrap();
    let mut ears = Vec::new();
    for number in 0..2000 {
        ears.push(first.subscribe(format!("own.{number}")).await.unwrap());
    }
    // What comes after them over the same connection has been looked at after them.
    first.publish("own.done", "".into()).await.unwrap();
    heard.next().await.unwrap();
    let most = usage().await.subscriptions;
    assert!(most >= limits.subscriptions, "{most}");
    // The limit is that of one connection; the other one has two: this, and for its answers.
    report.push(("subscriptions", 2000, most - 2 - idle.subscriptions - limits.subscriptions));
    drop(ears);

    let js = jetstream::new(connect_text(&url, &creds).await.unwrap());
    let mut tried = 0;
    let mut made = Vec::new();
    for number in 0..60 {
        tried += 1;
        let name = format!("s{number}");
        let subjects = vec![format!("own.stream.{number}")];
        let config = stream::Config { name, subjects, ..Default::default() };
        made.extend(js.create_stream(config).await.ok());
    }
    report.push(("streams", tried, usage().await.streams - limits.streams));
    assert!(!made.is_empty());

    let mut tried = 0;
    for number in 0..120 {
        tried += 1;
        let config = jetstream::consumer::pull::Config {
            durable_name: Some(format!("c{number}")),
            ..Default::default()
        };
        let _ = made[0].create_consumer(config).await;
    }
    // The limit is that of one stream.
    report.push(("consumers", tried, usage().await.consumers - limits.consumers));

    let block = vec![0; 60 << 10];
    let fill = async |subject: &str, tries: usize| {
        let mut refused = 0;
        for _ in 0..tries {
            let sent = js.publish(subject.to_owned(), block.clone().into()).await.unwrap();
            refused += usize::from(sent.await.is_err());
        }
        refused
    };
    let refused = fill("own.stream.0", 1300).await;
    assert!(refused > 0, "the disk has no end");
    report.push(("bytes on disk", 1300, usage().await.disk - limits.disk));
    js.delete_stream("s1").await.unwrap();
    let config = stream::Config {
        name: "memory".into(),
        subjects: vec!["own.memory".into()],
        storage: stream::StorageType::Memory,
        ..Default::default()
    };
    js.create_stream(config).await.unwrap();
    let refused = fill("own.memory", 120).await;
    assert!(refused > 0, "the memory has no end");
    report.push(("bytes in memory", 120, usage().await.memory - limits.memory));

    let mut over = 0;
    for size in [limits.payload + 1, 2 * limits.payload, 1 << 20, 8 << 20] {
        over += i64::from(too_large(&url, &creds, usize::try_from(size).unwrap()));
    }
    report.push(("bytes of a message", 4, over));

    stop.store(true, Ordering::Relaxed);
    let (beside, errors) = beside.await.unwrap();
    let mut attempts = 0;
    let mut successes = 0;
    for (what, tried, over) in &report {
        println!("{what}: {tried} attempts, {} beyond the limit", (*over).max(0));
        attempts += tried;
        successes += (*over).max(0);
    }
    let (quiet, disturbed) = (p99(&alone), p99(&beside));
    println!("attempts {attempts}, successes {successes}");
    println!(
        "the neighbour: p99 alone {quiet:?} of {}, beside it {disturbed:?} of {}, errors {errors}",
        alone.len(),
        beside.len()
    );
    assert_eq!(successes, 0, "{report:?}");
    assert_eq!(errors, 0);
    assert!(disturbed < quiet + Duration::from_millis(250), "{disturbed:?} after {quiet:?}");
}

/// Whether a message of a size gets through, as one sends it who does not keep to what the server said. The clients' own check
/// would refuse it before.
fn too_large(url: &str, creds: &str, size: usize) -> bool {
    use std::io::{BufRead, BufReader, Write};
    let (_, token, key) = read_credentials(creds).unwrap();
    let stream = std::net::TcpStream::connect(url.trim_start_matches("nats://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut info = String::new();
    lines.read_line(&mut info).unwrap();
    let info: serde_json::Value = serde_json::from_str(info.trim_start_matches("INFO ")).unwrap();
    let nonce = info["nonce"].as_str().unwrap();
    let signature = key.sign(nonce.as_bytes()).unwrap();
    let signature = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, signature);
    let connect = serde_json::json!({ "verbose": true, "jwt": token, "sig": signature });
    write!(stream, "CONNECT {connect}\r\nPING\r\n").unwrap();
    let mut line = String::new();
    while !line.starts_with("PONG") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0 && !line.starts_with("-ERR"), "{line}");
    }
    // The server may close in the middle of it.
    let message =
        [format!("PUB own.x {size}\r\n").into_bytes(), vec![0; size], b"\r\nPING\r\n".to_vec()];
    let _ = stream.write_all(&message.concat());
    loop {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(count) if count > 0 => {
                if line.starts_with("PONG") {
                    return true;
                }
                if line.starts_with("-ERR") {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// A server compares times with its own clock, to the second and without tolerance; when a token says it was issued is no
/// reason to refuse it.
#[tokio::test]
async fn tokens_and_clocks_that_differ() {
    let bed = Bed::new();
    let record = bed.add("acme").await;
    let url = bed.server.url();
    let folder = bed.home.root().join("keys/accounts/acme/signing-1.nk");
    let signing = KeyPair::from_seed(fs::read_to_string(folder).unwrap().trim()).unwrap();
    let now = millrace_lattice_config::now;
    let made = |iat: i64, nbf: i64, exp: i64| {
        let user = KeyPair::new_user();
        let claims = User { issuer_account: record.account.clone(), ..User::default() };
        let mut claims = Claims::new("skewed", &user.public_key(), claims);
        (claims.iat, claims.nbf, claims.exp) = (iat, nbf, exp);
        credentials(&claims.sign(&signing).unwrap(), &user.seed().unwrap())
    };
    let counts = async |creds: &str| connect_text(&url, creds).await.is_ok();
    // Issued by a clock that is ahead or behind.
    for seconds in [-86_400, -5, 5, 86_400] {
        assert!(counts(&made(now() + seconds, 0, 0)).await, "{seconds}");
    }
    assert!(!counts(&made(now(), 0, now() - 1)).await);
    let soon = made(now(), now() + 3, 0);
    assert!(!counts(&soon).await);
    let brief = made(now(), 0, now() + 3);
    assert!(counts(&brief).await);
    tokio::time::sleep(Duration::from_millis(4100)).await;
    assert!(counts(&soon).await);
    assert!(!counts(&brief).await);
}
