//! Servers: one an address, shared by all sources that name it.
//!
//! A server lives as long as a source has a path of it. When the last one leaves it takes no more connections, answers what
//! is under way, and ends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::poll_fn;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use millrace_kit::CancellationToken;
use millrace_settings::http::PathTemplate;
use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::answer::{self, Refusal};
use crate::path;
use crate::rate::network;
use crate::tls;
use crate::watched::{File, Watched};
use crate::way::Way;

/// Most connections of a server. Further ones wait.
pub const CONNECTIONS: usize = 1_024;

/// Most connections of one client's address. Further ones are closed.
pub const CLIENT_CONNECTIONS: usize = 256;

/// Largest head of a request, in bytes.
pub const HEAD_MAX: usize = 16 << 10;

/// How long a path that a source has left is told to come again: a new version of its pipeline may be about to have it.
const GRACE: Duration = Duration::from_secs(30);

/// A connection ends after this time, so that nobody keeps one for ever.
const LIFE: Duration = Duration::from_secs(3_600);

/// What is read of a body that is not taken, so that the client reads the answer: bytes and time.
const DISCARD: (usize, Duration) = (1 << 20, Duration::from_secs(1));

/// How long a server waits for others.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request, and for a TLS handshake.
    pub head: Duration,
    /// For what is under way when it ends.
    pub goodbye: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), goodbye: Duration::from_secs(2) }
    }
}

/// A server, if somebody still has it, and what its connections have.
type Opened = (Weak<Door>, Arc<Shared>);

/// The servers of a process.
#[derive(Default)]
pub struct Doors {
    patience: Patience,
    open: tokio::sync::Mutex<HashMap<SocketAddr, Opened>>,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Doors {
    /// Servers that wait so long.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self { patience, open: tokio::sync::Mutex::default() }
    }

    /// Gives a source its path, and opens the server if it is the first at its address.
    ///
    /// # Errors
    ///
    /// Names the address, and what is in the way: no such address, or another program has it; a certificate; a source that has
    /// the path.
    pub(crate) async fn enter(&self, way: &Arc<Way>) -> Result<Entry, String> {
        let address = way.settings.listen.get();
        let files = tls::files(&way.settings);
        let mut open = self.open.lock().await;
        open.retain(|_, (door, shared)| door.strong_count() > 0 || !shared.unbound.is_cancelled());
        let door = match open.get(&address) {
            Some((door, shared)) => match door.upgrade() {
                Some(door) => Some(door),
                None => {
                    // It is about to let go of the address.
                    let _ = timeout(self.patience.goodbye, shared.unbound.cancelled()).await;
                    None
                }
            },
            None => None,
        };
        let door = match door {
            Some(door) if door.shared.files == files => door,
            Some(door) => {
                let other = door.shared.routes.read().names();
                return Err(format!(
                    "{address}: its server has other `tls-cert-file` and `tls-key-file`, those of {other}: name the same, or \
                     another `listen`"
                ));
            }
            None => {
                let door = Arc::new(Door::open(address, files, self.patience).await?);
                open.insert(address, (Arc::downgrade(&door), Arc::clone(&door.shared)));
                door
            }
        };
        door.shared.routes.write().add(way).map_err(|error| format!("{address}: {error}"))?;
        Ok(Entry { door: Some(door), way: Arc::clone(way) })
    }
}

/// A source's path at a server, until it is dropped.
pub(crate) struct Entry {
    /// Present until it leaves.
    door: Option<Arc<Door>>,
    way: Arc<Way>,
}

