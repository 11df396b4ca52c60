//! The server with real clients: who is let in, how much, what is answered, and when.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use hmac::Mac;
use millrace_conformance::{Seen, TestDeadLetters, TestStage};
use millrace_http::{CLIENT_CONNECTIONS, Doors, HttpSource, Patience};
use millrace_kit::{
    CallError, Delivery, Direction, Limits, Link, LinkNames, Policy, Source, Stage, State,
};
use millrace_peers::{Authority, Validity, free_port};
use millrace_settings::from_flat;
use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// For a head, in these tests.
const HEAD: Duration = Duration::from_millis(700);

/// A source that runs.
struct Run {
    link: Arc<Link>,
    stage: Arc<TestStage>,
    dead: Arc<TestDeadLetters>,
    task: JoinHandle<()>,
    url: String,
}

/// One process's servers.
struct Plant {
    doors: Arc<Doors>,
    port: u16,
}

impl Plant {
    fn new() -> Self {
        let patience = Patience { head: HEAD, ..Patience::default() };
        Self { doors: Arc::new(Doors::new(patience)), port: free_port().unwrap() }
    }

    fn start(&self, pipeline: &str, settings: &[(&str, &str)]) -> Run {
        let stage = Arc::new(TestStage::default());
        self.start_to(pipeline, settings, &stage, Arc::clone(&stage) as Arc<dyn Stage>)
    }

    fn start_to(
        &self,
        pipeline: &str,
        settings: &[(&str, &str)],
        seen: &Arc<TestStage>,
        stage: Arc<dyn Stage>,
    ) -> Run {
        let listen = format!("127.0.0.1:{}", self.port);
        let start = [("path", "/in"), ("auth", "none"), ("listen", listen.as_str())];
        let flat: BTreeMap<String, String> = start
            .iter()
            .chain(settings)
            .map(|(field, value)| ((*field).to_owned(), (*value).to_owned()))
            .collect();
        let names =
            LinkNames { pipeline: pipeline.into(), name: "in".into(), stage: "stage".into() };
        let link = Arc::new(Link::new(names, Direction::Source));
        let limits = Limits { messages: 50, bytes: 128 << 10, linger: Duration::from_millis(1) };
        let policy = Policy {
            in_flight: 4,
            call_timeout: Duration::from_secs(600),
            attempts: 1,
            suspect_after: 1,
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(100),
        };
        let dead = Arc::new(TestDeadLetters::default());
        let delivery = Delivery::new(stage, dead.clone(), link.clone(), policy);
        let settings = from_flat(&flat, &[]).unwrap();
        let source = Box::new(HttpSource::new(settings, limits, Arc::clone(&self.doors)));
        let task = tokio::spawn(source.run(link.clone(), Arc::new(delivery)));
        let url = format!("http://{listen}{}", flat["path"]);
        Run { link, stage: seen.clone(), dead, task, url }
    }

    async fn started(&self, pipeline: &str, settings: &[(&str, &str)]) -> Run {
        let run = self.start(pipeline, settings);
        run.reaches(State::Connected).await;
        run
    }

