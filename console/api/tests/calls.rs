//! Every call, against a real server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use millrace_api::{Api, Rate, Server};
use millrace_lattice_config::Home;
use millrace_lattice_config::ca::Authority;
use millrace_lattice_config::resolver::Address;
use millrace_lattice_config::server::ServerOptions;
use millrace_lattice_config::tenants::Tenants;
use millrace_lattice_config::tokens::{Access, Tokens};
use millrace_peers::{NatsServer, free_port};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Bed {
    folder: TempDir,
    home: Home,
    nats: NatsServer,
    tenants: Tenants,
    tokens: Tokens,
    url: String,
    http: Client,
    admin: String,
}

impl Bed {
    async fn new(rate: Rate) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::create(&folder.path().join("lattices"), None).unwrap();
        let port = free_port().unwrap();
        let options = ServerOptions::new(&home, &format!("127.0.0.1:{port}"));
        options.write(&home, &folder.path().join("nats.conf")).unwrap();
        let nats = NatsServer::start_configured(&options.configuration(&home), port).unwrap();
        let tenants = Tenants::new(home.clone(), Address::plain(&nats.url()), "tester");
        let tokens = Tokens::new(&home);
        let admin = tokens.add("boss", Access::Admin, None, None).unwrap().1;
        let server = Server::bind("127.0.0.1:0", None).await.unwrap();
        let url = server.url();
        tokio::spawn(server.serve(Api::new(tenants.clone(), rate)));
        let http = Client::new();
        Self { folder, home, nats, tenants, tokens, url, http, admin }
    }

    async fn fast() -> Self {
        Self::new(Rate { burst: 10_000, per_second: 10_000 }).await
    }

    fn token(&self, name: &str, role: Access, tenant: Option<&str>) -> String {
        let record = tenant.map(|tenant| self.tenants.get(tenant).unwrap());
        let of = record.as_ref().map(|record| (record.name.as_str(), record.account.as_str()));
        self.tokens.add(name, role, of, None).unwrap().1
    }

    fn call(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        let call = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        call.timeout(Duration::from_secs(30))
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        answer(with(self.call(method, path, &self.admin), &body)).await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.call(Method::GET, path, &self.admin)).await
    }
}

/// With a body of JSON.
fn with(call: RequestBuilder, body: &Value) -> RequestBuilder {
    call.header("content-type", "application/json").body(body.to_string())
}

async fn answer(call: RequestBuilder) -> (StatusCode, Value) {
    let response = call.send().await.unwrap();
    check(&response);
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// What is true of every answer.
fn check(response: &Response) {
    assert_eq!(response.headers()["cache-control"], "no-store");
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{status}");
    }
}

fn kind(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().strip_prefix("urn:millrace:problem:").unwrap()
}