impl Entry {
    /// Gives the path back. Of the last one returns when the server has answered what was under way.
    pub(crate) async fn leave(mut self) {
        let Some(door) = self.door.take() else { return };
        let (shared, patience) = (Arc::clone(&door.shared), door.patience);
        shared.routes.write().remove(&self.way);
        drop(door);
        if shared.closing.is_cancelled() {
            let _ = timeout(patience.goodbye, shared.closed.cancelled()).await;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(door) = &self.door {
            door.shared.routes.write().remove(&self.way);
        }
    }
}

/// A server, for as long as somebody has it.
struct Door {
    shared: Arc<Shared>,
    patience: Patience,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

/// What a server and its connections have in common.
struct Shared {
    files: Vec<File>,
    tls: Arc<Watched<Option<Arc<ServerConfig>>>>,
    /// The last certificate that could be used, and what is wrong with the one after it.
    usable: Mutex<(Option<Arc<ServerConfig>>, Option<String>)>,
    routes: RwLock<Routes>,
    clients: Mutex<HashMap<IpAddr, usize>>,
    patience: Patience,
    /// Nobody has it any more.
    closing: CancellationToken,
    /// The address is free.
    unbound: CancellationToken,
    /// The connections have ended.
    closed: CancellationToken,
}

impl Door {
    async fn open(
        address: SocketAddr,
        files: Vec<File>,
        patience: Patience,
    ) -> Result<Self, String> {
        let made = files.clone();
        let tls = tokio::task::spawn_blocking(move || Watched::new(made, tls::config)).await;
        let tls = Arc::new(tls.map_err(|_| "the certificate could not be read".to_owned())?);
        let usable = Mutex::new((tls.get().await?.as_ref().clone(), None));
        let listener = TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))?;
        let shared = Arc::new(Shared {
            files,
            tls,
            usable,
            routes: RwLock::default(),
            clients: Mutex::default(),
            patience,
            closing: CancellationToken::new(),
            unbound: CancellationToken::new(),
            closed: CancellationToken::new(),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, patience })
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Cancelled however this ends.
    let (unbound, _closed) =
        (shared.unbound.clone().drop_guard(), shared.closed.clone().drop_guard());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = shared.closing.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, client)) = accepted else {
            // Such as no more files; it is no reason to end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(seat) = Seat::of(client.ip(), &shared) else { continue };
        connections.spawn(async move {
            connection(stream, &seat).await;
            drop((permit, seat));
        });
    }
    drop(listener);
    drop(unbound);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(shared.patience.goodbye, ended).await;
}

/// A connection's place among those of its client.
struct Seat {
    client: IpAddr,
    shared: Arc<Shared>,
}

impl Seat {
    fn of(client: IpAddr, shared: &Arc<Shared>) -> Option<Self> {
        let mut clients = shared.clients.lock();
        let count = clients.entry(network(client)).or_default();
        if *count >= CLIENT_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Self { client, shared: Arc::clone(shared) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.shared.clients.lock();
        if let Some(count) = clients.get_mut(&network(self.client)) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&network(self.client));
            }
        }
    }
}

async fn connection(stream: TcpStream, seat: &Seat) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    match seat.shared.certificate().await {
        None => serve(stream, seat).await,
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            if let Ok(Ok(stream)) = timeout(seat.shared.patience.head, handshake).await {
                serve(stream, seat).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, seat: &Seat) {
    let (shared, client) = (&seat.shared, seat.client);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(shared.patience.head).max_buf_size(HEAD_MAX);
    let service = service_fn(|request| answer(shared, client, request));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that went away, or spoke no HTTP.
        _ = connection.as_mut() => return,
        () = shared.closing.cancelled() => {}
        () = tokio::time::sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LIFE, connection).await;
}

impl Shared {
    /// The certificate to show. One that cannot be used is said, and the one before it shown.
    async fn certificate(&self) -> Option<Arc<ServerConfig>> {
        if self.files.is_empty() {
            return None;
        }
        let found = self.tls.get().await;
        let mut usable = self.usable.lock();
        match found {
            Ok(config) => *usable = (config.as_ref().clone(), None),
            Err(error) if usable.1.as_ref() != Some(&error) => {
                tracing::warn!("the certificate before it is shown: {error}");
                usable.1 = Some(error);
            }
            Err(_) => {}
        }
        usable.0.clone()
    }
}

