//! Requests of HTTP. One client for the process, so that connections are kept; no redirects, cookies or proxies: a request goes
//! to the server that was granted and to no other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use millrace_grants::{Authority, Failure, FailureKind, Reply, VALUE_MAX};
use millrace_settings::Server;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Method};
use tokio::io::AsyncReadExt as _;

/// How long a request may take, from the connection to the end of the response.
const ANSWER: Duration = Duration::from_millis(2_800);

/// How long its connection may take: where packets are dropped nobody answers, and nothing but this tells that from a slow server.
const CONNECTION: Duration = Duration::from_millis(2_000);

/// Most header fields of a response that are handed on.
const HEADERS_MAX: usize = 64;

/// Most bytes of header fields of a response that are handed on.
const HEADERS_BYTES: usize = 64 * 1024;

/// Longest value of a header field of a response that is handed on, in bytes.
const HEADER_MAX: usize = 8 * 1024;

/// Largest file of a server's settings, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// The content of a file with authorities, and the client that trusts these.
type Trusting = (Vec<u8>, Client);

/// A client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    client: Result<Client, String>,
    servers: Arc<BTreeMap<String, Server>>,
    /// Clients that trust other authorities: by file, with what it contained.
    trusting: Arc<Mutex<HashMap<String, Trusting>>>,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// A client.
    #[must_use]
    pub fn new() -> Self {
        let client = builder().build().map_err(|error| chain(&error));
        Self { client, servers: Arc::default(), trusting: Arc::default() }
    }

    /// The same client, with what is known of servers, by the names that grants have for them.
    #[must_use]
    pub fn for_servers(&self, servers: BTreeMap<String, Server>) -> Self {
        Self { servers: Arc::new(servers), ..self.clone() }
    }

    /// What is known of the server of a URL: by its port, or else for those of both schemes.
    fn server(&self, url: &str) -> Option<&Server> {
        let asked = Authority::of_url(url).ok()?;
        let known = self.servers.iter().filter_map(|(name, server)| {
            let known: Authority = name.parse().ok()?;
            known.allows(&asked, url).then_some((known.port.is_some(), server))
        });
        known.max_by_key(|(exact, _)| *exact).map(|(_, server)| server)
    }

    /// The client that trusts the authorities in a file. Made anew when the file has changed.
    async fn trusting(&self, file: &str) -> Result<Client, Failure> {
        let content = read("tls-ca-file", file).await?;
        let known = self.trusting.lock().get(file).cloned();
        if let Some((_, client)) = known.filter(|(known, _)| *known == content) {
            return Ok(client);
        }
        let wrong = |error: reqwest::Error| {
            failure(FailureKind::Away, format!("tls-ca-file: {}", chain(&error)))
        };
        let mut builder = builder().tls_built_in_root_certs(false);
        for certificate in Certificate::from_pem_bundle(&content).map_err(wrong)? {
            builder = builder.add_root_certificate(certificate);
        }
        let client = builder.build().map_err(wrong)?;
        self.trusting.lock().insert(file.to_owned(), (content, client.clone()));
        Ok(client)
    }

    /// Makes a request and reads the response.
    ///
    /// # Errors
    ///
    /// The request is wrong, or the server away, slow or not trusted.
    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Reply, Failure> {
        let server = self.server(url);
        if server.is_some_and(|server| !server.allow_plain) && url.starts_with("http:") {
            let text = "this server may only be asked over https://, because something is known of it (binding.servers); \
                `allow-plain: true` there allows http://";
            return Err(failure(FailureKind::Invalid, text));
        }
        let client = match server.and_then(|server| server.tls_ca_file.as_deref()) {
            Some(file) => self.trusting(file).await?,
            None => self.client.clone().map_err(|text| failure(FailureKind::Away, text))?,
        };
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).map_err(invalid)?;
        let mut headers = header_map(headers)?;
        if let Some(file) = server.and_then(|server| server.authorization_file.as_deref()) {
            headers.insert(AUTHORIZATION, authorization(file).await?);
        }
        let mut request = client.request(method, url).headers(headers);
        if !body.is_empty() {
            request = request.body(body.to_vec());
        }
        let mut response = request.send().await.map_err(away)?;
        let status = response.status().as_u16();
        let mut room = HEADERS_BYTES;
        let headers = response.headers().iter().take(HEADERS_MAX).filter_map(|(name, value)| {
            let value = value.to_str().ok().filter(|value| value.len() <= HEADER_MAX)?;
            room = room.checked_sub(name.as_str().len() + value.len())?;
            Some((name.as_str().to_owned(), value.to_owned()))
        });
        let headers = headers.collect();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            if body.len() + chunk.len() > VALUE_MAX {
                return Err(failure(
                    FailureKind::Invalid,
                    format!("the response has more than {VALUE_MAX} bytes of content"),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply::Http { status, headers, body })
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .timeout(ANSWER)
        .connect_timeout(CONNECTION)
        .pool_max_idle_per_host(8)
        .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
}

/// The value of a header that a step does not see.
async fn authorization(file: &str) -> Result<HeaderValue, Failure> {
    let content = read("authorization-file", file).await?;
    let text = content.strip_suffix(b"\n").unwrap_or(&content);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let mut value = HeaderValue::from_bytes(text).map_err(|_| {
        failure(FailureKind::Away, "authorization-file: it is no single line of text")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A file of a server's settings. What is told of one that cannot be read is for the step's author too, and so without its path.
async fn read(setting: &str, file: &str) -> Result<Vec<u8>, Failure> {
    let wrong = |error: std::io::Error| failure(FailureKind::Away, format!("{setting}: {error}"));
    let opened = tokio::fs::File::open(file).await.map_err(wrong)?;
    let mut content = Vec::new();
    opened.take(FILE_MAX + 1).read_to_end(&mut content).await.map_err(wrong)?;
    // It is being written, or something else: it is looked at again.
    match content.len() {
        0 => Err(failure(FailureKind::Away, format!("{setting}: the file is empty"))),
        length if length as u64 > FILE_MAX => Err(failure(
            FailureKind::Away,
            format!("{setting}: the file is larger than {FILE_MAX} bytes"),
        )),
        _ => Ok(content),
    }
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(invalid)?;
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(invalid)?);
    }
    Ok(map)
}

fn invalid(error: impl std::fmt::Display) -> Failure {
    failure(FailureKind::Invalid, error)
}

/// The server is away, or not who it says: this is waited for. One that took a request and is too slow with its answer may
/// be so for this request alone. Without the URL, of which only the server may be told.
fn away(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let kind = if error.is_builder() {
        FailureKind::Invalid
    } else if error.is_connect() {
        FailureKind::Away
    } else {
        FailureKind::Retry
    };
    failure(kind, chain(&error))
}

fn failure(kind: FailureKind, text: impl std::fmt::Display) -> Failure {
    Failure { kind, text: text.to_string() }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