#[tokio::test]
async fn the_life_of_a_tenant() {
    let bed = Bed::fast().await;
    let body = json!({ "limits": { "streams": 100 }, "labels": { "site": "a" } });
    let (status, made) = bed.send(Method::PUT, "/v1/tenants/acme", body.clone()).await;
    assert_eq!((status, &made["state"]), (StatusCode::CREATED, &json!("active")), "{made}");
    assert_eq!(
        (&made["limits"]["streams"], &made["limits"]["leaf-nodes"]),
        (&json!(100), &json!(10))
    );
    // Once more is nothing new; other limits and labels are taken over.
    let (status, again) = bed.send(Method::PUT, "/v1/tenants/acme", body).await;
    assert_eq!((status, again), (StatusCode::OK, made));
    let body = json!({ "labels": { "site": "b" } });
    let (status, other) = bed.send(Method::PUT, "/v1/tenants/acme", body).await;
    assert_eq!((status, &other["limits"]["streams"]), (StatusCode::OK, &json!(500)));
    assert_eq!(other["labels"], json!({ "site": "b" }));
    let body = json!({ "limits": { "consumers": 77 } });
    let (status, limited) = bed.send(Method::PATCH, "/v1/tenants/acme/limits", body).await;
    assert_eq!((status, &limited["limits"]["consumers"]), (StatusCode::OK, &json!(77)));
    let (status, below) = bed
        .send(Method::PATCH, "/v1/tenants/acme/limits", json!({ "limits": { "streams": 1 } }))
        .await;
    assert_eq!(
        (status, &below["errors"][0]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("limits.streams"))
    );
    let (status, shown) = bed.get("/v1/tenants/acme").await;
    assert_eq!((status, &shown["usage"]["streams"]), (StatusCode::OK, &json!(4)), "{shown}");
    // Credentials connect until they are revoked.
    let body = json!({ "role": "operator", "label": "anna", "ttl-seconds": 600 });
    let (status, issued) = bed.send(Method::POST, "/v1/tenants/acme/users", body).await;
    assert_eq!(status, StatusCode::CREATED);
    let address = Address::plain(&bed.tenants_url());
    let creds = issued["credentials"].as_str().unwrap();
    address.connect("test", creds).await.unwrap();
    let (status, ended) = bed.send(Method::DELETE, "/v1/tenants/acme/users/anna", json!({})).await;
    assert_eq!((status, &ended["ended"][0]["id"]), (StatusCode::OK, &issued["user"]["id"]));
    assert!(address.connect("test", creds).await.is_err());
    for signing in [false, true] {
        let body = json!({ "signing": signing });
        let (status, _) = bed.send(Method::POST, "/v1/tenants/acme/rotate", body).await;
        assert_eq!(status, StatusCode::OK);
    }
    // The audit log names the token, in pages.
    let (mut what, mut path) = (Vec::new(), "/v1/tenants/acme/audit?limit=2".to_owned());
    loop {
        let (status, page) = bed.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        for entry in page["entries"].as_array().unwrap() {
            assert_eq!(entry["who"], "api token boss");
            what.push((
                entry["log"].as_str().unwrap().to_owned(),
                entry["what"].as_str().unwrap().to_owned(),
            ));
        }
        if page["more"] == false {
            break;
        }
        path = format!("/v1/tenants/acme/audit?limit=2&cursor={}", page["next"].as_str().unwrap());
    }
    let wanted = [
        "tenant.add",
        "tenant.limits",
        "tenant.labels",
        "tenant.limits",
        "user.add",
        "user.revoke",
        "user.rotate",
        "account.rotate",
    ];
    let done: Vec<&str> =
        what.iter().filter(|(log, _)| log == "platform").map(|(_, w)| w.as_str()).collect();
    assert_eq!(done, wanted);
    let refused: Vec<&str> =
        what.iter().filter(|(log, _)| log == "journal").map(|(_, w)| w.as_str()).collect();
    assert_eq!(refused, ["tenant.limits"]);
    // Suspended, read, resumed, removed, purged.
    let (status, cut) = bed.send(Method::POST, "/v1/tenants/acme/suspend", json!({})).await;
    assert_eq!((status, cut["cut-ms"].is_u64()), (StatusCode::OK, true));
    let (status, page) = bed.get("/v1/tenants/acme/audit").await;
    assert_eq!((status, &page["entries"][0]["log"]), (StatusCode::OK, &json!("journal")));
    let (status, problem) =
        bed.send(Method::POST, "/v1/tenants/acme/users", json!({ "role": "viewer" })).await;
    assert_eq!((status, kind(&problem)), (StatusCode::CONFLICT, "state"));
    assert_eq!(
        bed.send(Method::POST, "/v1/tenants/acme/resume", json!({})).await.0,
        StatusCode::OK
    );
    let (status, removing) =
        bed.send(Method::DELETE, "/v1/tenants/acme?grace-seconds=60", json!({})).await;
    assert_eq!((status, &removing["state"]), (StatusCode::OK, &json!("removing")));
    assert!(removing["purge-after"].is_i64());
    let (status, _) = bed.send(Method::DELETE, "/v1/tenants/acme?purge=true", json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(bed.get("/v1/tenants/acme").await.0, StatusCode::NOT_FOUND);
    assert!(bed.tenants.list().unwrap().is_empty());
}

impl Bed {
    fn tenants_url(&self) -> String {
        self.nats.url()
    }
}

#[tokio::test]
async fn who_may_do_what() {
    let bed = Bed::fast().await;
    for name in ["acme", "beta"] {
        assert_eq!(bed.send(Method::PUT, &format!("/v1/tenants/{name}"), json!({})).await.0, 201);
    }
    let looks = bed.token("looks", Access::Viewer, None);
    let acme = bed.token("acme-admin", Access::Admin, Some("acme"));
    let guest = bed.token("acme-guest", Access::Viewer, Some("acme"));
    let calls = [
        // Method, path, body, and the status for each of the three.
        (Method::GET, "/v1/tenants", Value::Null, [200, 200, 200]),
        (Method::GET, "/v1/tenants/acme", Value::Null, [200, 200, 200]),
        (Method::GET, "/v1/tenants/acme/audit", Value::Null, [200, 200, 200]),
        (Method::GET, "/v1/tenants/beta", Value::Null, [200, 403, 403]),
        (Method::GET, "/v1/tenants/beta/audit", Value::Null, [200, 403, 403]),
        (Method::GET, "/v1/tenants/gamma", Value::Null, [404, 403, 403]),
        (Method::GET, "/v1/refused", Value::Null, [200, 403, 403]),
        (Method::PUT, "/v1/tenants/acme", json!({}), [403, 403, 403]),
        (Method::PUT, "/v1/tenants/gamma", json!({}), [403, 403, 403]),
        (Method::PATCH, "/v1/tenants/acme/limits", json!({}), [403, 403, 403]),
        (Method::POST, "/v1/tenants/acme/suspend", json!({}), [403, 403, 403]),
        (Method::POST, "/v1/tenants/acme/resume", json!({}), [403, 403, 403]),
        (Method::POST, "/v1/tenants/acme/rotate", json!({}), [403, 403, 403]),
        (Method::DELETE, "/v1/tenants/acme?purge=true", json!({}), [403, 403, 403]),
        (
            Method::POST,
            "/v1/tenants/acme/users",
            json!({ "role": "viewer", "label": "x" }),
            [403, 201, 403],
        ),
        (Method::POST, "/v1/tenants/acme/users", json!({ "role": "control" }), [403, 403, 403]),
        (Method::POST, "/v1/tenants/acme/users", json!({ "role": "wadm" }), [403, 403, 403]),
        (Method::POST, "/v1/tenants/beta/users", json!({ "role": "viewer" }), [403, 403, 403]),
        (Method::DELETE, "/v1/tenants/acme/users/platform%20wadm", json!({}), [403, 403, 403]),
        (Method::DELETE, "/v1/tenants/acme/users/x", json!({}), [403, 200, 403]),
    ];
    for (method, path, body, wanted) in calls {
        for (token, wanted) in [&looks, &acme, &guest].into_iter().zip(wanted) {
            let call = bed.call(method.clone(), path, token);
            let call = if body.is_null() { call } else { with(call, &body) };
            let (status, said) = answer(call).await;
            assert_eq!(status, wanted, "{method} {path}: {said}");
        }
    }
    let (_, list) = answer(bed.call(Method::GET, "/v1/tenants", &acme)).await;
    assert_eq!(list["tenants"].as_array().unwrap().len(), 1);
    // Nothing came of what was refused.
    let shown = bed.tenants.get("acme").unwrap();
    assert_eq!(shown.state, millrace_lattice_config::tenants::State::Active);
    // It is written down, with who it was.
    let (_, refused) = bed.get("/v1/refused").await;
    let refused = refused["entries"].as_array().unwrap().clone();
    let has = |who: &str, call: &str| refused.iter().any(|e| e["who"] == who && e["call"] == call);
    assert!(has("api token acme-admin", "POST /v1/tenants/acme/suspend"), "{refused:?}");
    assert!(has("api token looks", "PUT /v1/tenants/gamma"));
}

/// A tenant that was purged, and another one that has its name.
#[tokio::test]
async fn a_token_for_one_tenant_is_for_no_other_of_its_name() {
    let bed = Bed::fast().await;
    let path = "/v1/tenants/acme";
    bed.send(Method::PUT, path, json!({})).await;
    let token = bed.token("anna", Access::Admin, Some("acme"));
    let kept = bed.tokens.list().unwrap();
    let (cookie, _) = cookie(&bed.sign_in(&token).send().await.unwrap());
    assert_eq!(answer(bed.by(&cookie, Method::GET, path)).await.0, 200);
    bed.send(Method::DELETE, "/v1/tenants/acme?purge=true", json!({})).await;
    assert_eq!(bed.tokens.list().unwrap().len(), kept.len() - 1, "it went with its tenant");
    // As where a backup of the tokens was put back.
    let file = bed.home.root().join("api-tokens.json");
    std::fs::write(file, serde_json::to_vec(&kept).unwrap()).unwrap();
    for added in [false, true] {
        if added {
            assert_eq!(bed.send(Method::PUT, path, json!({})).await.0, 201);
        }
        for call in [
            bed.call(Method::GET, path, &token),
            with(
                bed.call(Method::POST, "/v1/tenants/acme/users", &token),
                &json!({ "role": "operator" }),
            ),
            bed.by(&cookie, Method::GET, path),
            bed.sign_in(&token),
        ] {
            let (status, problem) = answer(call).await;
            assert_eq!((status, kind(&problem)), (StatusCode::UNAUTHORIZED, "unauthorized"));
        }
    }
    assert_eq!(bed.tenants.get("acme").unwrap().users.len(), 7);
}

/// What a tenant's own admin may not end, or make look like it.
#[tokio::test]
async fn a_token_for_one_tenant_touches_no_host_of_it() {
    let bed = Bed::fast().await;
    bed.send(Method::PUT, "/v1/tenants/acme", json!({})).await;
    let authority = Authority::create(&bed.home.tls_folder()).unwrap();
    let new = millrace_lattice_config::join::NewHost {
        url: "tls://plant.example:4222".into(),
        authority: std::fs::read_to_string(authority.file()).unwrap(),
        labels: Default::default(),
        class: Default::default(),
    };
    bed.tenants.add_host("acme", "hall-3", new).await.unwrap();
    let before = bed.tenants.get("acme").unwrap().users;
    let token = bed.token("anna", Access::Admin, Some("acme"));
    let host = before.iter().find(|user| user.label == "host:hall-3").unwrap().id.clone();
    for user in ["host:hall-3", host.as_str(), "platform%20provider"] {
        let call = bed.call(Method::DELETE, &format!("/v1/tenants/acme/users/{user}"), &token);
        assert_eq!(answer(call).await.0, 403, "{user}");
    }
    for label in ["host:hall-4", "platform wadm", "\u{1b}[2J", "a\nb"] {
        let body = json!({ "role": "viewer", "label": label });
        let call = with(bed.call(Method::POST, "/v1/tenants/acme/users", &token), &body);
        let (status, problem) = answer(call).await;
        assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("label")));
    }
    assert_eq!(bed.tenants.get("acme").unwrap().users, before);
    // Who manages all tenants may.
    assert_eq!(
        bed.send(Method::DELETE, "/v1/tenants/acme/users/host:hall-3", json!({})).await.0,
        200
    );
}