async fn answer(
    shared: &Shared,
    client: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let Err(mut refusal) = take(shared, client, &head, &mut body).await else {
        return Ok(answer::accepted());
    };
    let waits = head.headers.contains_key(EXPECT);
    if waits || !discarded(&mut body).await {
        refusal = refusal.closing();
    }
    Ok(refusal.response())
}

async fn take(
    shared: &Shared,
    client: IpAddr,
    head: &Parts,
    body: &mut Incoming,
) -> Result<(), Refusal> {
    let path = head.uri.path();
    if path.len() > path::PATH_MAX {
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "the path is too long"));
    }
    let nothing = || Refusal::new(StatusCode::NOT_FOUND, "there is nothing here");
    let parts = path::parts(path).ok_or_else(nothing)?;
    let found = shared.routes.read().find(&head.method, &parts);
    match found {
        Found::Way(way) => way.take(client, &parts, head, body).await,
        Found::Left => Err(Refusal::unavailable("the source of this path has just left")),
        Found::Methods(methods) => Err(Refusal::method(&methods)),
        Found::Nothing => Err(nothing()),
    }
}

/// Reads what is left of a body; false when that was not all.
async fn discarded(body: &mut Incoming) -> bool {
    let (most, time) = DISCARD;
    let rest = async {
        let mut read = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > most {
                return false;
            }
        }
        true
    };
    timeout(time, rest).await.unwrap_or(false)
}

/// Which source has which path.
#[derive(Default)]
struct Routes(Vec<Route>);

struct Route {
    template: PathTemplate,
    methods: Vec<&'static str>,
    /// The source, or when it left.
    way: Result<Arc<Way>, Instant>,
}

/// Who takes a request.
enum Found {
    Way(Arc<Way>),
    /// Nobody now, but a moment ago.
    Left,
    /// Other methods.
    Methods(Vec<&'static str>),
    Nothing,
}

impl Routes {
    fn add(&mut self, way: &Arc<Way>) -> Result<(), String> {
        let template = &way.settings.path;
        let methods: Vec<&'static str> = way.settings.methods.iter().collect();
        for route in &self.0 {
            let Ok(other) = &route.way else { continue };
            let both = route.methods.iter().find(|method| methods.contains(method));
            if let Some(method) = both.filter(|_| route.template.is_same(template)) {
                let names = &other.link.names;
                return Err(format!(
                    "{method} {} is taken by the source {} of the pipeline {}: choose another `path`",
                    route.template, names.name, names.pipeline
                ));
            }
        }
        self.0.retain(|route| match &route.way {
            Ok(_) => true,
            Err(left) => left.elapsed() < GRACE && !route.template.is_same(template),
        });
        self.0.push(Route { template: template.clone(), methods, way: Ok(Arc::clone(way)) });
        self.0.sort_by_cached_key(|route| path::rank(&route.template));
        Ok(())
    }

    fn remove(&mut self, way: &Arc<Way>) {
        let own =
            |route: &&mut Route| route.way.as_ref().is_ok_and(|found| Arc::ptr_eq(found, way));
        if let Some(route) = self.0.iter_mut().find(own) {
            route.way = Err(Instant::now());
        }
    }

    fn find(&self, method: &Method, parts: &[String]) -> Found {
        let mut others = Vec::new();
        let mut left = false;
        for route in self.0.iter().filter(|route| path::matches(&route.template, parts)) {
            let takes = route.methods.contains(&method.as_str());
            match &route.way {
                Ok(way) if takes => return Found::Way(Arc::clone(way)),
                Ok(_) => others.extend(&route.methods),
                Err(since) => left |= takes && since.elapsed() < GRACE,
            }
        }
        match (left, others.is_empty()) {
            (true, _) => Found::Left,
            (false, false) => Found::Methods(others),
            (false, true) => Found::Nothing,
        }
    }

    /// Those that have a path, for an error.
    fn names(&self) -> String {
        let name = |route: &Route| {
            let names = &route.way.as_ref().ok()?.link.names;
            Some(format!("the source {} of the pipeline {}", names.name, names.pipeline))
        };
        self.0.iter().find_map(name).unwrap_or_else(|| "another source".to_owned())
    }
}
