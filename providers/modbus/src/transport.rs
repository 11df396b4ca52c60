//! The wire: a TCP connection or a serial line, as one stream of bytes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use millrace_settings::modbus::{ModbusUrl, Parity, Scheme, SinkSettings, SourceSettings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_serial::{ClearBuffer, SerialPort, SerialPortBuilderExt, SerialStream};

/// How long connecting may take, host name included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A line on which nothing came for so long is silent.
const SILENCE: Duration = Duration::from_millis(50);

/// Bits of a character on a serial line: start, 8 data, parity or second stop,
/// stop (Modbus over Serial Line 1.02, section 2.5.1).
const CHARACTER_BITS: u64 = 11;

/// Where the devices are and how the line is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) url: ModbusUrl,
    baud_rate: u32,
    parity: Parity,
    stop_bits: tokio_serial::StopBits,
}

impl Transport {
    pub(crate) fn of_source(settings: &SourceSettings) -> Self {
        let line = (settings.baud_rate.map(|n| n.get()), settings.stop_bits.map(|n| n.get()));
        Self::new(&settings.url, line, settings.parity)
    }

    pub(crate) fn of_sink(settings: &SinkSettings) -> Self {
        let line = (settings.baud_rate.map(|n| n.get()), settings.stop_bits.map(|n| n.get()));
        Self::new(&settings.url, line, settings.parity)
    }

    fn new(url: &ModbusUrl, line: (Option<u64>, Option<u64>), parity: Option<Parity>) -> Self {
        let parity = parity.unwrap_or(Parity::Even);
        // Without a parity bit a second stop bit takes its place.
        let stop = line.1.unwrap_or(if parity == Parity::None { 2 } else { 1 });
        Self {
            url: url.clone(),
            baud_rate: line.0.and_then(|n| u32::try_from(n).ok()).unwrap_or(19_200),
            parity,
            stop_bits: if stop == 2 {
                tokio_serial::StopBits::Two
            } else {
                tokio_serial::StopBits::One
            },
        }
    }

    /// The silence before a request on a serial line: three and a half
    /// characters, above 19200 baud 1.75 ms (Modbus over Serial Line 1.02,
    /// section 2.5.1.1).
    pub(crate) fn silence(&self) -> Duration {
        match self.url.scheme() {
            Scheme::Tcp | Scheme::RtuOverTcp => Duration::ZERO,
            Scheme::Rtu if self.baud_rate > 19_200 => Duration::from_micros(1_750),
            Scheme::Rtu => {
                let micros = 3_500_000 * CHARACTER_BITS / u64::from(self.baud_rate);
                Duration::from_micros(micros)
            }
        }
    }

    /// Opens the wire.
    pub(crate) async fn open(&self) -> io::Result<Wire> {
        match self.url.scheme() {
            Scheme::Tcp | Scheme::RtuOverTcp => {
                let connect = TcpStream::connect((self.url.host(), self.url.port()));
                let stream =
                    tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| {
                        let text = format!("no connection within {CONNECT_TIMEOUT:?}");
                        io::Error::new(io::ErrorKind::TimedOut, text)
                    })??;
                // Small packets back and forth: Nagle's algorithm would add a
                // delayed acknowledgement to each.
                stream.set_nodelay(true)?;
                let stream = stream.into_std()?;
                let other = Arc::new(stream.try_clone()?);
                Ok(Wire::Tcp(TcpStream::from_std(stream)?, other))
            }
            Scheme::Rtu => {
                let parity = match self.parity {
                    Parity::None => tokio_serial::Parity::None,
                    Parity::Odd => tokio_serial::Parity::Odd,
                    Parity::Even => tokio_serial::Parity::Even,
                };
                let line = tokio_serial::new(self.url.path(), self.baud_rate)
                    .data_bits(tokio_serial::DataBits::Eight)
                    .parity(parity)
                    .stop_bits(self.stop_bits)
                    .open_native_async()?;
                // What came before nobody asked for.
                line.clear(ClearBuffer::All)?;
                Ok(Wire::Serial(line))
            }
        }
    }
}

/// Throws away what comes, for `limit` at most, and no longer than until
/// something came and the line is silent again.
pub(crate) async fn discard(wire: &mut Wire, limit: Duration) -> io::Result<usize> {
    let until = tokio::time::Instant::now() + limit;
    let mut buffer = [0; 256];
    let mut thrown = 0;
    loop {
        let wait =
            if thrown == 0 { until } else { until.min(tokio::time::Instant::now() + SILENCE) };
        match tokio::time::timeout_at(wait, wire.read(&mut buffer)).await {
            Ok(Ok(bytes)) => thrown += bytes,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(thrown),
        }
    }
}

/// An open wire. The end of the stream is an error here: the client library
/// would report it as whatever the last system call left behind.
#[derive(Debug)]
pub(crate) enum Wire {
    /// The stream, and a second handle of it, to look at it from outside while
    /// nothing is read.
    Tcp(TcpStream, Arc<std::net::TcpStream>),
    Serial(SerialStream),
}

impl Wire {
    /// What tells whether the wire has ended, as long as it exists.
    pub(crate) fn watch(&self) -> Watch {
        match self {
            Self::Tcp(_, other) => Watch(Arc::downgrade(other)),
            Self::Serial(_) => Watch::default(),
        }
    }
}

/// Sees that the other side has closed a TCP connection on which nothing is
/// asked: nobody reads it then, who would see the end.
#[derive(Debug, Default)]
pub(crate) struct Watch(Weak<std::net::TcpStream>);

impl Watch {
    /// Whether the other side has closed the connection. A device that lost its
    /// power closes nothing, and a serial line is not seen.
    pub(crate) fn has_ended(&self) -> bool {
        // It does not block: that is a property of the stream, not of a handle.
        self.0.upgrade().is_some_and(|stream| match stream.peek(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        })
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let (read, end) = match &mut *self {
            Self::Tcp(stream, _) => {
                (Pin::new(stream).poll_read(cx, buf), "the device closed the connection")
            }
            Self::Serial(line) => (Pin::new(line).poll_read(cx, buf), "the serial line is gone"),
        };
        ready!(read)?;
        if buf.filled().len() == before && buf.remaining() > 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, end)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Serial(line) => Pin::new(line).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream, _) => Pin::new(stream).poll_flush(cx),
            // The library's flush waits for the last byte to leave, and blocks
            // the thread meanwhile. The answer says as much.
            Self::Serial(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Serial(_) => Poll::Ready(Ok(())),
        }
    }
}