#[tokio::test]
async fn a_tenant_gets_both_limits_and_labels_or_none() {
    let bed = Bed::fast().await;
    bed.send(Method::PUT, "/v1/tenants/acme", json!({})).await;
    let body = json!({ "limits": { "streams": 77 }, "labels": { "": "x" } });
    let (status, problem) = bed.send(Method::PUT, "/v1/tenants/acme", body).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("labels")));
    assert_eq!(bed.tenants.get("acme").unwrap().limits.streams, 500);
}

#[tokio::test]
async fn without_a_good_token_there_is_nothing() {
    let bed = Bed::new(Rate::default()).await;
    let short = bed.tokens.add("short", Access::Admin, None, Some(1)).unwrap().1;
    let gone = bed.token("gone", Access::Admin, None);
    assert_eq!(answer(bed.call(Method::GET, "/v1/tenants", &gone)).await.0, 200);
    bed.tokens.revoke("gone").unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    for token in [gone.as_str(), short.as_str(), "", "millrace_", &"x".repeat(5000)] {
        let (status, problem) = answer(bed.call(Method::GET, "/v1/tenants", token)).await;
        assert_eq!((status, kind(&problem)), (StatusCode::UNAUTHORIZED, "unauthorized"));
    }
    let plain = bed.http.get(format!("{}/v1/nothing", bed.url)).send().await.unwrap();
    assert_eq!(plain.status(), 401);
    // Strangers keep no connection.
    assert_eq!(plain.headers()["connection"], "close");
    assert_eq!(plain.headers()["www-authenticate"], "Bearer");
    // Who tries many is slowed down, and those with a token are not; the token is written nowhere.
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(answer(bed.call(Method::GET, "/v1/tenants", "millrace_guess")).await.0);
    }
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(bed.get("/v1/tenants").await.0, 200);
    let journal = std::fs::read_to_string(bed.home.root().join("api.jsonl")).unwrap();
    assert!(!journal.contains("millrace_") && journal.lines().count() < 40);
    // The description is for everybody.
    let open = bed.http.get(format!("{}/v1/openapi.json", bed.url)).send().await.unwrap();
    assert_eq!(
        (
            open.status(),
            serde_json::from_str::<Value>(&open.text().await.unwrap()).unwrap()["openapi"].clone()
        ),
        (StatusCode::OK, json!("3.1.0"))
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_field() {
    let bed = Bed::fast().await;
    let put = |body: &'static str| bed.call(Method::PUT, "/v1/tenants/acme", &bed.admin).body(body);
    let json = |call: RequestBuilder| call.header("content-type", "application/json");
    let cases = [
        ("{", 422, "body"),
        ("[]", 422, "body"),
        ("7", 422, "body"),
        ("{\"limits\":[100]}", 422, "body"),
        ("{\"limits\":{},\"limits\":{}}", 422, "body"),
        ("{} {}", 422, "body"),
        ("{\"limit\":{}}", 422, "limit"),
        ("{\"limits\":{\"disk\":\"much\"}}", 422, "limits.disk"),
        ("{\"limits\":{\"disks\":1}}", 422, "limits.disks"),
        ("{\"limits\":{\"disk\":1}}", 422, "limits.disk"),
        ("{\"limits\":{\"disk\":1e400}}", 422, "body"),
        ("{\"labels\":{\"a\":1}}", 422, "labels.a"),
        ("{\"labels\":{\"\":\"x\"}}", 422, "labels"),
    ];
    for (body, wanted, field) in cases {
        let (status, problem) = answer(json(put(body))).await;
        assert_eq!(status, wanted, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
        assert_eq!(problem["status"], wanted);
    }
    let deep = "[".repeat(60_000);
    let (status, _) =
        answer(json(bed.call(Method::PUT, "/v1/tenants/acme", &bed.admin).body(deep))).await;
    assert_eq!(status, 422);
    let large = format!("{{\"labels\":{{\"a\":\"{}\"}}}}", "x".repeat(70_000));
    let (status, problem) =
        answer(json(bed.call(Method::PUT, "/v1/tenants/acme", &bed.admin).body(large))).await;
    assert_eq!((status, kind(&problem)), (StatusCode::PAYLOAD_TOO_LARGE, "too-large"));
    for kind_of_body in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let (status, _) = answer(put("{}").header("content-type", kind_of_body)).await;
        assert_eq!(status, 415, "{kind_of_body}");
    }
    assert_eq!(answer(put("{}")).await.0, 415);
    for name in [
        "Acme",
        "a.b",
        "..%2f..%2fx",
        "a%00",
        "%ff",
        "a%20b",
        "*",
        "%3e",
        "system",
        "a%0a",
        &"a".repeat(41),
    ] {
        let (status, problem) =
            bed.send(Method::PUT, &format!("/v1/tenants/{name}"), json!({})).await;
        assert_eq!(status, 422, "{name}: {problem}");
        let (status, _) = bed.get(&format!("/v1/tenants/{name}")).await;
        assert!([404, 422].contains(&status.as_u16()), "{name}: {status}");
    }
    for (path, wanted) in [
        ("/v1/tenants?limit=0", 422),
        ("/v1/tenants?limit=501", 422),
        ("/v1/tenants?limit=-1", 422),
        ("/v1/tenants?page=1", 422),
        ("/v1/tenants/acme", 404),
        ("/v1/tenants/acme/audit", 404),
        ("/v1/nothing", 404),
        ("/", 404),
        ("/v1/tenants/acme/suspend", 405),
    ] {
        assert_eq!(bed.get(path).await.0, wanted, "{path}");
    }
    assert_eq!(bed.send(Method::POST, "/v1/tenants/acme/suspend", json!({})).await.0, 404);
    assert_eq!(bed.send(Method::PUT, "/v1/tenants/acme", json!({})).await.0, 201);
    for cursor in ["x", "a1", "j", "a1-1-1-1", "%00"] {
        let (status, problem) = bed.get(&format!("/v1/tenants/acme/audit?cursor={cursor}")).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("cursor"))
        );
    }
    assert!(bed.folder.path().read_dir().unwrap().count() < 5);
}

