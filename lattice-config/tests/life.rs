//! The life of a tenant, against a real server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod bed;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use async_nats::connection;
use async_nats::jetstream;
use bed::{Bed, add, add_until, connect, connect_text, until};
use futures::StreamExt;
use millrace_lattice_config::Role;
use millrace_lattice_config::audit::{Account as AuditLog, Cursor, Log, Logged};
use millrace_lattice_config::ca::{Authority, CaError};
use millrace_lattice_config::home::Home;
use millrace_lattice_config::jwt::{Account, Claims, read_credentials};
use millrace_lattice_config::now;
use millrace_lattice_config::resolver::{Address, Resolver, ResolverError};
use millrace_lattice_config::server::{Cluster, ServerOptions, TlsFiles};
use millrace_lattice_config::tenants::{Entry, Limits, State, Step, TenantError, Tenants};
use millrace_peers::{NatsServer, Validity, free_port};

async fn resolver(bed: &Bed) -> Resolver {
    let creds = fs::read_to_string(bed.home.system_creds()).unwrap();
    let address = Address::plain(&bed.server.url());
    Resolver::new(address.connect("test", &creds).await.unwrap())
}

async fn gone(client: &async_nats::Client) {
    until("the connection is cut", async || {
        client.connection_state() != connection::State::Connected
    })
    .await;
}

/// What is left of an account that was purged.
fn lets_nobody_in(token: &str) {
    let claims = Claims::<Account>::verify(token).unwrap().nats.claims;
    assert_eq!((claims.limits.conn, claims.limits.leaf), (0, 0));
    assert_eq!((claims.limits.disk_storage, claims.limits.mem_storage), (0, 0));
    assert!(claims.signing_keys.is_empty() && claims.revocations.contains_key("*"));
}

#[tokio::test]
async fn added_used_suspended_resumed_removed() {
    let bed = Bed::new();
    let begun = Instant::now();
    let record = bed.add("acme").await;
    println!("added in {:?}", begun.elapsed());
    assert_eq!((record.state, record.users.len()), (State::Active, Role::ALL.len()));
    // Once more is nothing new; with other limits it is taken.
    let again = bed.add("acme").await;
    assert_eq!(again, record);
    let limits = Limits { streams: 100, ..Limits::default() };
    let go = &mut |_| ControlFlow::Continue(());
    let other = bed.tenants.add("acme", &limits, &BTreeMap::new(), go).await;
    assert!(matches!(other, Err(TenantError::Taken { .. })));

    let operator = bed.connect("acme", Role::Operator).await;
    let js = jetstream::new(operator.clone());
    let stream = jetstream::stream::Config {
        name: "MILLRACE_acme_p_a_b".into(),
        subjects: vec!["millrace.acme.p.edge.a.b".into()],
        ..Default::default()
    };
    js.create_stream(stream).await.unwrap();
    js.publish("millrace.acme.p.edge.a.b", "x".into()).await.unwrap().await.unwrap();
    let shown = bed.tenants.show("acme").await.unwrap();
    assert_eq!(shown.usage.streams, 5, "{:?}", shown.usage);
    assert_eq!(shown.usage.connections, 1);
    assert!(shown.usage.disk > 0 && shown.usage.subscriptions > 0);

    let cut = bed.tenants.suspend("acme").await.unwrap();
    println!("cut in {cut:?}");
    assert!(cut.is_some_and(|cut| cut < Duration::from_secs(2)), "{cut:?}");
    gone(&operator).await;
    let creds = bed.tenants.creds_file("acme", Role::Operator).unwrap();
    assert!(connect(&bed.server.url(), &creds).await.is_err());
    assert!(matches!(
        bed.tenants.creds("acme", Role::Viewer, "x", None).await,
        Err(TenantError::State { .. })
    ));

    bed.tenants.resume("acme").await.unwrap();
    let back = bed.connect("acme", Role::Operator).await;
    let js = jetstream::new(back);
    assert_eq!(js.get_stream("MILLRACE_acme_p_a_b").await.unwrap().cached_info().state.messages, 1);

    // Removed with a grace, brought back, removed for good.
    assert!(matches!(bed.tenants.purge("acme").await, Err(TenantError::State { .. })));
    bed.tenants.remove("acme", Duration::from_secs(3600)).await.unwrap();
    assert!(bed.tenants.sweep().await.unwrap().is_empty());
    bed.tenants.resume("acme").await.unwrap();
    let log = audit_log(&bed.tenants, "acme").await;
    let what: Vec<&str> = log.iter().map(|entry| entry.what.as_str()).collect();
    // What was refused stands there too, of the times that it was tried.
    let refused: Vec<&str> = log
        .iter()
        .filter(|e| e.outcome.starts_with("refused: "))
        .map(|e| e.what.as_str())
        .collect();
    assert_eq!(refused, ["tenant.add", "user.add", "tenant.purge"]);
    let done: Vec<&str> =
        log.iter().filter(|e| e.outcome == "ok").map(|e| e.what.as_str()).collect();
    let wanted =
        ["tenant.add", "tenant.suspend", "tenant.resume", "tenant.remove", "tenant.resume"];
    assert_eq!(done, wanted, "{what:?}");
    assert!(log.iter().all(|entry| entry.who == "tester" && entry.outcome.len() < 1000));
    bed.tenants.remove("acme", Duration::ZERO).await.unwrap();
    assert_eq!(bed.tenants.sweep().await.unwrap(), ["acme"]);
    assert!(bed.tenants.list().unwrap().is_empty());
    let left = resolver(&bed).await.lookup(&record.account).await.unwrap().unwrap();
    lets_nobody_in(&left);
    // The journal, and the account's key.
    assert_eq!(fs::read_dir(bed.home.root().join("removed")).unwrap().count(), 2);
    // The name is free, and nothing of the one before is there.
    let new = bed.add("acme").await;
    assert_ne!(new.account, record.account);
    assert_eq!(bed.tenants.show("acme").await.unwrap().usage.streams, 4);
}