    /// What comes back for these bytes, until the connection ends.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is reset has said what it had to say.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it stays open");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Run {
    async fn reaches(&self, state: State) {
        let start = Instant::now();
        while self.link.state() != state {
            assert!(start.elapsed() < PATIENCE, "not {state:?}: {:?}", self.link.status());
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn payloads(&self) -> Vec<String> {
        let text = |seen: Seen| String::from_utf8(seen.payload).unwrap();
        self.stage.seen().into_iter().map(text).collect()
    }

    async fn drained(self) {
        self.link.start_drain();
        timeout(PATIENCE, self.task).await.expect("it does not end").unwrap();
    }
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

async fn status(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_share_a_server_and_none_takes_the_path_of_another() {
    let plant = Plant::new();
    let one = plant.started("one", &[("path", "/machines/{machine}"), ("key", "machine")]).await;
    let two = plant.started("two", &[("path", "/machines/special"), ("methods", "PUT,POST")]).await;
    let client = client();
    let base = format!("http://127.0.0.1:{}", plant.port);
    for (path, body) in
        [("/machines/m%201", "a"), ("/machines/special", "b"), ("/machines/x?y=z", "c")]
    {
        assert_eq!(status(client.post(format!("{base}{path}")).body(body)).await, 202, "{path}");
    }
    assert_eq!(status(client.put(format!("{base}/machines/special")).body("d")).await, 202);
    let seen = one.stage.seen();
    assert_eq!(one.payloads(), ["a", "c"]);
    assert_eq!((seen[0].topic.as_str(), seen[0].header("machine")), ("machines/m 1", Some("m 1")));
    assert_eq!(seen[0].key.as_deref(), Some(b"m 1".as_slice()));
    assert_eq!(two.payloads(), ["b", "d"]);

    let third = plant.start("third", &[("path", "/machines/{other}")]);
    third.reaches(State::Retrying).await;
    let error = third.link.status().error.unwrap();
    assert!(
        error.contains("source in of the pipeline one") && error.contains("/machines/"),
        "{error}"
    );
    // It gets the path when the first has left.
    one.drained().await;
    third.reaches(State::Connected).await;
    assert_eq!(status(client.post(format!("{base}/machines/7")).body("e")).await, 202);
    assert_eq!(third.payloads(), ["e"]);
    third.drained().await;
    two.drained().await;
    assert!(client.post(&base).send().await.is_err(), "nobody listens when the last has left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_somebody_else_has_is_said_and_taken_when_it_is_free() {
    let plant = Plant::new();
    let other = tokio::net::TcpListener::bind(("127.0.0.1", plant.port)).await.unwrap();
    let run = plant.start("p", &[]);
    run.reaches(State::Retrying).await;
    let error = run.link.status().error.unwrap();
    assert!(
        error.contains(&format!("127.0.0.1:{}", plant.port)) && error.contains("in use"),
        "{error}"
    );
    drop(other);
    run.reaches(State::Connected).await;
    run.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_a_token_is_let_in_and_tokens_are_renewed() {
    let plant = Plant::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let settings = [("auth", "bearer"), ("token-file", file.to_str().unwrap())];
    let run = plant.start("p", &settings);
    run.reaches(State::Retrying).await;
    let error = run.link.status().error.unwrap();
    assert!(error.contains("token-file") && error.contains("tokens"), "{error}");
    replace(&file, "s3cret-one\n");
    run.reaches(State::Connected).await;

    let client = client();
    let send = |token: &str| client.post(&run.url).bearer_auth(token).body("x");
    assert_eq!(status(send("s3cret-one")).await, 202);
    for refused in [
        send("s3cret-two"),
        client.post(&run.url),
        client.post(&run.url).basic_auth("s3cret-one", None::<&str>),
    ] {
        let answer = refused.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer.text().await.unwrap(), "{\"title\":\"not let in\",\"status\":401}\n");
    }
    replace(&file, "s3cret-one\ns3cret-two\n");
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!((status(send("s3cret-one")).await, status(send("s3cret-two")).await), (202, 202));
    replace(&file, "s3cret-two\n");
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!((status(send("s3cret-one")).await, status(send("s3cret-two")).await), (401, 202));
    std::fs::remove_file(&file).unwrap();
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(status(send("s3cret-two")).await, 503, "what is gone lets nobody in");
    let shown = format!("{:?}", run.link.status());
    assert!(shown.contains("not let in") || shown.contains("come again"), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(run.payloads().len(), 4);
    run.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_taken_as_it_was_signed() {
    let plant = Plant::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "shared\n").unwrap();
    let settings = [("auth", "hmac"), ("token-file", file.path().to_str().unwrap())];
    let run = plant.started("p", &settings).await;
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"shared").unwrap();
    mac.update(b"{\"paid\":1}");
    let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let signed = |body: &'static str| {
        client().post(&run.url).header("X-Hub-Signature-256", format!("sha256={hex}")).body(body)
    };
    assert_eq!(status(signed("{\"paid\":1}")).await, 202);
    assert_eq!(status(signed("{\"paid\":9}")).await, 401);
    assert_eq!(status(client().post(&run.url).body("{\"paid\":1}")).await, 401);
    assert_eq!(run.payloads(), ["{\"paid\":1}"]);
    run.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_of_the_wrong_kind_or_nowhere_is_refused() {
    let plant = Plant::new();
    let run = plant
        .started("p", &[("max-body-bytes", "1000"), ("content-types", "application/json")])
        .await;
    let client = client();
    let json =
        |body: Vec<u8>| client.post(&run.url).header("content-type", "application/json").body(body);
    assert_eq!(status(json(vec![b'1'; 1_000])).await, 202);
    assert_eq!(status(json(vec![b'1'; 1_001])).await, 413);
    assert_eq!(status(json(vec![b'1'; 3 << 20])).await, 413, "the client reads the answer");
    let chunked = "POST /in HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\
                   Connection: close\r\n\r\n";
    let chunks = |count: usize| {
        "64\r\n".to_owned()
            + &"1".repeat(100)
            + "\r\n"
            + &("64\r\n".to_owned() + &"1".repeat(100) + "\r\n").repeat(count - 1)
            + "0\r\n\r\n"
    };
    assert!(
        plant.raw(format!("{chunked}{}", chunks(10)).as_bytes()).await.starts_with("HTTP/1.1 202")
    );
    assert!(
        plant.raw(format!("{chunked}{}", chunks(11)).as_bytes()).await.starts_with("HTTP/1.1 413")
    );
    assert_eq!(status(client.post(&run.url).body("1")).await, 415);
    assert_eq!(status(json(vec![b'1']).header("content-encoding", "gzip")).await, 415);
    let answer = client.get(&run.url).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"POST".parse().unwrap())
    );
    for path in ["", "/", "/other", "/in/", "/in/x", "/IN", "//in", "/./in"] {
        let line = format!(
            "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            if path.is_empty() { "*" } else { path }
        );
        let answer = plant.raw(line.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let long = format!(
        "POST /{} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "a".repeat(3_000)
    );
    assert!(plant.raw(long.as_bytes()).await.starts_with("HTTP/1.1 414"));
    let head = format!("POST /in HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "a".repeat(40_000));
    assert!(plant.raw(head.as_bytes()).await.starts_with("HTTP/1.1 431"));
    for garbage in [
        &b"\x16\x03\x01\x00\xa5\x01"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /in HTTP/9.9\r\n\r\n",
        b"POST /in HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /in HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let answer = plant.raw(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(run.stage.seen().len(), 2);
    run.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_and_each_client_have_a_rate() {
    let plant = Plant::new();
    let slow = plant.started("slow", &[("path", "/slow"), ("rate-limit", "5")]).await;
    let shared = plant.started("each", &[("path", "/each"), ("client-rate-limit", "5")]).await;
    let client = client();
    for run in [&slow, &shared] {
        let mut statuses = BTreeMap::new();
        for _ in 0..12 {
            let answer = client.post(&run.url).body("x").send().await.unwrap();
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                assert_eq!(answer.headers()["retry-after"], "1");
            }
            *statuses.entry(answer.status().as_u16()).or_insert(0) += 1;
        }
        assert!((5..=8).contains(&statuses[&202]) && statuses[&429] >= 4, "{statuses:?}");
        assert_eq!(run.stage.seen().len(), statuses[&202]);
    }
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(status(client.post(&slow.url).body("x")).await, 202);
    slow.drained().await;
    shared.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_sent_away() {
    let plant = Plant::new();
    let run = plant.started("p", &[("read-timeout", "500ms")]).await;
    // A head that never ends, a byte now and then.
    let mut stream = TcpStream::connect(("127.0.0.1", plant.port)).await.unwrap();
    stream.write_all(b"POST /in HTTP/1.1\r\nHost: a\r\n").await.unwrap();
    let start = Instant::now();
    while stream.write_all(b"X: y\r\n").await.is_ok() {
        assert!(start.elapsed() < HEAD * 5, "a head may take for ever");
        sleep(Duration::from_millis(50)).await;
    }
    // A body that never comes.
    let answer = plant.raw(b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("connection: close"), "{answer}");
    // A body that breaks off.
    let mut stream = TcpStream::connect(("127.0.0.1", plant.port)).await.unwrap();
    stream
        .write_all(b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        .await
        .unwrap();
    drop(stream);
    assert_eq!(status(client().post(&run.url).body("whole")).await, 202);
    assert_eq!(run.payloads(), ["whole"]);
    run.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_client_are_bounded() {
    let plant = Plant::new();
    let run = plant.started("p", &[]).await;
    let connect = || TcpStream::connect(("127.0.0.1", plant.port));
    let mut all = Vec::new();
    for _ in 0..CLIENT_CONNECTIONS {
        all.push(connect().await.unwrap());
    }
    let mut one_more = connect().await.unwrap();
    let ended = timeout(HEAD / 2, one_more.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "it stays: {ended:?}");
    drop(all);
    let start = Instant::now();
    while client().post(&run.url).body("x").send().await.is_err() {
        assert!(start.elapsed() < PATIENCE, "places are not given back");
    }
    run.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_as_safe_before_it_is() {
    let plant = Plant::new();
    let run = plant.started("p", &[("timeout", "300ms"), ("window", "3")]).await;
    let client = client();
    run.stage.hold(true);
    let send = |body: &'static str| client.post(&run.url).body(body).send();
    let start = Instant::now();
    for answer in futures::future::join_all(["a", "b", "c"].map(send)).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "1");
    }
    assert!(start.elapsed() >= Duration::from_millis(300));
    // The window is full: this one does not wait.
    let start = Instant::now();
    assert_eq!(send("d").await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
    assert!(run.stage.safe().is_empty());
    run.stage.hold(false);
    let start = Instant::now();
    while run.stage.safe().len() < 3 {
        assert!(start.elapsed() < PATIENCE, "what was taken is lost: {:?}", run.payloads());
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(send("e").await.unwrap().status(), StatusCode::ACCEPTED);
    let mut safe: Vec<String> = run.payloads();
    safe.sort();
    assert_eq!(safe, ["a", "b", "c", "e"]);
    run.drained().await;
}

/// A stage that wants everything again, for ever.
struct Never;

impl Stage for Never {
    fn call<'a>(&'a self, _: Bytes, _: Option<&'a str>) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(std::future::ready(Err(CallError::Retry("not this".to_owned()))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_as_a_dead_letter_is_safe() {
    let plant = Plant::new();
    let run = plant.start_to("p", &[], &Arc::default(), Arc::new(Never));
    run.reaches(State::Connected).await;
    assert_eq!(status(client().post(&run.url).body("bad")).await, 202);
    assert_eq!(run.dead.letters()[0].payload, b"bad");
    run.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_source_answers_what_it_has_and_tells_others_to_come_again() {
    let plant = Plant::new();
    let stays = plant.started("stays", &[("path", "/stays")]).await;
    let run = plant.started("goes", &[]).await;
    let client = client();
    run.stage.hold(true);
    let held = tokio::spawn(client.post(&run.url).body("held").send());
    let start = Instant::now();
    while run.stage.seen().is_empty() {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    run.link.start_drain();
    let answer = client.post(&run.url).body("late").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["connection"], "close");
    run.stage.hold(false);
    assert_eq!(held.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
    let (url, stage) = (run.url.clone(), run.stage.clone());
    run.drained().await;
    assert_eq!(stage.safe().len(), 1);
    // Its successor may be about to come.
    assert_eq!(status(client.post(&url).body("x")).await, 503);
    let next = plant.started("goes", &[]).await;
    assert_eq!(status(client.post(&url).body("y")).await, 202);
    // The last one at a server answers too, before it ends.
    stays.drained().await;
    next.stage.hold(true);
    let held = tokio::spawn(client.post(&url).body("last").send());
    let start = Instant::now();
    while next.stage.seen().len() < 2 {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    next.link.start_drain();
    next.stage.hold(false);
    next.drained().await;
    assert_eq!(held.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_leaves_says_that_it_has_not_kept_what_it_had() {
    let plant = Plant::new();
    let run = plant.started("p", &[]).await;
    run.stage.hold(true);
    let held = tokio::spawn(client().post(&run.url).body("held").send());
    let start = Instant::now();
    while run.stage.seen().is_empty() {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    run.link.start_drain();
    run.link.leave.cancel();
    timeout(Duration::from_secs(5), run.task).await.expect("it does not leave").unwrap();
    assert_eq!(held.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_several_messages_is_safe_when_all_of_them_are() {
    let plant = Plant::new();
    let lines =
        plant.started("lines", &[("path", "/lines"), ("split", "lines"), ("window", "100")]).await;
    let array = plant
        .started("array", &[("path", "/array"), ("split", "json-array"), ("window", "100")])
        .await;
    let client = client();
    let many: String = (0..250).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let request = client.post(&lines.url).header("Idempotency-Key", "k").body(many);
    assert_eq!(status(request).await, 202, "more than the window alone fill it");
    let safe = lines.stage.safe();
    assert_eq!(safe.len(), 250);
    let keys: std::collections::BTreeSet<_> =
        safe.iter().map(|m| m.header("idempotency-key")).collect();
    assert!(keys.len() == 250 && keys.contains(&Some("k/249")), "{keys:?}");
    assert_eq!(status(client.post(&array.url).body("[1, {\"a\":[2]}]")).await, 202);
    assert_eq!(array.payloads(), ["1", "{\"a\":[2]}"]);
    assert_eq!(array.stage.seen()[0].content_type.as_deref(), Some("application/json"));
    for (body, wanted) in [("[]", 202), ("[1,", 400), ("{}", 400), ("", 400)] {
        assert_eq!(status(client.post(&array.url).body(body)).await, wanted, "{body}");
    }
    let many = format!("[{}1]", "1,".repeat(10_000));
    assert_eq!(status(client.post(&array.url).body(many)).await, 413);
    assert_eq!(array.payloads().len(), 2);
    lines.drained().await;
    array.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_and_is_one_for_all_at_an_address() {
    let plant = Plant::new();
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| Authority::new(folder.path(), name).unwrap());
    let (cert, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    let install = |authority: &Authority| {
        let made = authority.sign("127.0.0.1", Validity::Valid).unwrap();
        std::fs::copy(made.key, &key).unwrap();
        std::fs::copy(made.certificate, &cert).unwrap();
    };
    install(&old);
    let settings =
        [("tls-cert-file", cert.to_str().unwrap()), ("tls-key-file", key.to_str().unwrap())];
    let run = plant.started("p", &settings).await;
    let url = run.url.replace("http:", "https:");
    let trusting = |authority: &Authority| {
        let pem = std::fs::read(authority.file()).unwrap();
        let certificate = reqwest::Certificate::from_pem(&pem).unwrap();
        Client::builder()
            .no_proxy()
            .tls_built_in_root_certs(false)
            .add_root_certificate(certificate)
            .build()
            .unwrap()
    };
    assert_eq!(status(trusting(&old).post(&url).body("a")).await, 202);
    assert!(trusting(&new).post(&url).send().await.is_err());
    assert!(client().post(&run.url).send().await.is_err(), "nothing in clear");
    let plain = plant.start("plain", &[("path", "/plain")]);
    plain.reaches(State::Retrying).await;
    let error = plain.link.status().error.unwrap();
    assert!(error.contains("tls-cert-file") && error.contains("pipeline p"), "{error}");

    install(&new);
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(status(trusting(&new).post(&url).body("b")).await, 202);
    assert!(trusting(&old).post(&url).send().await.is_err());
    // One that cannot be used is not shown: the one before it is.
    std::fs::write(&cert, "no certificate").unwrap();
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(status(trusting(&new).post(&url).body("c")).await, 202);
    assert_eq!(run.payloads(), ["a", "b", "c"]);
    plain.drained().await;
    run.drained().await;
}

/// Prints what a server takes of small requests over 32 connections: `--nocapture` shows it.
#[tokio::test(flavor = "multi_thread")]
async fn many_requests_over_few_connections_are_all_safe() {
    const CONNECTIONS: usize = 32;
    const EACH: usize = 1_000;
    let plant = Plant::new();
    let run = plant.started("p", &[("rate-limit", "1000000")]).await;
    let start = Instant::now();
    let senders = (0..CONNECTIONS).map(|_| {
        let port = plant.port;
        tokio::spawn(async move {
            let request = format!(
                "POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n{}",
                "x".repeat(200)
            );
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let mut answer = vec![0; 4_096];
            for _ in 0..EACH {
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut length = 0;
                while !answer[..length].ends_with(b"\r\n\r\n") {
                    let read = stream.read(&mut answer[length..]).await.unwrap();
                    assert!(read > 0, "it has closed");
                    length += read;
                }
                assert!(answer.starts_with(b"HTTP/1.1 202"));
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let took = start.elapsed();
    let rate = (CONNECTIONS * EACH) as f64 / took.as_secs_f64();
    println!(
        "{rate:.0} requests of 200 B a second over {CONNECTIONS} connections, each answered when it was safe"
    );
    assert_eq!(run.stage.safe().len(), CONNECTIONS * EACH);
    run.drained().await;
}