#[tokio::test]
async fn two_at_once_get_one_tenant_and_pages_have_all() {
    let bed = Bed::fast().await;
    let put = |name: &str| {
        bed.send(Method::PUT, Box::leak(format!("/v1/tenants/{name}").into_boxed_str()), json!({}))
    };
    let ((a, first), (b, second)) = tokio::join!(put("acme"), put("acme"));
    let mut statuses = [a.as_u16(), b.as_u16()];
    statuses.sort_unstable();
    assert_eq!((statuses, first), ([200, 201], second));
    let (a, b) = tokio::join!(put("beta"), put("gamma"));
    assert_eq!((a.0.as_u16(), b.0.as_u16()), (201, 201));
    let (mut names, mut path) = (Vec::new(), "/v1/tenants?limit=2".to_owned());
    loop {
        let (_, page) = bed.get(&path).await;
        names.extend(
            page["tenants"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/tenants?limit=2&after={next}");
    }
    assert_eq!(names, ["acme", "beta", "gamma"]);
}

/// A caller that goes away in the middle does not leave it half done.
#[tokio::test]
async fn a_caller_that_goes_away_interrupts_nothing() {
    let bed = Bed::fast().await;
    let call = with(bed.call(Method::PUT, "/v1/tenants/acme", &bed.admin), &json!({}));
    let gone = call.timeout(Duration::from_millis(60)).send().await;
    assert!(gone.is_err());
    for _ in 0..200 {
        if bed
            .tenants
            .get("acme")
            .is_ok_and(|record| record.state == millrace_lattice_config::tenants::State::Active)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it was left in the middle");
}

#[tokio::test]
async fn who_calls_too_often_is_told_when_to_come_back() {
    let bed = Bed::new(Rate { burst: 5, per_second: 1 }).await;
    let other = bed.token("other", Access::Viewer, None);
    for _ in 0..5 {
        assert_eq!(bed.get("/v1/tenants").await.0, 200);
    }
    let response = bed.call(Method::GET, "/v1/tenants", &bed.admin).send().await.unwrap();
    check(&response);
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert_eq!(answer(bed.call(Method::GET, "/v1/tenants", &other)).await.0, 200);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(bed.get("/v1/tenants").await.0, 200);
}

#[tokio::test]
async fn others_reach_it_over_tls_alone() {
    let bed = Bed::fast().await;
    let plain = Server::bind("0.0.0.0:0", None).await;
    assert!(plain.is_err_and(|e| e.to_string().contains("TLS")));
    let authority = Authority::create(&bed.home.tls_folder()).unwrap();
    let tls = authority.server("api", &["127.0.0.1".to_owned()]).unwrap();
    let server = Server::bind("127.0.0.1:0", Some(&tls)).await.unwrap();
    let url = server.url();
    assert!(url.starts_with("https://"));
    tokio::spawn(server.serve(Api::new(bed.tenants.clone(), Rate::default())));
    let ca = Certificate::from_pem(&std::fs::read(authority.file()).unwrap()).unwrap();
    let trusts = Client::builder().add_root_certificate(ca).build().unwrap();
    let call =
        |client: &Client| client.get(format!("{url}/v1/tenants")).bearer_auth(&bed.admin).send();
    assert_eq!(call(&trusts).await.unwrap().status(), 200);
    assert!(call(&Client::new()).await.is_err());
    // A cookie that came over TLS is sent over nothing else.
    let sign_in = with(trusts.post(format!("{url}/v1/session")), &json!({ "token": bed.admin }));
    let signed_in = sign_in.header("origin", url.as_str()).send().await.unwrap();
    assert!(cookie(&signed_in).1.ends_with("; Secure"));
    // Its certificate is exchanged while it runs: by another authority, so that it can be told which of the two it shows.
    let other = Authority::create(&bed.folder.path().join("other")).unwrap();
    let new = other.server("api", &["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) =
        (std::fs::read(&tls.certificate).unwrap(), std::fs::read(&tls.key).unwrap());
    std::fs::copy(&new.key, &tls.key).unwrap();
    std::fs::copy(&new.certificate, &tls.certificate).unwrap();
    let other = Certificate::from_pem(&std::fs::read(other.file()).unwrap()).unwrap();
    let newer = Client::builder().add_root_certificate(other).build().unwrap();
    assert_eq!(call(&newer).await.unwrap().status(), 200);
    let fresh = |ca: &[u8]| {
        Client::builder().add_root_certificate(Certificate::from_pem(ca).unwrap()).build().unwrap()
    };
    assert!(call(&fresh(&std::fs::read(authority.file()).unwrap())).await.is_err());
    // Half of one: the one before stays.
    std::fs::write(&tls.certificate, "-----BEGIN").unwrap();
    assert_eq!(call(&newer).await.unwrap().status(), 200);
    std::fs::write(&tls.key, key).unwrap();
    std::fs::write(&tls.certificate, certificate).unwrap();
    assert_eq!(
        call(&fresh(&std::fs::read(authority.file()).unwrap())).await.unwrap().status(),
        200
    );
    // One that says nothing keeps nobody else from it.
    let address = url.strip_prefix("https://").unwrap();
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(call(&trusts).await.unwrap().status(), 200);
    let _ = silent.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let mut said = Vec::new();
    let _ = silent.read_to_end(&mut said).await;
    assert!(!said.starts_with(b"HTTP"));
}

/// The cookie that an answer sets, as a browser sends it back, and what is said about it.
fn cookie(response: &Response) -> (String, String) {
    let set = response.headers()["set-cookie"].to_str().unwrap();
    let (cookie, rest) = set.split_once(';').unwrap();
    (cookie.to_owned(), rest.to_owned())
}

impl Bed {
    fn sign_in(&self, token: &str) -> RequestBuilder {
        let call = self.http.post(format!("{}/v1/session", self.url));
        with(call, &json!({ "token": token })).timeout(Duration::from_secs(30))
    }

    /// A call of a browser.
    fn by(&self, cookie: &str, method: Method, path: &str) -> RequestBuilder {
        let call = self.http.request(method, format!("{}{path}", self.url));
        call.header("cookie", cookie).timeout(Duration::from_secs(30))
    }
}

#[tokio::test]
async fn a_browser_signs_in_and_its_session_cannot_be_used_by_other_pages() {
    let bed = Bed::fast().await;
    bed.send(Method::PUT, "/v1/tenants/acme", json!({})).await;
    let token = bed.token("anna", Access::Admin, Some("acme"));
    let response = bed.sign_in(&token).send().await.unwrap();
    check(&response);
    let (cookie, rest) = cookie(&response);
    assert_eq!(rest, " Path=/v1; HttpOnly; SameSite=Strict");
    let session: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let csrf = session["csrf"].as_str().unwrap().to_owned();
    assert_eq!(
        (&session["name"], &session["role"], &session["tenant"]),
        (&json!("anna"), &json!("admin"), &json!("acme"))
    );
    let left = session["expires"].as_i64().unwrap() - millrace_lattice_config::now();
    assert!((7190..=7200).contains(&left), "{left}");
    // It may what the token may.
    let get = |path| answer(bed.by(&cookie, Method::GET, path));
    assert_eq!(get("/v1/tenants/acme").await.0, 200);
    assert_eq!(get("/v1/tenants/beta").await.0, 403);
    assert_eq!(get("/v1/session").await.1["csrf"], json!(csrf));
    let issue = || {
        let call = bed.by(&cookie, Method::POST, "/v1/tenants/acme/users");
        with(call, &json!({ "role": "viewer", "label": "x" }))
    };
    // What changes something needs the word, and no page of others has it or is heard.
    for call in [
        issue(),
        issue().header("x-csrf-token", ""),
        issue().header("x-csrf-token", &csrf[1..]),
        issue().header("x-csrf-token", &csrf).header("origin", "https://evil.example"),
        issue().header("x-csrf-token", &csrf).header("sec-fetch-site", "same-site"),
        bed.by(&cookie, Method::GET, "/v1/tenants/acme").header("sec-fetch-site", "cross-site"),
        bed.by(&cookie, Method::DELETE, "/v1/session"),
    ] {
        let (status, problem) = answer(call).await;
        assert_eq!((status, kind(&problem)), (StatusCode::FORBIDDEN, "forgery"));
    }
    let own = bed.url.clone();
    let (status, _) =
        answer(issue().header("x-csrf-token", &csrf).header("origin", own.as_str())).await;
    assert_eq!(status, 201);
    // The audit log has it under the token's name.
    let (_, page) = bed.get("/v1/tenants/acme/audit").await;
    let last = page["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["who"], &last["what"]), (&json!("api token anna"), &json!("user.add")));
    // Signing in from another page, or with nothing, is refused; a token's own call has no session.
    for (call, wanted) in [
        (bed.sign_in(&token).header("origin", "https://evil.example"), 403),
        (bed.sign_in(&token).header("origin", "null"), 403),
        (bed.sign_in("millrace_x"), 401),
        (bed.sign_in(""), 401),
        (bed.by(&cookie[..cookie.len() - 1], Method::GET, "/v1/session"), 401),
        (bed.by("", Method::GET, "/v1/session"), 401),
        (bed.call(Method::DELETE, "/v1/session", &token), 409),
    ] {
        let (status, problem) = answer(call).await;
        assert_eq!(status, wanted, "{problem}");
    }
    assert_eq!(answer(bed.call(Method::GET, "/v1/session", &token)).await.1["csrf"], Value::Null);
    // It ends when it is told to.
    let end = bed.by(&cookie, Method::DELETE, "/v1/session").header("x-csrf-token", &csrf);
    let ended = end.send().await.unwrap();
    assert_eq!(ended.status(), 204);
    assert!(ended.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(get("/v1/session").await.0, 401);
    // Neither token nor cookie stands anywhere.
    let journal = std::fs::read_to_string(bed.home.root().join("api.jsonl")).unwrap();
    let secret = cookie.split_once('=').unwrap().1;
    assert!(!journal.contains(secret) && !journal.contains(&token) && !journal.contains(&csrf));
    assert!(journal.contains("\"session.begin\"") && journal.contains("\"session.end\""));
    let (_, refused) = bed.get("/v1/refused").await;
    let is_refused = |entry: &Value| entry["outcome"].as_str().unwrap().starts_with("refused");
    assert!(refused["entries"].as_array().unwrap().iter().all(is_refused));
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let bed = Bed::fast().await;
    let short = bed.tokens.add("short", Access::Viewer, None, Some(2)).unwrap().1;
    let gone = bed.token("gone", Access::Viewer, None);
    let mut cookies = Vec::new();
    for token in [&short, &gone] {
        cookies.push(cookie(&bed.sign_in(token).send().await.unwrap()).0);
    }
    for cookie in &cookies {
        assert_eq!(answer(bed.by(cookie, Method::GET, "/v1/tenants")).await.0, 200);
    }
    bed.tokens.revoke("gone").unwrap();
    // Another one of its name is another.
    bed.token("gone", Access::Admin, None);
    assert_eq!(answer(bed.by(&cookies[1], Method::GET, "/v1/tenants")).await.0, 401);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(answer(bed.by(&cookies[0], Method::GET, "/v1/tenants")).await.0, 401);
}

#[tokio::test]
async fn drafts_of_two_who_work_on_one_pipeline() {
    let bed = Bed::fast().await;
    for name in ["acme", "beta"] {
        bed.send(Method::PUT, &format!("/v1/tenants/{name}"), json!({})).await;
    }
    let anna = bed.token("anna", Access::Author, Some("acme"));
    let otto = bed.token("otto", Access::Author, None);
    let looks = bed.token("looks", Access::Operator, Some("acme"));
    let of_beta = bed.token("berta", Access::Admin, Some("beta"));
    let path = "/v1/tenants/acme/pipelines/press/draft";
    let save = |token: &str, text: &str| {
        with(bed.call(Method::PUT, path, token), &json!({ "text": text }))
    };
    assert_eq!(answer(bed.call(Method::GET, path, &looks)).await.0, 404);
    let (status, problem) = answer(save(&anna, "a")).await;
    assert_eq!((status.as_u16(), kind(&problem)), (428, "no-condition"));
    let response = save(&anna, "a: 1\n").header("if-none-match", "*").send().await.unwrap();
    assert_eq!(response.status(), 201);
    let first = response.headers()["etag"].to_str().unwrap().to_owned();
    let saved: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(
        (&saved["by"], &saved["revision"], &saved["etag"]),
        (&json!("anna"), &json!(1), &json!(first))
    );
    let (status, saved) = answer(save(&otto, "b: 1\n").header("if-match", &first)).await;
    assert_eq!((status, &saved["revision"]), (StatusCode::OK, &json!(2)));
    let second = saved["etag"].as_str().unwrap().to_owned();
    for call in [
        save(&anna, "c").header("if-match", &first),
        save(&anna, "c").header("if-none-match", "*"),
        bed.call(Method::DELETE, path, &anna).header("if-match", &first),
    ] {
        let (status, problem) = answer(call).await;
        assert_eq!((status, kind(&problem)), (StatusCode::PRECONDITION_FAILED, "changed"));
        assert_eq!(
            (&problem["saved"]["by"], &problem["saved"]["etag"]),
            (&json!("otto"), &json!(second))
        );
    }
    let (_, shown) = answer(bed.call(Method::GET, path, &looks)).await;
    assert_eq!((&shown["text"], &shown["saved"]["etag"]), (&json!("b: 1\n"), &json!(second)));
    let (_, list) = answer(bed.call(Method::GET, "/v1/tenants/acme/drafts", &looks)).await;
    assert_eq!(list["drafts"][0]["pipeline"], "press");
    // Who may not.
    for (call, wanted) in [
        (save(&looks, "x").header("if-match", &second), 403),
        (bed.call(Method::DELETE, path, &looks).header("if-match", &second), 403),
        (save(&of_beta, "x").header("if-match", &second), 403),
        (bed.call(Method::GET, path, &of_beta), 403),
        (bed.call(Method::GET, "/v1/tenants/acme/drafts", &of_beta), 403),
        (bed.call(Method::DELETE, path, &anna), 428),
        (save(&anna, "x").header("if-match", "2"), 422),
        (save(&anna, "x").header("if-match", "*"), 422),
        (save(&anna, "x").header("if-match", &second).header("if-none-match", "*"), 422),
        (save(&anna, "x").header("if-none-match", &second), 422),
    ] {
        let (status, problem) = answer(call).await;
        assert_eq!(status, wanted, "{problem}");
    }
    for name in ["Press", "a.b", "..%2f..%2fx", "a%00", "%ff", "*"] {
        let call =
            bed.call(Method::GET, &format!("/v1/tenants/acme/pipelines/{name}/draft"), &anna);
        assert_eq!(answer(call).await.0, 422, "{name}");
    }
    // As long as a definition may be, and no longer.
    let long = "\n".repeat(1 << 20);
    let (status, saved) = answer(save(&anna, &long).header("if-match", &second)).await;
    assert_eq!(status, 413, "{saved}: written as JSON it is twice as long, and more than 2 MiB");
    let long = "x".repeat(1 << 20);
    let (status, saved) = answer(save(&anna, &long).header("if-match", &second)).await;
    assert_eq!(status, 200, "{saved}");
    let third = saved["etag"].as_str().unwrap().to_owned();
    let (status, problem) =
        answer(save(&anna, &format!("{long}x")).header("if-match", &third)).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("text")));
    // Without NATS it goes on.
    bed.nats.freeze(true).unwrap();
    let (status, saved) = answer(save(&anna, "d").header("if-match", &third)).await;
    assert_eq!(status, 200, "{saved}");
    let delete = bed.call(Method::DELETE, path, &anna);
    let delete = delete.header("if-match", saved["etag"].as_str().unwrap());
    assert_eq!(delete.send().await.unwrap().status(), 204);
    bed.nats.freeze(false).unwrap();
    assert_eq!(answer(bed.call(Method::GET, path, &anna)).await.0, 404);
    // The audit log has who worked on it, and not each save.
    let mut what = Vec::new();
    for _ in 0..100 {
        let (_, page) = bed.get("/v1/tenants/acme/audit").await;
        let entries = page["entries"].as_array().unwrap().clone();
        let of = |entry: &Value| (entry["who"].clone(), entry["what"].clone());
        what = entries
            .iter()
            .map(of)
            .filter(|(_, what)| what.as_str().unwrap().starts_with("draft"))
            .collect();
        if what.len() >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    what.sort_by_key(|pair| pair.1.to_string());
    let entry = |who: &str, what: &str| (json!(format!("api token {who}")), json!(what));
    assert_eq!(what.len(), 4, "{what:?}");
    assert_eq!(what[0], entry("anna", "draft.delete"));
    assert!(
        what.contains(&entry("anna", "draft.save")) && what.contains(&entry("otto", "draft.save"))
    );
}

/// Calls made out of the description, good and bad: none is answered with a status, a type or a body that it does not have, what is
/// bad is refused, nothing is answered without a token, and what was deleted is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_true_of_calls_that_are_made_out_of_it() {
    let bed = Bed::fast().await;
    bed.send(Method::PUT, "/v1/tenants/acme", json!({})).await;
    let folder = bed.folder.path().join("schemathesis");
    std::fs::create_dir(&folder).unwrap();
    // Not: whether all is taken that the description allows. How low a limit may be depends on the tenant.
    let output = tokio::process::Command::new(millrace_peers::schemathesis().unwrap())
        .current_dir(&folder)
        .args(["--no-color", "run", &format!("{}/v1/openapi.json", bed.url)])
        .args(["--header", &format!("Authorization: Bearer {}", bed.admin)])
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
            "--phases",
            "coverage,fuzzing",
            "--seed",
            "1",
            "--max-examples",
            "10",
            "--no-shrink",
        ])
        .args([
            "--request-timeout",
            "30",
            "--continue-on-failure",
            "--suppress-health-check",
            "all",
            "--warnings",
            "off",
        ])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// `MILLRACE_BLESS=1 cargo test` writes it anew.
#[test]
fn the_written_description_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let made = format!("{}\n", serde_json::to_string_pretty(&millrace_api::openapi()).unwrap());
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == made,
        "docs/openapi.json is not what the code says: run the test with MILLRACE_BLESS=1"
    );
}
