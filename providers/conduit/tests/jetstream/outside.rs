//! What steps ask for, against a real nats-server and a real server of HTTP.

use millrace_conduit::{Buckets, Http, Outside};
use millrace_grants::{Failure, FailureKind, Reply, Request, Use, VALUE_MAX};
use millrace_kit::Uses;
use millrace_peers::WebServer;

use super::*;

fn outside(client: &async_nats::Client, grants: &[(&str, &[&str])]) -> (Outside, Arc<Link>) {
    let link = link("out", "first", Direction::Sink);
    let grants = grants.iter().map(|(step, grants)| {
        ((*step).to_owned(), grants.iter().map(|grant| grant.parse().unwrap()).collect())
    });
    let buckets = Buckets::of(client, "test");
    (Outside::new(grants.collect(), buckets, Http::new(), link.clone()), link)
}

async fn ask(outside: &Outside, step: &str, what: Use) -> Result<Reply, Failure> {
    let bytes = Request { step: step.to_owned(), what: what.clone() }.encode().unwrap();
    let answer = outside.answer(&bytes).await.map_err(Failure::from)?;
    Ok(Reply::decode(&what, &answer).unwrap())
}

fn get(bucket: &str, keys: &[&str]) -> Use {
    let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    Use::Get { bucket: bucket.to_owned(), keys }
}

fn set(bucket: &str, key: &str, value: &[u8]) -> Use {
    Use::Set { bucket: bucket.to_owned(), key: key.into(), value: value.to_vec() }
}

fn http(method: &str, url: &str) -> Use {
    Use::Http { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new() }
}

