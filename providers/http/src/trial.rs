//! Trying a source: can its files be used, and can it have its address? Nothing is taken: the address is let go at once.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use millrace_provider::trial::Failed;
use millrace_settings::http::{Auth, SourceSettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::answer;
use crate::auth::Guard;
use crate::tls;

/// How long whoever has the address may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn source(settings: &SourceSettings) -> Result<String, Failed> {
    let mend = "mend the file or the setting that names it";
    Guard::new(settings).ready().await.map_err(|error| Failed::new(error, mend))?;
    let tls = tls::config(&tls::files(settings)).map_err(|error| Failed::new(error, mend))?;
    let address = settings.listen.get();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let who = match settings.auth {
        Auth::None => "everybody",
        _ => "who shows one of the tokens",
    };
    let lets_in = format!("{scheme}://{address}{} lets in {who}", settings.path);
    match TcpListener::bind(address).await {
        Ok(_) => Ok(format!("the address is free; {lets_in}")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if tls.is_none() && is_ours(address).await {
                return Ok(format!(
                    "an HTTP source of Millrace has the address, and shares it; {lets_in}"
                ));
            }
            // What speaks TLS shows its certificate to clients, and not who it is.
            let text = if tls.is_some() { "is in use" } else { "is in use by another program" };
            let mend = "end what uses it, or name another address in `listen`; sources of one lattice share theirs";
            Err(Failed::new(format!("{address} {text}"), mend))
        }
        Err(error) => {
            let mend = match error.kind() {
                ErrorKind::AddrNotAvailable => "name an address of this machine in `listen`",
                ErrorKind::PermissionDenied => {
                    "name a port from 1024 on in `listen`, or let the host use lower ones"
                }
                _ => "mend `listen`",
            };
            Err(Failed::new(format!("{address}: {error}"), mend))
        }
    }
}

/// Whether a server of this program answers there.
async fn is_ours(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream
            .write_all(b"OPTIONS * HTTP/1.1\r\nHost: millrace\r\nConnection: close\r\n\r\n")
            .await
            .ok()?;
        let mut head = Vec::new();
        stream.take(4_096).read_to_end(&mut head).await.ok()?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        Some(head.contains(&format!("\r\nserver: {}\r\n", answer::NAME)))
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten().unwrap_or(false)
}
