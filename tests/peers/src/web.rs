//! Python's own server of HTTP, of the files of a folder.

use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server of HTTP. It answers `GET` and `HEAD`, redirects a folder without a slash, and knows no other method.
#[derive(Debug)]
pub struct WebServer {
    process: Child,
    port: u16,
}

impl WebServer {
    /// Serves the files of a folder on a free port.
    ///
    /// # Errors
    ///
    /// Python is not there, or does not say where it listens.
    pub fn start(folder: &Path) -> io::Result<Self> {
        Self::start_on(folder, 0)
    }

    /// The same on this port.
    ///
    /// # Errors
    ///
    /// As [`WebServer::start`], or the port is taken.
    pub fn start_on(folder: &Path, port: u16) -> io::Result<Self> {
        let mut process = Command::new("python3")
            .args(["-u", "-m", "http.server", "--bind", "127.0.0.1"])
            .args([&port.to_string(), "--directory"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // "Serving HTTP on 127.0.0.1 port 43210 ..."
        let mut line = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        match line.split(' ').find_map(|word| word.parse().ok()) {
            Some(port) => Ok(Self { process, port }),
            None => {
                let _ = process.kill();
                let _ = process.wait();
                Err(io::Error::other(format!("the server says {line:?}")))
            }
        }
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