fn uses(link: &Link, step: &str) -> Uses {
    link.status().counters.uses.get(step).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_kept_and_shared() {
    let server = NatsServer::start().unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let (first, link) = outside(&client, &[("a", &["kv:limits"]), ("b", &["kv:read:limits"])]);
    // Also of a bucket that nobody has made.
    let none = Reply::Values(vec![None, None]);
    assert_eq!(ask(&first, "b", get("limits", &["press 1", ""])).await.unwrap(), none);
    for (key, value) in [("press 1", "85"), ("", "nothing"), ("a.b/c", "90")] {
        assert_eq!(
            ask(&first, "a", set("limits", key, value.as_bytes())).await.unwrap(),
            Reply::Done
        );
    }
    // Another provider's process sees them.
    let (second, _) = outside(&client, &[("b", &["kv:read:limits"])]);
    let values = ["90", "85", "nothing"].map(|value| Some(value.as_bytes().to_vec()));
    let [x, y, z] = values.clone();
    let got = ask(&second, "b", get("limits", &["a.b/c", "press 1", "", "other"])).await.unwrap();
    assert_eq!(got, Reply::Values(vec![x, y, z, None]));
    let delete = Use::Delete { bucket: "limits".into(), key: b"press 1".to_vec() };
    assert_eq!(ask(&first, "a", delete).await.unwrap(), Reply::Done);
    let got = ask(&second, "b", get("limits", &["press 1"])).await.unwrap();
    assert_eq!(got, Reply::Values(vec![None]));
    assert_eq!((uses(&link, "a").done, uses(&link, "b").done), (4, 1));

    let buckets = Buckets::of(&client, "test");
    assert_eq!(buckets.list().await.unwrap(), ["limits"]);
    let mut keys = buckets.keys("limits").await.unwrap();
    keys.sort();
    assert_eq!(keys, [b"".to_vec(), b"a.b/c".to_vec()]);
    // Another lattice has buckets of its own.
    assert!(Buckets::of(&client, "other").list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_refused_and_counted_by_step() {
    let server = NatsServer::start().unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let (outside, link) =
        outside(&client, &[("a", &["kv:read:b"]), ("b", &["http:get:a.example"])]);
    let refused = async |step: &str, what: Use| {
        let failure = ask(&outside, step, what).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
        failure.text
    };
    assert!(refused("a", set("b", "k", b"v")).await.contains("the grant would be `kv:b`"));
    assert!(refused("a", get("c", &["k"])).await.contains("`kv:read:c`"));
    assert!(refused("a", http("get", "http://a.example/")).await.contains("to step `a`"));
    assert!(refused("b", get("b", &["k"])).await.contains("to step `b`"));
    assert!(refused("b", http("post", "http://a.example/")).await.contains("http:post:a.example"));
    assert_eq!((uses(&link, "a").refused, uses(&link, "b").refused), (3, 2));
    assert!(uses(&link, "b").last_refusal.unwrap().contains("POST to `a.example:80`"));
    // Somebody who invents names gets nothing by it, and no counter for each.
    for number in 0..50 {
        refused(&format!("invented-{number}"), get("b", &["k"])).await;
    }
    let counters = link.status().counters;
    assert_eq!(counters.uses.keys().collect::<Vec<_>>(), ["a", "b", "first"]);
    assert_eq!(counters.uses["first"].refused, 50);
    // What is no request.
    for bytes in [&b""[..], b"hello", &[0; 2_000_000]] {
        let failure = Failure::from(outside.answer(bytes).await.unwrap_err());
        assert_eq!(failure.kind, FailureKind::Invalid, "{failure}");
    }
    // Nor does reading make a bucket.
    assert_eq!(ask(&outside, "a", get("b", &["k"])).await.unwrap(), Reply::Values(vec![None]));
    assert!(Buckets::of(&client, "test").list().await.unwrap().is_empty(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_a_reason_to_try_again() {
    let mut server = NatsServer::start().unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let (outside, link) = outside(&client, &[("a", &["kv:b"])]);
    ask(&outside, "a", set("b", "k", b"v")).await.unwrap();
    server.kill().unwrap();
    let failure = ask(&outside, "a", get("b", &["k"])).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Away, "{failure}");
    assert!(uses(&link, "a").last_failure.unwrap().contains("reading of bucket `b`"));
    server.restart().unwrap();
    let start = Instant::now();
    let value = loop {
        match ask(&outside, "a", get("b", &["k"])).await {
            Ok(reply) => break reply,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
        }
    };
    assert_eq!(value, Reply::Values(vec![Some(b"v".to_vec())]));
    // Somebody deletes the bucket: nothing is in it, and what is set makes it again.
    let js = jetstream::new(client.clone());
    js.delete_key_value(Buckets::name("test", "b")).await.unwrap();
    let start = Instant::now();
    while ask(&outside, "a", get("b", &["k"])).await != Ok(Reply::Values(vec![None])) {
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    ask(&outside, "a", set("b", "k", b"again")).await.unwrap();
    let got = ask(&outside, "a", get("b", &["k"])).await.unwrap();
    assert_eq!(got, Reply::Values(vec![Some(b"again".to_vec())]));
    let buckets = Buckets::of(&client, "test");
    buckets.remove("b").await.unwrap();
    assert!(buckets.list().await.unwrap().is_empty());
}

/// Nothing of a pipeline can have the name of a bucket, or a prefix of it: whoever clears away what a pipeline leaves behind
/// takes no bucket with it.
#[test]
fn no_pipeline_has_the_name_of_a_bucket() {
    for name in ["", "state", "kv"] {
        assert!(!Buckets::name("l", name).starts_with("MILLRACE_"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_do_not_fit_into_one_answer_are_asked_for_in_parts() {
    let server = NatsServer::start().unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let (outside, link) = outside(&client, &[("a", &["kv:b"])]);
    let value = vec![7; VALUE_MAX];
    for key in ["x", "y"] {
        ask(&outside, "a", set("b", key, &value)).await.unwrap();
    }
    let failure = ask(&outside, "a", get("b", &["x", "y"])).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooLarge, "{failure}");
    let one = ask(&outside, "a", get("b", &["x"])).await.unwrap();
    assert_eq!(one, Reply::Values(vec![Some(value)]));
    assert_eq!(uses(&link, "a").failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_server_that_is_granted_and_no_further() {
    let server = NatsServer::start().unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("folder")).unwrap();
    std::fs::write(files.path().join("limits.json"), br#"{"limit":85}"#).unwrap();
    std::fs::write(files.path().join("large"), vec![b'x'; VALUE_MAX + 1]).unwrap();
    let web = WebServer::start(files.path()).unwrap();
    let host = web.host();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let grants = ["get", "post"].map(|method| format!("http:{method}:{host}"));
    let others = [format!("http:get:127.0.0.1:{silent_port}"), "http:get:127.0.0.1:1".to_owned()];
    let grants: Vec<&str> = grants.iter().chain(&others).map(String::as_str).collect();
    let (outside, link) = outside(&client, &[("a", &grants)]);

    let ok = async |what| match ask(&outside, "a", what).await.unwrap() {
        Reply::Http { status, headers, body } => (status, headers, body),
        other => panic!("{other:?}"),
    };
    let (status, headers, body) = ok(http("get", &format!("http://{host}/limits.json"))).await;
    assert_eq!((status, &body[..]), (200, &br#"{"limit":85}"#[..]));
    assert!(headers.contains(&("content-type".to_owned(), "application/json".to_owned())));
    assert_eq!(ok(http("get", &format!("http://{host}/none"))).await.0, 404);
    assert_eq!(ok(http("post", &format!("http://{host}/limits.json"))).await.0, 501);
    // A redirect is an answer, and nobody follows it.
    assert_eq!(ok(http("get", &format!("http://{host}/folder"))).await.0, 301);
    assert_eq!(uses(&link, "a").done, 4);

    let failed = async |what, kind: FailureKind, says: &str| {
        let failure = ask(&outside, "a", what).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.text.contains(says), "{failure}");
        assert!(!failure.text.contains("secret"), "{failure}");
    };
    failed(http("get", &format!("http://{host}/large")), FailureKind::Invalid, "more than").await;
    failed(http("get", "http://127.0.0.1:1/?secret"), FailureKind::Away, "refused").await;
    failed(http("get", &format!("https://{host}/")), FailureKind::Away, "").await;
    let started = Instant::now();
    let silent = http("get", &format!("http://127.0.0.1:{silent_port}/?secret"));
    failed(silent, FailureKind::Retry, "timed out").await;
    assert!(started.elapsed() < Duration::from_millis(3_000));
    // A header that would be the connection's, and one that would begin another.
    for (name, value) in [("Host", "other"), ("content-length", "1"), ("x", "a\r\nHost: other")] {
        let mut with = http("get", &format!("http://{host}/limits.json"));
        if let Use::Http { headers, .. } = &mut with {
            headers.push((name.to_owned(), value.to_owned()));
        }
        failed(with, FailureKind::Invalid, "header field").await;
    }
}

/// A machine that is switched off, or behind a firewall, does not even refuse: what is asked of it waits, and is not given up as
/// it is with a server that has taken the request and is slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_connection_is_away() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // One connection waits to be accepted, and the kernel drops what comes after it.
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let _waits = tokio::net::TcpStream::connect(address).await.unwrap();
    let started = Instant::now();
    let asked = Http::new();
    let failure = asked.send("get", &format!("http://{address}/"), &[], b"").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Away, "{failure}");
    assert!(started.elapsed() < Duration::from_millis(2_800));
}

/// What a step must not know is put in by the conduit: read at each request, in place of what the step says.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_a_server_is_sent_and_not_told() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    // It answers with how long the header is, and never with what is in it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let taken = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let sent = request.lines().filter_map(|l| l.strip_prefix("authorization: "));
            taken.lock().push(sent.map(str::to_owned).collect::<Vec<_>>());
            let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let server = millrace_settings::Server {
        authorization_file: Some(file.to_str().unwrap().to_owned()),
        tls_ca_file: None,
        allow_plain: true,
    };
    let http_client = Http::new().for_servers([(host.clone(), server)].into());
    let send = async |headers: &[(String, String)]| {
        http_client.send("get", &format!("http://{host}/"), headers, b"").await
    };
    let failure = send(&[]).await.unwrap_err();
    assert!(failure.kind == FailureKind::Away && failure.text.contains("authorization-file"));
    assert!(!failure.text.contains("token"), "{failure}");
    std::fs::write(&file, "Bearer one\n").unwrap();
    send(&[]).await.unwrap();
    std::fs::write(&file, "Bearer two").unwrap();
    send(&[("Authorization".to_owned(), "Bearer mine".to_owned())]).await.unwrap();
    std::fs::write(&file, "").unwrap();
    assert!(send(&[]).await.unwrap_err().text.contains("empty"));
    std::fs::write(&file, "two\nlines").unwrap();
    assert!(send(&[]).await.is_err());
    assert_eq!(*seen.lock(), [["Bearer one"], ["Bearer two"]]);
    // Another port is another server, which is told nothing.
    let other = WebServer::start(folder.path()).unwrap();
    std::fs::remove_file(&file).unwrap();
    http_client.send("get", &format!("http://{}/", other.host()), &[], b"").await.unwrap();

    // Authorities that are none are said.
    let server = millrace_settings::Server {
        authorization_file: None,
        allow_plain: false,
        tls_ca_file: Some(folder.path().join("none.pem").to_str().unwrap().to_owned()),
    };
    let wary = Http::new().for_servers([("a.example".to_owned(), server)].into());
    let failure = wary.send("get", "https://a.example/", &[], b"").await.unwrap_err();
    assert!(failure.text.contains("tls-ca-file"), "{failure}");
    // Nothing that is confidential goes over a line that everybody can read.
    let failure = wary.send("get", "http://a.example/", &[], b"").await.unwrap_err();
    assert!(
        failure.kind == FailureKind::Invalid && failure.text.contains("allow-plain"),
        "{failure}"
    );
}

/// What enriching costs: not a test of speed, but of the order of it.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_values_are_one_request_of_milliseconds() {
    let server = NatsServer::start().unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let (outside, _) = outside(&client, &[("a", &["kv:b"])]);
    let keys: Vec<String> = (0..500).map(|n| format!("machine-{n}")).collect();
    for key in &keys {
        ask(&outside, "a", set("b", key, key.as_bytes())).await.unwrap();
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        let Reply::Values(values) = ask(&outside, "a", get("b", &keys)).await.unwrap() else {
            panic!()
        };
        best = best.min(started.elapsed());
        assert!(values.iter().zip(&keys).all(|(v, k)| v.as_deref() == Some(k.as_bytes())));
    }
    println!("500 values: {best:?}");
    assert!(best < Duration::from_millis(500), "{best:?}");
}