#[tokio::test]
async fn an_interrupted_add_goes_on_where_it_was() {
    let bed = Bed::new();
    let whole = bed.add("whole").await;
    // When the platform's own connection is gone.
    let idle = async |name: &str| {
        for _ in 0..200 {
            let mut usage = bed.tenants.show(name).await.unwrap().usage;
            usage.disk = 0;
            if usage.connections == 0 {
                return usage;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is still connected");
    };
    let wanted = idle("whole").await;
    for (number, step) in Step::ALL.into_iter().enumerate() {
        let name = format!("cut-{number}");
        let cut = add_until(&bed.tenants, &name, step).await;
        assert!(matches!(cut, Err(TenantError::Interrupted(found)) if found == step), "{cut:?}");
        let left = bed.tenants.get(&name).unwrap();
        assert_eq!((left.state, left.done.len()), (State::Provisioning, number + 1));
        let account = left.account.clone();
        let record = bed.add(&name).await;
        assert_eq!((record.state, &record.done), (State::Active, &whole.done), "{step:?}");
        assert_eq!(record.account, account);
        assert_eq!(record.users.len(), whole.users.len());
        assert_eq!(idle(&name).await, wanted, "{step:?}");
        for role in Role::ALL {
            bed.connect(&name, role).await;
        }
    }
    // One that is not to be finished is purged as it is.
    for (number, step) in Step::ALL.into_iter().enumerate() {
        let name = format!("drop-{number}");
        add_until(&bed.tenants, &name, step).await.unwrap_err();
        let account = bed.tenants.get(&name).unwrap().account;
        bed.tenants.purge(&name).await.unwrap();
        assert!(matches!(bed.tenants.get(&name), Err(TenantError::Unknown(_))), "{step:?}");
        assert_eq!(resolver(&bed).await.lookup(&account).await.unwrap(), None, "{step:?}");
    }
    // A crash between a file and the record: the file's user is nobody's, and is replaced.
    add_until(&bed.tenants, "torn", Step::Push).await.unwrap_err();
    let creds = bed.tenants.creds_file("whole", Role::Wadm).unwrap();
    let torn = bed.tenants.creds_file("torn", Role::Wadm).unwrap();
    fs::create_dir_all(torn.parent().unwrap()).unwrap();
    fs::set_permissions(torn.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::copy(&creds, &torn).unwrap();
    bed.add("torn").await;
    assert_ne!(fs::read(creds).unwrap(), fs::read(torn).unwrap());
    bed.connect("torn", Role::Wadm).await;
}

#[tokio::test]
async fn a_failed_add_leaves_nothing() {
    let bed = Bed::new();
    // The server's disk is smaller than what the buckets and logs reserve.
    let limits = Limits { streams: 16, disk: 64 << 20, ..Limits::default() };
    let go = &mut |_| ControlFlow::Continue(());
    // Something stands where the viewer's credentials would be.
    add_until(&bed.tenants, "acme", Step::Push).await.unwrap_err();
    let account = bed.tenants.get("acme").unwrap().account;
    let in_the_way = bed.tenants.creds_file("acme", Role::Viewer).unwrap();
    fs::create_dir_all(&in_the_way).unwrap();
    for folder in [in_the_way.parent().unwrap(), &in_the_way] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let error = bed.tenants.add("acme", &limits, &BTreeMap::new(), go).await.unwrap_err();
    assert!(matches!(error, TenantError::RolledBack { step: Step::Users, .. }), "{error}");
    assert!(bed.tenants.list().unwrap().is_empty());
    assert!(!bed.home.root().join("keys/accounts/acme").exists());
    assert_eq!(resolver(&bed).await.lookup(&account).await.unwrap(), None);
    assert!(!resolver(&bed).await.list().await.unwrap().contains(&account));
    bed.tenants.add("acme", &limits, &BTreeMap::new(), go).await.unwrap();
}

#[tokio::test]
async fn names_and_limits_that_cannot_be() {
    let bed = Bed::new();
    for name in ["", "Acme", "a.b", "a/../b", "*", "sys", "default", "wadm"] {
        assert!(matches!(add(&bed.tenants, name).await, Err(TenantError::Name(_))), "{name}");
    }
    let go = &mut |_| ControlFlow::Continue(());
    let small = Limits { disk: 1, ..Limits::default() };
    let error = bed.tenants.add("acme", &small, &BTreeMap::new(), go).await.unwrap_err();
    assert!(matches!(error, TenantError::LimitTooSmall { what: "disk", .. }), "{error}");
    assert!(matches!(bed.tenants.get("acme"), Err(TenantError::Unknown(_))));

    // Below what is in use.
    bed.add("acme").await;
    let js = jetstream::new(bed.connect("acme", Role::Operator).await);
    for number in 0..20 {
        let name = format!("s{number}");
        let subjects = vec![format!("millrace.acme.{number}")];
        let config = jetstream::stream::Config { name, subjects, ..Default::default() };
        js.create_stream(config).await.unwrap();
    }
    let fewer = Limits { streams: 20, ..Limits::default() };
    let error = bed.tenants.limits("acme", |_| fewer.clone(), false).await.unwrap_err().to_string();
    assert!(error.contains("streams 24 of 20"), "{error}");
    bed.tenants.limits("acme", |_| fewer.clone(), true).await.unwrap();
    let config = jetstream::stream::Config { name: "more".into(), ..Default::default() };
    assert!(js.create_stream(config.clone()).await.is_err());
    bed.tenants.limits("acme", |_| Limits::default(), false).await.unwrap();
    js.create_stream(config).await.unwrap();
}

#[tokio::test]
async fn revoked_expired_and_rotated_users() {
    let bed = Bed::new();
    bed.add("acme").await;
    let url = bed.server.url();
    let issued = bed.tenants.creds("acme", Role::Operator, "eve", None).await.unwrap();
    let other = bed.tenants.creds("acme", Role::Operator, "adam", None).await.unwrap();
    let eve = connect_text(&url, &issued.credentials).await.unwrap();
    let adam = connect_text(&url, &other.credentials).await.unwrap();
    bed.tenants.revoke("acme", "eve").await.unwrap();
    gone(&eve).await;
    assert!(connect_text(&url, &issued.credentials).await.is_err());
    assert_eq!(adam.connection_state(), connection::State::Connected);
    assert!(matches!(
        bed.tenants.revoke("acme", "eve").await,
        Err(TenantError::UnknownUser { .. })
    ));

    // A user for a second is cut when it is over.
    let brief = Some(Duration::from_secs(1));
    let brief = bed.tenants.creds("acme", Role::Viewer, "guest", brief).await.unwrap();
    if let Ok(guest) = connect_text(&url, &brief.credentials).await {
        gone(&guest).await;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(connect_text(&url, &brief.credentials).await.is_err());

    // The platform's users are exchanged; others stay.
    let wadm = bed.connect("acme", Role::Wadm).await;
    let old = fs::read_to_string(bed.tenants.creds_file("acme", Role::Wadm).unwrap()).unwrap();
    bed.tenants.rotate_users("acme").await.unwrap();
    gone(&wadm).await;
    assert!(connect_text(&url, &old).await.is_err());
    bed.connect("acme", Role::Wadm).await;
    assert_eq!(adam.connection_state(), connection::State::Connected);

    // The account's signing key is exchanged: whoever it signed is out.
    let old = fs::read_to_string(bed.tenants.creds_file("acme", Role::Wadm).unwrap()).unwrap();
    let rotated = bed.tenants.rotate_signing("acme").await.unwrap();
    let labels: Vec<&str> = rotated.ended.iter().map(|user| user.label.as_str()).collect();
    assert!(labels.contains(&"adam"), "{labels:?}");
    gone(&adam).await;
    for creds in [&old, &other.credentials] {
        assert!(connect_text(&url, creds).await.is_err());
    }
    for role in Role::ALL {
        bed.connect("acme", role).await;
    }
    let record = bed.tenants.get("acme").unwrap();
    assert_eq!((record.signing, record.signing_before), (2, None));
    assert!(!bed.home.root().join("keys/accounts/acme/signing-1.nk").exists());
}

#[tokio::test]
async fn the_resolvers_folder_is_gone() {
    let bed = Bed::new();
    bed.add("acme").await;
    // Something else stands in its place: to be root does not help then.
    fs::remove_dir_all(bed.home.jwt_folder()).unwrap();
    fs::write(bed.home.jwt_folder(), "").unwrap();
    let error = add(&bed.tenants, "other").await.unwrap_err();
    let TenantError::RolledBack { step: Step::Push, source, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(**source, TenantError::Resolver(ResolverError::Folder { .. })), "{error}");
    assert!(matches!(bed.tenants.get("other"), Err(TenantError::Unknown(_))));
    // With the folder back it goes on.
    fs::remove_file(bed.home.jwt_folder()).unwrap();
    fs::create_dir(bed.home.jwt_folder()).unwrap();
    add(&bed.tenants, "other").await.unwrap();
}

#[tokio::test]
async fn no_server_and_one_that_is_another_installations() {
    let mut bed = Bed::new();
    let other = Bed::new();
    // Its user is none of that server's system account.
    let astray = Tenants::new(bed.home.clone(), Address::plain(&other.server.url()), "tester");
    let error = add(&astray, "acme").await.unwrap_err();
    assert!(matches!(error, TenantError::Resolver(ResolverError::Connect { .. })), "{error}");
    bed.server.kill().unwrap();
    let error = add(&bed.tenants, "acme").await.unwrap_err();
    assert!(matches!(error, TenantError::Resolver(ResolverError::Connect { .. })), "{error}");
    assert!(bed.tenants.list().unwrap().is_empty());
    bed.server.restart().unwrap();
    bed.add("acme").await;
    // What was pushed is there after a restart of the server.
    bed.server.restart().unwrap();
    bed.connect("acme", Role::Operator).await;
}

#[tokio::test]
async fn two_administrators_at_once() {
    let bed = Bed::new();
    let second = Tenants::new(bed.home.clone(), Address::plain(&bed.server.url()), "the other one");
    let mut refused = None;
    let go = &mut |step| {
        if step == Step::Push {
            let busy = std::thread::scope(|scope| {
                let other = || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build();
                    runtime.unwrap().block_on(add(&second, "other"))
                };
                scope.spawn(other).join().unwrap()
            });
            refused = Some(busy);
        }
        ControlFlow::Continue(())
    };
    bed.tenants.add("acme", &Limits::default(), &BTreeMap::new(), go).await.unwrap();
    let error = refused.unwrap().unwrap_err().to_string();
    assert!(error.contains("tester (add acme), process"), "{error}");
    add(&second, "other").await.unwrap();
}

#[tokio::test]
async fn tls_with_the_private_authority_and_when_it_has_expired() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::create(&folder.path().join("lattice"), None).unwrap();
    let mut authority = Authority::create(&home.tls_folder()).unwrap();
    let port = free_port().unwrap();
    let mut options = ServerOptions::new(&home, &format!("127.0.0.1:{port}"));
    options.tls = Some(authority.server("server", &["127.0.0.1".to_owned()]).unwrap());
    options.write(&home, &folder.path().join("nats.conf")).unwrap();
    let server = NatsServer::start_configured(&options.configuration(&home), port).unwrap();
    let url = format!("tls://127.0.0.1:{port}");
    let trusted = Address { url: url.clone(), authority: Some(authority.file()) };
    add(&Tenants::new(home.clone(), trusted.clone(), "tester"), "acme").await.unwrap();
    // Who trusts others is not served.
    let stranger = Authority::create(&folder.path().join("stranger")).unwrap();
    let astray = Address { url, authority: Some(stranger.file()) };
    let error = add(&Tenants::new(home.clone(), astray, "tester"), "other").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    // What an authority signs ends with it at the latest: at that time clients refuse the server.
    drop(server);
    let peers = millrace_peers::Authority::new(folder.path(), "ca").unwrap();
    let expired = peers.sign("127.0.0.1", Validity::Expired).unwrap();
    options.tls = Some(TlsFiles {
        certificate: expired.certificate,
        key: expired.key,
        authority: peers.file().to_owned(),
    });
    let mut server = NatsServer::start_configured(&options.configuration(&home), port).unwrap();
    let late = Address { authority: Some(peers.file().to_owned()), ..trusted.clone() };
    let error = add(&Tenants::new(home.clone(), late, "tester"), "other").await.unwrap_err();
    assert!(error.to_string().contains("xpired"), "{error}");
    server.kill().unwrap();
    // It signs nothing more, until it is renewed.
    authority.renew(-1).unwrap();
    assert!(matches!(
        authority.server("server", &["127.0.0.1".to_owned()]),
        Err(CaError::Expired { .. })
    ));
    authority.renew(30).unwrap();
    options.tls = Some(authority.server("server", &["127.0.0.1".to_owned()]).unwrap());
    let _server = NatsServer::start_configured(&options.configuration(&home), port).unwrap();
    add(&Tenants::new(home.clone(), trusted, "tester"), "other").await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_three_with_one_node_lost() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::create(&folder.path().join("lattice"), None).unwrap();
    let ports: Vec<(u16, u16)> =
        (0..3).map(|_| (free_port().unwrap(), free_port().unwrap())).collect();
    let routes: Vec<String> = ports.iter().map(|(_, route)| format!("127.0.0.1:{route}")).collect();
    let authority = Authority::create(&home.tls_folder()).unwrap();
    let tls = authority.server("route", &["127.0.0.1".to_owned()]).unwrap();
    let mut servers: Vec<NatsServer> = Vec::new();
    for (number, (port, route)) in ports.iter().enumerate() {
        let mut options = ServerOptions::new(&home, &format!("127.0.0.1:{port}"));
        options.name = Some(format!("n{number}"));
        options.store = folder.path().join(format!("store-{number}"));
        options.jwt = folder.path().join(format!("jwt-{number}"));
        options.cluster = Some(Cluster {
            name: "plant".to_owned(),
            listen: format!("127.0.0.1:{route}"),
            routes: routes.clone(),
            tls: tls.clone(),
        });
        options.write(&home, &folder.path().join(format!("{number}.conf"))).unwrap();
        let config = options.configuration(&home);
        servers.push(NatsServer::start_configured(&config, *port).unwrap());
    }
    let urls: Vec<String> = servers.iter().map(NatsServer::url).collect();
    let tenants =
        Tenants::new(home.clone(), Address::plain(&urls.join(",")), "tester").with_replicas(3);
    let mut last = None;
    for _ in 0..30 {
        // JetStream has to choose a leader first.
        last = Some(add(&tenants, "acme").await);
        if matches!(last, Some(Ok(_))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    last.unwrap().unwrap();
    let gone = add(&tenants, "gone").await.unwrap();
    let gone_creds =
        fs::read_to_string(tenants.creds_file("gone", Role::Operator).unwrap()).unwrap();
    strangers_are_no_servers(&folder.path().join("strange"), &home, &servers, &routes, &authority)
        .await;
    servers[2].kill().unwrap();
    // An hour behind: what it pushes counts all the same.
    let two = Tenants::new(home.clone(), Address::plain(&urls[..2].join(",")), "tester")
        .with_clock(|| now() - 3600);
    let mut last = None;
    for _ in 0..30 {
        last = Some(add(&two, "late").await);
        if matches!(last, Some(Ok(_))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    last.unwrap().unwrap();
    two.suspend("acme").await.unwrap();
    two.remove("gone", Duration::ZERO).await.unwrap();
    let mut last = None;
    for _ in 0..30 {
        last = Some(two.purge("gone").await);
        if matches!(last, Some(Ok(()))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    last.unwrap().unwrap();
    // The one that was away takes both from the others when it is back.
    servers[2].restart().unwrap();
    let late = tenants.creds_file("late", Role::Operator).unwrap();
    until("the third knows the new tenant", async || connect(&urls[2], &late).await.is_ok()).await;
    let acme = tenants.creds_file("acme", Role::Operator).unwrap();
    // Within the resolver's interval.
    let back = Instant::now();
    while connect(&urls[2], &acme).await.is_ok() {
        assert!(back.elapsed() < Duration::from_secs(15), "the third lets the suspended one in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("refused by the third {:?} after it knew the new one", back.elapsed());
    // Nor does it bring back who was purged meanwhile, to itself or to the others.
    while connect_text(&urls[2], &gone_creds).await.is_ok() {
        assert!(back.elapsed() < Duration::from_secs(15), "the third lets the purged one in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(6).saturating_sub(back.elapsed())).await;
    let system = fs::read_to_string(home.system_creds()).unwrap();
    for url in &urls {
        assert!(connect_text(url, &gone_creds).await.is_err(), "{url}");
    }
    let client = Address::plain(&urls[0]).connect("test", &system).await.unwrap();
    lets_nobody_in(&Resolver::new(client).lookup(&gone.account).await.unwrap().unwrap());
    for number in 0..3 {
        let file = folder.path().join(format!("jwt-{number}/{}.jwt", gone.account));
        lets_nobody_in(&fs::read_to_string(file).unwrap());
    }
}

/// Each role does its work, and the server has nothing to complain about.
#[tokio::test]
async fn roles_do_their_work_and_no_more() {
    let bed = Bed::new();
    bed.add("acme").await;
    let viewer = bed.connect("acme", Role::Viewer).await;
    let provider = bed.connect("acme", Role::Provider).await;
    let host = bed.connect("acme", Role::HostControl).await;
    let operator = bed.connect("acme", Role::Operator).await;

    // The host keeps its lattice and watches it.
    let js = jetstream::new(host.clone());
    let data = js.get_key_value("LATTICEDATA_acme").await.unwrap();
    let mut watch = data.watch_all().await.unwrap();
    data.put("COMPONENT_x", "{}".into()).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().key, "COMPONENT_x");
    // A provider answers about its links, and a viewer asks.
    let mut status = provider.subscribe("millrace.acme.status").await.unwrap();
    // A request that goes there and back, after which the server knows the subscription.
    jetstream::new(provider.clone()).query_account().await.unwrap();
    let answering = tokio::spawn(async move {
        let request = status.next().await.unwrap();
        provider.publish(request.reply.unwrap(), "fine".into()).await.unwrap();
        provider.flush().await.unwrap();
        provider
    });
    let answer = viewer.request("millrace.acme.status", "".into()).await.unwrap();
    assert_eq!(answer.payload, "fine");
    let provider = answering.await.unwrap();
    // An edge: made, written, read.
    let js = jetstream::new(provider.clone());
    let config = jetstream::stream::Config {
        name: "MILLRACE_acme_p_a_b".into(),
        subjects: vec!["millrace.acme.p.edge.a.b".into()],
        ..Default::default()
    };
    let stream = js.create_stream(config).await.unwrap();
    js.publish("millrace.acme.p.edge.a.b", "x".into()).await.unwrap().await.unwrap();
    let consumer = jetstream::consumer::pull::Config {
        durable_name: Some("stage".into()),
        ..Default::default()
    };
    let consumer = stream.create_consumer(consumer).await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
    let violations = |log: &str| log.matches("Violation - ").count();
    assert_eq!(violations(&bed.server.log()), 0, "{}", bed.server.log());

    // A viewer hears answers to its own questions and to no others.
    let mut ears = Vec::new();
    for subject in ["_INBOX.>", "_INBOX.*.*", ">", "*.>"] {
        ears.push(viewer.subscribe(subject).await.unwrap());
    }
    let inbox = operator.new_inbox();
    ears.push(viewer.subscribe(inbox.clone()).await.unwrap());
    viewer.flush().await.unwrap();
    until("no subscription counts", async || violations(&bed.server.log()) == 5).await;
    provider.publish(inbox, "secret".into()).await.unwrap();
    jetstream::new(operator.clone()).query_account().await.unwrap();
    for mut ear in ears {
        let heard = tokio::time::timeout(Duration::from_millis(100), ear.next()).await;
        assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
    }

    // What they may not.
    let mut attempts = 5;
    for (client, subjects) in [
        (&viewer, vec!["wadm.api.acme.model.del.p", "wadm.api.acme.model.put", "acme.x.wrpc"]),
        (&viewer, vec!["wasmbus.ctl.v1.acme.host.stop.x", "wasmbus.ctl.v1.acme.config.get.x"]),
        (&viewer, vec!["$JS.API.STREAM.DELETE.MILLRACE_acme_p_a_b", "$KV.LATTICEDATA_acme.x"]),
        (&viewer, vec!["$JS.API.CONSUMER.CREATE.MILLRACE_acme_p_a_b", "millrace.acme.p.edge.a.b"]),
        (&viewer, vec!["$JS.API.DIRECT.GET.KV_CONFIGDATA_acme.x", "millrace-audit.acme.platform"]),
        (&operator, vec!["millrace-audit.acme.platform", "$KV.LATTICEDATA_acme.COMPONENT_x"]),
        (
            &operator,
            vec!["$JS.API.STREAM.DELETE.MILLRACE_AUDIT", "$JS.API.STREAM.PURGE.MILLRACE_AUDIT"],
        ),
        (
            &operator,
            vec![
                "$JS.API.STREAM.UPDATE.MILLRACE_AUDIT",
                "$JS.API.STREAM.MSG.DELETE.MILLRACE_AUDIT",
            ],
        ),
        (&operator, vec!["$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING"]),
        (&provider, vec!["wasmbus.ctl.v1.acme.host.stop.x", "wadm.api.acme.model.put"]),
        (&provider, vec!["$JS.API.STREAM.DELETE.KV_LATTICEDATA_acme", "millrace-audit.acme.user"]),
        (&host, vec!["$JS.API.STREAM.DELETE.KV_LATTICEDATA_acme", "$JS.API.STREAM.LIST"]),
        (&host, vec!["millrace.acme.p.edge.a.b", "wadm.api.acme.model.put"]),
    ] {
        for subject in subjects {
            client.publish(subject, "{}".into()).await.unwrap();
            attempts += 1;
        }
        client.flush().await.unwrap();
    }
    until("each attempt is refused", async || violations(&bed.server.log()) == attempts).await;
    // A consumer delivers where its maker may not publish; what it puts into the log is not taken for the platform's.
    let js = jetstream::new(operator.clone());
    let bait = jetstream::stream::Config {
        name: "bait".into(),
        subjects: vec!["millrace.acme.bait".into()],
        ..Default::default()
    };
    let bait = js.create_stream(bait).await.unwrap();
    let forged = r#"{"time":1,"who":"root","what":"tenant.forged","subject":"x","outcome":"ok"}"#;
    js.publish("millrace.acme.bait", forged.into()).await.unwrap().await.unwrap();
    // Also not one of the platform's own entries, with its signature, once more.
    let own = js.get_stream_no_info("MILLRACE_AUDIT").await.unwrap();
    let own = own.get_raw_message(1).await.unwrap();
    let mut signed = async_nats::HeaderMap::new();
    signed.insert("Millrace-Signature", own.headers.get("Millrace-Signature").unwrap().as_str());
    let (headers, payload) = (signed.clone(), own.payload.clone());
    let again = js.publish_with_headers("millrace.acme.bait", headers, payload);
    again.await.unwrap().await.unwrap();
    let consumer = jetstream::consumer::push::Config {
        deliver_subject: "millrace-audit.acme.platform".into(),
        ack_policy: jetstream::consumer::AckPolicy::None,
        ..Default::default()
    };
    let made = bait.create_consumer(consumer).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    made.unwrap();
    let log = jetstream::new(viewer).get_stream("MILLRACE_AUDIT").await.unwrap();
    assert_eq!(log.cached_info().state.messages, 3, "the forged ones are there");
    // Nor what a stream publishes once more, under the log's own subject.
    let again = jetstream::stream::Config {
        name: "again".into(),
        subjects: vec!["millrace.acme.again".into()],
        republish: Some(jetstream::stream::Republish {
            source: "millrace.acme.again".into(),
            destination: "millrace-audit.acme.platform".into(),
            headers_only: false,
        }),
        ..Default::default()
    };
    js.create_stream(again).await.unwrap();
    for (headers, payload) in [(signed, own.payload), (Default::default(), forged.into())] {
        let sent = js.publish_with_headers("millrace.acme.again", headers, payload);
        sent.await.unwrap().await.unwrap();
    }
    until("the forged ones are there", async || log.get_raw_message(5).await.is_ok()).await;
    let last = log.get_raw_message(4).await.unwrap();
    assert_eq!(last.subject.as_str(), "millrace-audit.acme.platform");
    assert!(last.headers.get("Millrace-Signature").is_some());
    // The log itself is whole.
    let page = bed.tenants.audit_page("acme", None, 100).await.unwrap();
    assert_eq!(page.entries.len(), 1, "{:?}", page.entries);
}

/// A tenant that has used up its connections, or its disk, is suspended all the same: there is no room for the entry of its audit log,
/// and the journal says so.
#[tokio::test]
async fn a_tenant_cannot_hold_up_its_suspension() {
    let bed = Bed::new();
    let few = Limits { connections: 16, ..Limits::default() };
    let go = &mut |_| ControlFlow::Continue(());
    bed.tenants.add("acme", &few, &BTreeMap::new(), go).await.unwrap();
    let mut held = Vec::new();
    let creds = bed.tenants.creds_file("acme", Role::Viewer).unwrap();
    while let Ok(client) = connect(&bed.server.url(), &creds).await {
        held.push(client);
        assert!(held.len() <= 16);
    }
    bed.tenants.suspend("acme").await.unwrap();
    for client in &held {
        gone(client).await;
    }
    let journal = bed.tenants.folder("acme").unwrap().join("journal.jsonl");
    let journal = fs::read_to_string(journal).unwrap();
    assert!(
        journal.contains("tenant.suspend") && journal.contains("in the journal alone"),
        "{journal}"
    );
    // Also what is done while nobody can write into the account is shown when it is at work again, and nothing twice.
    bed.tenants.labels("acme", &[("site".to_owned(), "a".to_owned())].into()).await.unwrap();
    bed.tenants.remove("acme", Duration::from_secs(3600)).await.unwrap();
    bed.tenants.remove("acme", Duration::from_secs(60)).await.unwrap();
    bed.tenants.resume("acme").await.unwrap();
    let log = bed.tenants.audit_page("acme", None, 100).await.unwrap().entries;
    let what: Vec<_> = log.iter().map(|logged| (logged.log, logged.entry.what.as_str())).collect();
    let alone = ["tenant.suspend", "tenant.labels", "tenant.remove", "tenant.remove"];
    let of = |wanted: Log| -> Vec<&str> {
        what.iter().filter(|(log, _)| *log == wanted).map(|(_, what)| *what).collect()
    };
    assert_eq!(of(Log::Journal), alone);
    assert_eq!(of(Log::Platform), ["tenant.add", "tenant.resume"]);
}

/// The key that signs was being exchanged, and that was interrupted. Who was given the new key's signature meanwhile, and revoked,
/// stays revoked when it goes on.
#[tokio::test]
async fn who_was_revoked_amid_an_exchange_of_keys_stays_so() {
    let bed = Bed::new();
    bed.add("acme").await;
    let file = bed.tenants.folder("acme").unwrap().join("tenant.json");
    let begun = fs::read_to_string(&file).unwrap();
    let begun = begun.replace(
        "\"signing\": 1,\n  \"signing-before\": null",
        "\"signing\": 2,\n  \"signing-before\": 1",
    );
    assert!(begun.contains("\"signing-before\": 1"), "{begun}");
    fs::write(&file, begun).unwrap();
    let kind = nkeys::KeyPairType::Account;
    bed.home.keys().get_or_make("accounts/acme/signing-2.nk", kind).unwrap();
    bed.tenants.resume("acme").await.unwrap();
    let eve = bed.tenants.creds("acme", Role::Operator, "eve", None).await.unwrap().credentials;
    let client = connect_text(&bed.server.url(), &eve).await.unwrap();
    bed.tenants.revoke("acme", "eve").await.unwrap();
    gone(&client).await;
    bed.tenants.rotate_signing("acme").await.unwrap();
    assert!(connect_text(&bed.server.url(), &eve).await.is_err());
    bed.connect("acme", Role::Operator).await;
}

/// One record that nobody can read is no reason to leave the other tenants alone; and what is due to be deleted is asked again while
/// nobody else can change it.
#[tokio::test]
async fn a_damaged_record_stops_nothing_else() {
    let bed = Bed::new();
    for name in ["acme", "beta", "gone"] {
        bed.add(name).await;
    }
    fs::write(bed.tenants.folder("acme").unwrap().join("tenant.json"), "{").unwrap();
    let (records, errors) = bed.tenants.scan().unwrap();
    let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["beta", "gone"]);
    assert!(errors.len() == 1 && errors[0].to_string().contains("is damaged"), "{errors:?}");
    assert!(bed.tenants.list().is_err());
    // A long journal is no reason either.
    let journal = bed.tenants.folder("gone").unwrap().join("journal.jsonl");
    fs::write(&journal, "x".repeat(5 << 20)).unwrap();
    bed.tenants.remove("gone", Duration::ZERO).await.unwrap();
    bed.tenants.remove("beta", Duration::from_secs(3600)).await.unwrap();
    assert_eq!(bed.tenants.sweep().await.unwrap(), ["gone"]);
    assert_eq!(bed.tenants.get("beta").unwrap().state, State::Removing);
}

/// Who wrote an entry of the audit log is told, whatever the entry says.
#[tokio::test]
async fn what_a_tenant_writes_into_the_audit_log_is_its_own() {
    let bed = Bed::new();
    bed.add("acme").await;
    let js = jetstream::new(bed.connect("acme", Role::Operator).await);
    let entry = r#"{"time":1,"who":"root","what":"tenant.limits","subject":"acme","outcome":"ok","by_tenant":false}"#;
    js.publish("millrace-audit.acme.user", entry.into()).await.unwrap().await.unwrap();
    let log = audit_log(&bed.tenants, "acme").await;
    let by: Vec<(&str, bool)> = log.iter().map(|e| (e.what.as_str(), e.by_tenant)).collect();
    assert_eq!(by, [("tenant.limits", true), ("tenant.add", false)]);
}

/// Whoever has no certificate of the authority is no server of the cluster, though it has the operator's token.
async fn strangers_are_no_servers(
    folder: &std::path::Path,
    home: &Home,
    servers: &[NatsServer],
    routes: &[String],
    authority: &Authority,
) {
    use std::io::{Read, Write};
    // Without TLS: one that does not ask for it greets whoever connects, and answers.
    let mut plain = std::net::TcpStream::connect(&routes[0]).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    plain.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").unwrap();
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard);
    let heard = String::from_utf8_lossy(&heard);
    assert!(!heard.contains("INFO") && !heard.contains("PONG"), "{heard}");
    // With a certificate of another authority, trusting this one.
    let other = Authority::create(&folder.join("tls")).unwrap();
    let own = other.server("route", &["127.0.0.1".to_owned()]).unwrap();
    let (port, route) = (free_port().unwrap(), free_port().unwrap());
    let mut options = ServerOptions::new(home, &format!("127.0.0.1:{port}"));
    options.name = Some("stranger".to_owned());
    options.store = folder.join("store");
    options.jwt = folder.join("jwt");
    options.cluster = Some(Cluster {
        name: "plant".to_owned(),
        listen: format!("127.0.0.1:{route}"),
        routes: routes.to_vec(),
        tls: TlsFiles { authority: authority.file(), ..own },
    });
    options.write(home, &folder.join("stranger.conf")).unwrap();
    let stranger = NatsServer::start_configured(&options.configuration(home), port).unwrap();
    until("the stranger is refused", async || {
        servers.iter().any(|server| server.log().contains("unknown authority"))
    })
    .await;
    let system = fs::read_to_string(home.system_creds()).unwrap();
    let resolver = async |url: String| {
        let client = Address::plain(&url).connect("test", &system).await.unwrap();
        Resolver::new(client).servers().await.unwrap()
    };
    assert!(!resolver(servers[0].url()).await.contains("stranger"));
    assert_eq!(resolver(stranger.url()).await.len(), 1);
}

/// The servers' folder is lost, or an older backup of the installation came back: accounts are pushed, and what was ended since
/// stays so.
#[tokio::test]
async fn a_restored_installation_pushes_its_accounts() {
    let mut bed = Bed::new();
    bed.add("acme").await;
    bed.add("still").await;
    bed.add("gone").await;
    bed.tenants.suspend("still").await.unwrap();
    let backup = fs::read(bed.tenants.folder("acme").unwrap().join("tenant.json")).unwrap();
    let still = fs::read(bed.tenants.folder("still").unwrap().join("tenant.json")).unwrap();
    let gone = bed.tenants.get("gone").unwrap();
    let js = jetstream::new(bed.connect("gone", Role::Operator).await);
    let stream = jetstream::stream::Config { name: "x".into(), ..Default::default() };
    js.create_stream(stream).await.unwrap();
    bed.tenants.remove("gone", Duration::ZERO).await.unwrap();
    assert_eq!(bed.tenants.push_all().await.unwrap().tenants, Vec::<String>::new());

    bed.server.kill().unwrap();
    fs::remove_dir_all(bed.home.jwt_folder()).unwrap();
    fs::create_dir(bed.home.jwt_folder()).unwrap();
    bed.server.restart().unwrap();
    let acme = bed.tenants.creds_file("acme", Role::Operator).unwrap();
    assert!(connect(&bed.server.url(), &acme).await.is_err(), "nobody has pushed yet");
    // A purge needs nothing of what the servers know, and leaves no stream.
    bed.tenants.purge("gone").await.unwrap();
    let store = bed.home.root().join("jetstream/jetstream").join(&gone.account).join("streams");
    until("its streams are gone from the disk", async || {
        fs::read_dir(&store).map_or(0, Iterator::count) == 0
    })
    .await;
    let pushed = bed.tenants.push_all().await.unwrap();
    assert_eq!(pushed.tenants, ["acme", "still"], "{:?}", pushed.failed);
    connect(&bed.server.url(), &acme).await.unwrap();
    let creds = bed.tenants.creds_file("still", Role::Operator).unwrap();
    assert!(connect(&bed.server.url(), &creds).await.is_err());
    assert!(!bed.tenants.push_one("acme").await.unwrap());

    // Ended after the backup was made.
    let eve = bed.tenants.creds("acme", Role::Operator, "eve", None).await.unwrap().credentials;
    bed.tenants.revoke("acme", "eve").await.unwrap();
    bed.tenants.resume("still").await.unwrap();
    bed.tenants.suspend("still").await.unwrap();
    fs::write(bed.tenants.folder("acme").unwrap().join("tenant.json"), backup).unwrap();
    let text = String::from_utf8(still).unwrap().replace("\"suspended\",", "\"active\",");
    let at = text.find("\"suspended\": ").unwrap();
    let end = at + text[at..].find(',').unwrap();
    let text = format!("{}\"suspended\": null{}", &text[..at], &text[end..]);
    fs::write(bed.tenants.folder("still").unwrap().join("tenant.json"), text).unwrap();
    assert_eq!(bed.tenants.get("still").unwrap().state, State::Active);
    bed.tenants.push_all().await.unwrap();
    assert!(connect_text(&bed.server.url(), &eve).await.is_err());
    assert_eq!(bed.tenants.get("still").unwrap().state, State::Suspended);
    assert!(connect(&bed.server.url(), &creds).await.is_err());
    // A record that comes back after its tenant was purged does not bring it back.
    let folder = bed.tenants.folder("gone").unwrap();
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let record = serde_json::to_vec(&gone).unwrap();
    fs::write(folder.join("tenant.json"), record).unwrap();
    fs::set_permissions(folder.join("tenant.json"), fs::Permissions::from_mode(0o600)).unwrap();
    let failed = bed.tenants.push_all().await.unwrap().failed;
    assert!(matches!(&failed[..], [(_, TenantError::Purged(_))]), "{failed:?}");
    bed.tenants.remove("gone", Duration::ZERO).await.unwrap_err();
}

/// A restore without JetStream's files: each tenant has its buckets and its audit log again, and what is done goes into it.
#[tokio::test]
async fn a_restore_without_the_streams_makes_those_that_a_tenant_needs() {
    let mut bed = Bed::new();
    let account = bed.add("acme").await.account;
    let folder = bed.home.root().join("jetstream/jetstream").join(&account);
    let streams = || {
        ["KV_LATTICEDATA_acme", "KV_CONFIGDATA_acme", "MILLRACE_AUDIT", "MILLRACE_AUDIT_USER"]
            .map(|name| folder.join("streams").join(name).is_dir())
    };
    assert_eq!(streams(), [true; 4]);
    let lose = |bed: &mut Bed, jwt: bool| {
        bed.server.kill().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        if jwt {
            fs::remove_dir_all(bed.home.jwt_folder()).unwrap();
            fs::create_dir(bed.home.jwt_folder()).unwrap();
        }
        bed.server.restart().unwrap();
        // As the platform or a command that starts then: with a connection of its own.
        bed.tenants = Tenants::new(bed.home.clone(), Address::plain(&bed.server.url()), "tester");
    };
    // The new machine: neither accounts nor streams.
    lose(&mut bed, true);
    let pushed = bed.tenants.push_all().await.unwrap();
    assert_eq!(pushed.tenants, ["acme"], "{:?}", pushed.failed);
    assert_eq!(streams(), [true; 4]);
    bed.tenants.creds("acme", Role::Operator, "eve", None).await.unwrap();
    // The disk with the streams alone was lost: by hand.
    lose(&mut bed, false);
    assert_eq!(streams(), [false; 4]);
    assert!(!bed.tenants.push_one("acme").await.unwrap());
    assert_eq!(streams(), [true; 4]);
}

/// Each token is later than the one before, whatever the clock says, and also than one that another record pushed.
#[tokio::test]
async fn tokens_are_in_order_though_the_clock_is_not() {
    let bed = Bed::new();
    let account = bed.add("acme").await.account;
    let servers = resolver(&bed).await;
    let issued = async || {
        let token = servers.lookup(&account).await.unwrap().unwrap();
        Claims::<Account>::verify(&token).unwrap().iat
    };
    let mut before = issued().await;
    let behind = Tenants::new(bed.home.clone(), Address::plain(&bed.server.url()), "tester")
        .with_clock(|| now() - 86_400);
    for round in 0..3 {
        behind.suspend("acme").await.unwrap();
        let next = issued().await;
        assert!(next > before, "{round}: {next} after {before}");
        before = next;
        let creds = bed.tenants.creds_file("acme", Role::Operator).unwrap();
        assert!(connect(&bed.server.url(), &creds).await.is_err());
        behind.resume("acme").await.unwrap();
        let next = issued().await;
        assert!(next > before, "{round}: {next} after {before}");
        before = next;
        connect(&bed.server.url(), &creds).await.unwrap();
    }
    assert_eq!(bed.tenants.get("acme").unwrap().pushed, before);
    // Revoked by a clock that is behind the one that issued.
    let eve = bed.tenants.creds("acme", Role::Operator, "eve", None).await.unwrap().credentials;
    behind.revoke("acme", "eve").await.unwrap();
    assert!(connect_text(&bed.server.url(), &eve).await.is_err());
}

/// Those whose tokens have ended are forgotten; the others are bounded before the account's token cannot be pushed.
#[tokio::test]
async fn many_revocations() {
    let bed = Bed::new();
    bed.add("acme").await;
    let file = bed.tenants.folder("acme").unwrap().join("tenant.json");
    let change = |change: &dyn Fn(&mut millrace_lattice_config::tenants::Record)| {
        let mut record = bed.tenants.get("acme").unwrap();
        change(&mut record);
        fs::write(&file, serde_json::to_vec(&record).unwrap()).unwrap();
    };
    let user = || nkeys::KeyPair::new_user().public_key();
    let (old, recent) = (now() - 2 * 86_400, now() - 3600);
    change(&|record| {
        for (count, end) in [(5000, old), (100, recent)] {
            for _ in 0..count {
                let user = user();
                record.revocations.insert(user.clone(), end - 10);
                record.revocation_ends.insert(user, end);
            }
        }
    });
    let eve = bed.tenants.creds("acme", Role::Operator, "eve", None).await.unwrap().credentials;
    bed.tenants.revoke("acme", "eve").await.unwrap();
    assert_eq!(bed.tenants.get("acme").unwrap().revocations.len(), 101);
    assert!(connect_text(&bed.server.url(), &eve).await.is_err());
    // One with an end is kept with it.
    let hour = Some(Duration::from_secs(3600));
    let brief = bed.tenants.creds("acme", Role::Viewer, "brief", hour).await.unwrap().user;
    bed.tenants.revoke("acme", "brief").await.unwrap();
    assert_eq!(bed.tenants.get("acme").unwrap().revocation_ends[&brief.id], brief.expires);

    // As many as there may be. All of them revoked are taken by the server; more users are not made.
    let last = bed.tenants.creds("acme", Role::Operator, "last", None).await.unwrap().credentials;
    change(&|record| {
        while record.revocations.len() < 2399 - record.users.len() {
            record.revocations.insert(user(), now());
        }
    });
    let error = bed.tenants.creds("acme", Role::Operator, "more", None).await.unwrap_err();
    assert!(matches!(error, TenantError::TooManyUsers { .. }), "{error}");
    assert!(error.to_string().contains("millrace tenant rotate acme --signing"), "{error}");
    bed.tenants.rotate_users("acme").await.unwrap();
    assert!(matches!(
        bed.tenants.rotate_users("acme").await,
        Err(TenantError::TooManyUsers { .. })
    ));
    bed.tenants.revoke("acme", "last").await.unwrap();
    assert!(connect_text(&bed.server.url(), &last).await.is_err());
    bed.connect("acme", Role::Wadm).await;
    // The command that the error names.
    bed.tenants.rotate_signing("acme").await.unwrap();
    assert!(bed.tenants.get("acme").unwrap().revocations.is_empty());
    assert!(connect_text(&bed.server.url(), &last).await.is_err());
    bed.tenants.creds("acme", Role::Operator, "more", None).await.unwrap();
}

/// Labels are changed, and a look at all records sees it at once.
#[tokio::test]
async fn labels_change() {
    let bed = Bed::new();
    bed.add("acme").await;
    assert!(bed.tenants.scan().unwrap().0[0].labels.is_empty());
    let labels = BTreeMap::from([("site".to_owned(), "hall-3".to_owned())]);
    bed.tenants.labels("acme", &labels).await.unwrap();
    assert_eq!(bed.tenants.scan().unwrap().0[0].labels, labels);
    let long = BTreeMap::from([("x".repeat(64), String::new())]);
    assert!(matches!(bed.tenants.labels("acme", &long).await, Err(TenantError::Label(_))));
    let many = (0..33).map(|n| (n.to_string(), String::new())).collect();
    assert!(matches!(bed.tenants.labels("acme", &many).await, Err(TenantError::Label(_))));
    bed.tenants.suspend("acme").await.unwrap();
    bed.tenants.labels("acme", &BTreeMap::new()).await.unwrap();
    assert_eq!(bed.tenants.get("acme").unwrap().state, State::Suspended);
    // One that others may read is not taken from what was read before.
    let file = bed.tenants.folder("acme").unwrap().join("tenant.json");
    assert_eq!(bed.tenants.scan().unwrap().0.len(), 1);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(bed.tenants.scan().unwrap().1.len(), 1);
}

/// A whole audit log.
async fn audit_log(tenants: &Tenants, name: &str) -> Vec<Entry> {
    pages(tenants, name, 500).await.0.into_iter().map(|logged| logged.entry).collect()
}

/// The pages of an audit log, one after the other.
async fn pages(tenants: &Tenants, name: &str, limit: usize) -> (Vec<Logged>, Cursor) {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let page = tenants.audit_page(name, from, limit).await.unwrap();
        assert!(page.entries.len() <= limit && (page.more || page.missed == 0));
        all.extend(page.entries);
        from = Some(page.next);
        if !page.more {
            return (all, page.next);
        }
    }
}

#[tokio::test]
async fn the_audit_log_comes_in_pages_with_each_entry_once_and_can_be_read_of_a_suspended_tenant() {
    let bed = Bed::new();
    bed.add("acme").await;
    let anna = bed.tenants.with_who("anna");
    anna.labels("acme", &[("site".to_owned(), "a".to_owned())].into()).await.unwrap();
    anna.purge("acme").await.unwrap_err();
    let js = jetstream::new(bed.connect("acme", Role::Operator).await);
    for time in [1, i64::MAX, 5] {
        let entry = format!(
            r#"{{"time":{time},"who":"x","what":"w","subject":"s","outcome":"ok","by_tenant":false}}"#
        );
        js.publish("millrace-audit.acme.user", entry.into()).await.unwrap().await.unwrap();
    }
    js.publish("millrace-audit.acme.user", "no entry".into()).await.unwrap().await.unwrap();
    for limit in [1, 2, 500] {
        let (all, _) = pages(&bed.tenants, "acme", limit).await;
        let of = |log| all.iter().filter(|e| e.log == log).collect::<Vec<_>>();
        let (platform, tenant, journal) = (of(Log::Platform), of(Log::Tenant), of(Log::Journal));
        let what: Vec<_> = platform.iter().map(|e| (e.sequence, e.entry.who.as_str())).collect();
        assert_eq!(what, [(1, "tester"), (2, "anna")], "{limit}");
        let what: Vec<_> = tenant.iter().map(|e| (e.sequence, e.entry.by_tenant)).collect();
        assert_eq!(what, [(1, true), (2, true), (3, true)], "{limit}");
        let what: Vec<_> = journal.iter().map(|e| e.entry.what.as_str()).collect();
        assert_eq!((what, journal[0].entry.who.as_str()), (vec!["tenant.purge"], "anna"));
        assert_eq!(all.len(), 6);
    }
    // A tenant's engineers read the same, but the journal: with the key that their token names.
    for role in [Role::Operator, Role::Viewer] {
        let creds = fs::read_to_string(bed.tenants.creds_file("acme", role).unwrap()).unwrap();
        let (claims, ..) = read_credentials(&creds).unwrap();
        let signer = claims.nats.tags.iter().find_map(|tag| tag.strip_prefix("audit:")).unwrap();
        let js = jetstream::new(bed.connect("acme", role).await);
        let log = AuditLog::new(js.clone(), "acme", signer).unwrap();
        let first = log.page(None, 3).await.unwrap();
        let second = log.page(Some(first.next), 3).await.unwrap();
        assert!(first.more && !second.more);
        let what = first.entries.iter().chain(&second.entries);
        let what: Vec<_> = what.map(|e| (e.log, e.sequence)).collect();
        let wanted = [(Log::Tenant, 1), (Log::Platform, 1), (Log::Platform, 2)];
        let wanted: Vec<_> =
            wanted.into_iter().chain([(Log::Tenant, 2), (Log::Tenant, 3)]).collect();
        assert_eq!(what, wanted, "{role}");
        // Signed with another key it is nothing.
        let other = nkeys::KeyPair::new_operator().public_key();
        let page = AuditLog::new(js, "acme", &other).unwrap().page(None, 500).await.unwrap();
        assert!(page.entries.iter().all(|e| e.log == Log::Tenant), "{role}");
        assert!(
            AuditLog::new(jetstream::new(bed.connect("acme", role).await), "acme", "x").is_err()
        );
    }
    // What comes later is found from where it ended.
    let (_, end) = pages(&bed.tenants, "acme", 3).await;
    assert!(bed.tenants.audit_page("acme", Some(end), 10).await.unwrap().entries.is_empty());
    bed.tenants.rotate_users("acme").await.unwrap();
    let later = bed.tenants.audit_page("acme", Some(end), 10).await.unwrap();
    assert_eq!(later.entries.len(), 1);
    assert_eq!(
        (later.entries[0].entry.what.as_str(), later.entries[0].sequence),
        ("user.rotate", 3)
    );
    // A stream that was lost and made anew is read from its beginning, wherever one was before.
    let beyond = Some(Cursor::Account { platform: 1000, tenant: 5, journal: u64::MAX });
    let again = bed.tenants.audit_page("acme", beyond, 500).await.unwrap();
    let what: Vec<_> = again.entries.iter().map(|e| (e.log, e.entry.what.as_str())).collect();
    let platform = ["tenant.add", "tenant.labels", "user.rotate"].map(|what| (Log::Platform, what));
    assert!(platform.iter().all(|wanted| what.contains(wanted)), "{what:?}");
    assert_eq!(what.iter().filter(|(log, _)| *log == Log::Journal).count(), 1);
    assert_eq!(what.len(), 4);
    // Nobody may connect; what the platform did can be read.
    bed.tenants.suspend("acme").await.unwrap();
    let refused = bed.tenants.audit_page("acme", Some(end), 10).await;
    assert!(matches!(refused, Err(TenantError::State { .. })));
    let (all, _) = pages(&bed.tenants, "acme", 2).await;
    let what: Vec<&str> = all.iter().map(|e| e.entry.what.as_str()).collect();
    let wanted = ["tenant.add", "tenant.labels", "tenant.purge", "user.rotate", "tenant.suspend"];
    assert_eq!(what, wanted);
    assert!(all.iter().all(|e| e.log == Log::Journal));
}
