//! Metrics over HTTP: small requests of few at a time, each with an end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};

use super::{look, text};

/// What was seen is good for this long, so that no number of requests is more than one question a second.
const FRESH: Duration = Duration::from_secs(1);

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 16;

/// A connection carries one request, and is closed after this time whatever became of it.
const CONNECTION: Duration = Duration::from_secs(10);

/// A client has this long to send its request.
const HEADERS: Duration = Duration::from_secs(3);

/// Longest head of a request, in bytes. The least that hyper allows.
const HEAD: usize = 8_192;

/// After a connection that could not be accepted: without file descriptors the next one fails at once, too.
const PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";

/// A listener at an address, before it serves.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the address. `option` is what chooses another, for the error.
    pub(crate) async fn bind(address: &str, option: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let mend = match error.kind() {
                io::ErrorKind::AddrInUse => "the port is in use; choose another",
                io::ErrorKind::PermissionDenied => "the port is not allowed; choose one above 1023",
                io::ErrorKind::AddrNotAvailable => "this machine has no such address; choose one of its own",
                _ => "give an address and a port",
            };
            anyhow::anyhow!(
                "could not serve metrics at {address}: {mend} with {option} ADDRESS:PORT, {option} 127.0.0.1:0 for any \
                 free port ({error})"
            )
        })?;
        let address = listener.local_addr().context("no address")?;
        Ok(Self { listener, address })
    }

    /// Where the metrics are.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Serves the metrics of a lattice for as long as it is polled.
    pub(crate) async fn serve(self, nats: async_nats::Client, lattice: &str) {
        let source = Arc::new(Source { nats, lattice: lattice.to_owned(), last: Mutex::new(None) });
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let source = Arc::clone(&source);
                    tokio::spawn(async move {
                        let _place = place;
                        if timeout(CONNECTION, connection(stream, source)).await.is_err() {
                            tracing::debug!("a connection took too long");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, source: Arc<Source>) {
    let service = service_fn(|request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, &source).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a request was not answered");
    }
}

async fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return response(StatusCode::NOT_FOUND, TEXT, "the metrics are at /metrics\n");
    }
    if request.method() != Method::GET {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return refused;
    }
    match source.text().await {
        Ok(body) => response(StatusCode::OK, text::CONTENT_TYPE, body),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error:#}\n")),
    }
}

fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// Where the metrics come from, and what they were a moment ago.
struct Source {
    nats: async_nats::Client,
    lattice: String,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Source {
    /// The metrics as text. Of several who ask at the same time one looks, and the others wait for it.
    async fn text(&self) -> anyhow::Result<Bytes> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let seen = look::look(&self.nats, &self.lattice).await;
        let text = Bytes::from(text::encode(&self.lattice, &seen)?);
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}
