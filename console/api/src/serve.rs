//! The server: connections, TLS, and time for what comes before a request.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use millrace_lattice_config::server::TlsFiles;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::Api;

/// Most connections at once. Further ones wait.
const CONNECTIONS: usize = 256;
/// Most of one address that is not this machine's own: a proxy here may speak for many. Further ones are closed.
const OF_ONE: usize = 64;
/// How long a TLS handshake, and the head of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection is closed after this time, so that nobody keeps one for ever.
const LIFE: Duration = Duration::from_secs(600);
/// Largest head of a request, in bytes.
const HEAD_MAX: usize = 16 << 10;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It is no address, or somebody else has it.
    #[error("--api {address}: {source}. Give ADDRESS:PORT, such as 127.0.0.1:4280")]
    Address {
        /// What was given.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Tokens would go over the network as they are.
    #[error("--api {0}: an address that others reach needs TLS")]
    Plain(SocketAddr),
    /// The certificate or its key.
    #[error("{path}: {reason}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A server that has its address.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Renewed>,
}

/// What answers with the certificate that is there: it is renewed while the server runs.
#[derive(Clone)]
struct Renewed {
    files: TlsFiles,
    read: Option<SystemTime>,
    acceptor: TlsAcceptor,
}

impl Renewed {
    fn read(files: &TlsFiles) -> Result<Self, ServeError> {
        let read = written(files);
        Ok(Self { files: files.clone(), read, acceptor: acceptor(files)? })
    }

    /// The newest. While one is being written, or cannot be used, that is the one before.
    fn newest(&mut self) -> TlsAcceptor {
        if written(&self.files) != self.read
            && let Ok(new) = Self::read(&self.files)
        {
            *self = new;
        }
        self.acceptor.clone()
    }
}

/// When the certificate was written. Its key is written before it.
fn written(files: &TlsFiles) -> Option<SystemTime> {
    std::fs::metadata(&files.certificate).and_then(|about| about.modified()).ok()
}

impl Server {
    /// Takes an address. Without a certificate it has to be one of this machine alone.
    ///
    /// # Errors
    ///
    /// When the address cannot be had, or the certificate cannot be used.
    pub async fn bind(address: &str, tls: Option<&TlsFiles>) -> Result<Self, ServeError> {
        let wrong = |source| ServeError::Address { address: address.to_owned(), source };
        let tls = tls.map(Renewed::read).transpose()?;
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::Plain(address));
        }
        Ok(Self { listener, address, tls })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers until it is dropped. Changes that have begun then go on as long as the process does.
    pub async fn serve(mut self, api: Api) {
        let service = TowerToHyperService::new(api.router(self.tls.is_some()));
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        let peers = Peers::default();
        loop {
            // Never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, peer)) = self.listener.accept().await else {
                // Such as no more files; it is no reason to end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let Some(of_peer) = peers.enter(peer.ip()) else { continue };
            let (tls, service) = (self.tls.as_mut().map(Renewed::newest), service.clone());
            connections.spawn(async move {
                let _held = (permit, of_peer);
                let _ = tokio::time::timeout(LIFE, connection(stream, tls, service)).await;
            });
        }
    }
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them.
struct OfPeer(Peers, IpAddr);

impl Peers {
    /// One more of an address, unless it has too many.
    fn enter(&self, address: IpAddr) -> Option<OfPeer> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        if *count >= OF_ONE && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(OfPeer(self.clone(), address))
    }
}

impl Drop for OfPeer {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

type Service = TowerToHyperService<axum::Router>;

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, service: Service) {
    match tls {
        None => answer(stream, service).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                answer(stream, service).await;
            }
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, service: Service) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD_MAX);
    // A caller that went away, or spoke no HTTP.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn acceptor(tls: &TlsFiles) -> Result<TlsAcceptor, ServeError> {
    let wrong = |path: &PathBuf, reason: String| ServeError::Tls { path: path.clone(), reason };
    let path = &tls.certificate;
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|e| wrong(path, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| wrong(&tls.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(path, e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| wrong(path, e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_some_connections_and_others_have_theirs() {
        let peers = Peers::default();
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let mut of_a: Vec<_> = (0..OF_ONE).map(|_| peers.enter(a).unwrap()).collect();
        assert!(peers.enter(a).is_none() && peers.enter(b).is_some());
        let proxy: Vec<_> = (0..=OF_ONE).map(|_| peers.enter(own)).collect();
        assert!(proxy.iter().all(Option::is_some));
        of_a.pop();
        assert!(peers.enter(a).is_some());
        drop((of_a, proxy));
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
