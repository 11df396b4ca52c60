//! Closing a connection so that the broker has read all of it.
//!
//! Who closes a socket on which there is still something to be read resets the
//! connection, and a reset discards what the other side has not read yet (RFC
//! 9293, section 3.10.4; RFC 1122, section 4.2.2.13). A broker that goes on
//! sending while we say goodbye would so lose our last acknowledgements, and
//! send those messages again, or lose the goodbye, and publish our last will.
//! So what is left is read and thrown away until the broker has closed too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The longest that a broker is waited for which has much to read.
const LIMIT: Duration = Duration::from_secs(5);

/// The longest that a broker is waited for which sends nothing.
const SILENCE: Duration = Duration::from_secs(1);

/// The connections of one client that are not closed yet.
#[derive(Debug)]
pub(crate) struct Linger {
    open: watch::Sender<usize>,
}

impl Default for Linger {
    fn default() -> Self {
        Self { open: watch::Sender::new(0) }
    }
}

impl Linger {
    /// Takes care of a connection from now on.
    pub(super) fn guard(self: &Arc<Self>, tcp: TcpStream) -> Guarded {
        self.open.send_modify(|open| *open += 1);
        Guarded { tcp: Some(tcp), linger: Arc::clone(self) }
    }

    /// Waits until every connection that was let go is closed, or given up.
    pub(crate) async fn closed(&self) {
        let mut open = self.open.subscribe();
        let _ = tokio::time::timeout(LIMIT + SILENCE, open.wait_for(|open| *open == 0)).await;
    }

    fn is_closed(&self) {
        self.open.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// A connection that lingers when it is dropped.
#[derive(Debug)]
pub(super) struct Guarded {
    /// Absent only while it is dropped.
    tcp: Option<TcpStream>,
    linger: Arc<Linger>,
}

impl Guarded {
    fn tcp(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        self.get_mut().tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let linger = Arc::clone(&self.linger);
        let (Some(tcp), Ok(runtime)) = (self.tcp.take(), tokio::runtime::Handle::try_current())
        else {
            linger.is_closed();
            return;
        };
        runtime.spawn(async move {
            let _ = tokio::time::timeout(LIMIT, until_it_has_closed(tcp)).await;
            linger.is_closed();
        });
    }
}

async fn until_it_has_closed(mut tcp: TcpStream) -> io::Result<()> {
    tcp.shutdown().await?;
    let mut rest = vec![0; 16 * 1024];
    while tokio::time::timeout(SILENCE, tcp.read(&mut rest)).await?? > 0 {}
    Ok(())
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_shutdown(context)
    }
}
