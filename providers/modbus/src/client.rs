//! The client library behind one small seam.
//!
//! tokio-modbus frames and parses. What it does not have is here: a limit on
//! the time of every request, checks that an answer answers the question
//! (length, address, value), and a connection that is dropped whenever what is
//! on the wire may no longer match what was asked. Whoever replaces the
//! library replaces this file.
//!
//! **After a request that was not answered** an answer may still come. With
//! TCP it goes to the connection that was dropped. RTU has nothing that tells
//! answers apart but unit, function and length, so after such a request the
//! line is listened to for as long again and what comes is thrown away.
//!
//! **A serial line** can be open once only. Sources and sinks of one process
//! that name the same line share it, request by request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use millrace_settings::modbus::{Register, Scheme, SinkSettings, SourceSettings};
use parking_lot::Mutex as Lock;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_modbus::client::{Client as _, Context};
use tokio_modbus::prelude::{Slave, SlaveContext as _};
use tokio_modbus::{Error, ExceptionCode, ProtocolError, Request, Response};

use crate::transport::{Transport, Watch, discard};

/// Exception 6: ask again later.
const BUSY: u8 = 6;

/// Pause before a busy device is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// How a device is to be treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Limit of one request.
    pub(crate) timeout: Duration,
    pub(crate) pause_after_connect: Duration,
    pub(crate) pause_between_requests: Duration,
    pub(crate) busy_retries: u32,
}

impl Timing {
    pub(crate) fn of_source(settings: &SourceSettings) -> Self {
        Self {
            timeout: settings.timeout.get(),
            pause_after_connect: settings.pause_after_connect.get(),
            pause_between_requests: settings.pause_between_requests.get(),
            busy_retries: u32::try_from(settings.busy_retries.get()).unwrap_or(0),
        }
    }

    pub(crate) fn of_sink(settings: &SinkSettings) -> Self {
        Self {
            timeout: settings.timeout.get(),
            pause_after_connect: settings.pause_after_connect.get(),
            pause_between_requests: settings.pause_between_requests.get(),
            busy_retries: u32::try_from(settings.busy_retries.get()).unwrap_or(0),
        }
    }
}

/// Why a request has no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no connection.
    #[error("not connected: {0}")]
    Unconnected(String),
    /// The connection was lost before the answer.
    #[error("{0}")]
    Lost(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Something came that is not the answer.
    #[error("not an answer to the request: {0}")]
    Malformed(String),
    /// The device said no.
    #[error("exception {code}, {name}", code = .0, name = exception_name(*.0))]
    Exception(u8),
}

impl Failure {
    /// Whether it is the device that is away, and not one request of it that
    /// is wrong.
    pub(crate) const fn is_silence(&self) -> bool {
        // Exceptions 10 and 11 are a gateway's word for the same.
        !matches!(self, Self::Exception(code) if *code != 10 && *code != 11)
    }
}

/// What an exception says (Modbus Application Protocol 1.1b3, section 7).
const fn exception_name(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "device failure",
        5 => "accepted, still working",
        6 => "device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "the device behind the gateway does not answer",
        _ => "not one of the protocol",
    }
}

/// What a device is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Functions 1 to 4: so many registers or bits from an address.
    Read(Register, u16, u16),
    /// Function 5.
    Coil(u16, bool),
    /// Function 15.
    Coils(u16, Vec<bool>),
    /// Function 6.
    Word(u16, u16),
    /// Function 16.
    Words(u16, Vec<u16>),
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Bits(Vec<bool>),
    Words(Vec<u16>),
    /// It has done what was to be written.
    Done,
}

/// A connection; many units behind it share it.
pub(crate) struct Client {
    transport: Transport,
    context: Option<Context>,
    watch: Watch,
    /// When the last answer came, or the connection was made.
    last: Instant,
    /// A request went out whose answer was not seen.
    unsettled: bool,
}

/// A client that several links may use, one request at a time.
pub(crate) type Shared = Arc<Mutex<Client>>;

/// Serial lines in use, by path, with their settings.
type Lines = HashMap<String, (Transport, Weak<Mutex<Client>>)>;

/// The serial lines of this process.
static LINES: LazyLock<Lock<Lines>> = LazyLock::new(Lock::default);

/// The client for a transport: for a serial line that is in use already, with
/// the same settings, the one that uses it. With other settings it is another
/// client, which cannot open the line until the first is gone, and says so.
pub(crate) fn client(transport: &Transport) -> Shared {
    let new = || Arc::new(Mutex::new(Client::new(transport.clone())));
    if transport.url.scheme() != Scheme::Rtu {
        return new();
    }
    let mut lines = LINES.lock();
    lines.retain(|_, (_, client)| client.strong_count() > 0);
    let known = lines.get(transport.url.path()).filter(|(known, _)| known == transport);
    if let Some(client) = known.and_then(|(_, client)| client.upgrade()) {
        return client;
    }
    let client = new();
    let entry = (transport.clone(), Arc::downgrade(&client));
    lines.insert(transport.url.path().to_owned(), entry);
    client
}

impl Client {
    fn new(transport: Transport) -> Self {
        Self {
            transport,
            context: None,
            watch: Watch::default(),
            last: Instant::now(),
            unsettled: false,
        }
    }

    /// A client whose device is the other end of a pipe.
    #[cfg(fuzzing)]
    pub(crate) fn attached(
        transport: Transport,
        wire: tokio::io::DuplexStream,
        is_rtu: bool,
    ) -> Self {
        let context = if is_rtu {
            tokio_modbus::client::rtu::attach(wire)
        } else {
            tokio_modbus::client::tcp::attach(wire)
        };
        Self { context: Some(context), ..Self::new(transport) }
    }

    pub(crate) const fn is_connected(&self) -> bool {
        self.context.is_some()
    }

    /// Makes the connection. Cancelling it leaves no connection.
    pub(crate) async fn connect(&mut self, timing: &Timing) -> io::Result<()> {
        self.context = None;
        let mut wire = self.transport.open().await?;
        self.watch = wire.watch();
        if self.transport.url.is_rtu() {
            if self.unsettled {
                discard(&mut wire, timing.timeout).await?;
            }
            self.unsettled = false;
            sleep(timing.pause_after_connect).await;
            self.context = Some(tokio_modbus::client::rtu::attach(wire));
        } else {
            sleep(timing.pause_after_connect).await;
            self.context = Some(tokio_modbus::client::tcp::attach(wire));
        }
        self.last = Instant::now();
        Ok(())
    }

    /// Whether there is a connection that the other side has closed.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_connected() && self.watch.has_ended()
    }

    /// When the last answer came, or the connection was made.
    pub(crate) const fn last(&self) -> Instant {
        self.last
    }

    /// Ends the connection.
    pub(crate) fn close(&mut self) {
        self.context = None;
    }

    /// Makes a unit do something, and checks that the answer says so.
    pub(crate) async fn ask(
        &mut self,
        unit: u8,
        order: &Order,
        timing: &Timing,
    ) -> Result<Answer, Failure> {
        let response = self.patiently(unit, &order.request(), timing).await?;
        order.answer(response).map_err(|what| self.mismatch(what))
    }

    /// Drops the connection: what is on it is out of step.
    fn mismatch(&mut self, what: String) -> Failure {
        self.unsettled = true;
        self.close();
        Failure::Malformed(what)
    }

    /// Asks, and asks again while the device is busy.
    async fn patiently(
        &mut self,
        unit: u8,
        request: &Request<'_>,
        timing: &Timing,
    ) -> Result<Response, Failure> {
        for _ in 0..timing.busy_retries {
            match self.call(unit, request.clone(), timing).await {
                Err(Failure::Exception(BUSY)) => sleep(BUSY_PAUSE).await,
                result => return result,
            }
        }
        self.call(unit, request.clone(), timing).await
    }

    /// One request. The connection survives only an answer: after a timeout,
    /// a wrong answer, or when this future is dropped half-way, it is gone.
    async fn call(
        &mut self,
        unit: u8,
        request: Request<'_>,
        timing: &Timing,
    ) -> Result<Response, Failure> {
        let begin = self.last + self.transport.silence().max(timing.pause_between_requests);
        // A timer in the past would still cost up to a millisecond.
        if begin > Instant::now() {
            sleep_until(begin).await;
        }
        let Some(mut context) = self.context.take() else {
            return Err(Failure::Unconnected("the connection was dropped".to_owned()));
        };
        self.unsettled = true;
        context.set_slave(Slave(unit));
        let limit = timing.timeout;
        let result = match timeout(limit, context.call(request)).await {
            Err(_) => return Err(Failure::Timeout(limit)),
            Ok(Err(error)) => return Err(failure(error)),
            Ok(Ok(result)) => result,
        };
        self.unsettled = false;
        self.last = Instant::now();
        self.context = Some(context);
        result.map_err(|exception: ExceptionCode| Failure::Exception(exception.into()))
    }
}

impl Order {
    fn request(&self) -> Request<'_> {
        match self {
            Self::Read(Register::Coil, address, count) => Request::ReadCoils(*address, *count),
            Self::Read(Register::Discrete, address, count) => {
                Request::ReadDiscreteInputs(*address, *count)
            }
            Self::Read(Register::Input, address, count) => {
                Request::ReadInputRegisters(*address, *count)
            }
            Self::Read(Register::Holding, address, count) => {
                Request::ReadHoldingRegisters(*address, *count)
            }
            Self::Coil(address, bit) => Request::WriteSingleCoil(*address, *bit),
            Self::Word(address, word) => Request::WriteSingleRegister(*address, *word),
            Self::Coils(address, bits) => {
                Request::WriteMultipleCoils(*address, Cow::Borrowed(bits))
            }
            Self::Words(address, words) => {
                Request::WriteMultipleRegisters(*address, Cow::Borrowed(words))
            }
        }
    }

    /// The answer, if it is one to this: the library has checked unit and
    /// function only.
    fn answer(&self, response: Response) -> Result<Answer, String> {
        use Response as R;
        let done = match (self, &response) {
            (
                Self::Read(Register::Coil | Register::Discrete, _, count),
                R::ReadCoils(bits) | R::ReadDiscreteInputs(bits),
                // A whole number of bytes comes; the rest of the last means nothing.
            ) => bits.len() == usize::from(*count).div_ceil(8) * 8,
            (
                Self::Read(Register::Input | Register::Holding, _, count),
                R::ReadInputRegisters(words) | R::ReadHoldingRegisters(words),
            ) => words.len() == usize::from(*count),
            (Self::Coil(address, bit), R::WriteSingleCoil(at, is)) => (address, bit) == (at, is),
            (Self::Word(address, word), R::WriteSingleRegister(at, is)) => {
                (address, word) == (at, is)
            }
            (Self::Coils(address, bits), R::WriteMultipleCoils(at, count)) => {
                address == at && bits.len() == usize::from(*count)
            }
            (Self::Words(address, words), R::WriteMultipleRegisters(at, count)) => {
                address == at && words.len() == usize::from(*count)
            }
            _ => false,
        };
        match (done, response) {
            (true, R::ReadCoils(bits) | R::ReadDiscreteInputs(bits)) => Ok(Answer::Bits(bits)),
            (true, R::ReadInputRegisters(words) | R::ReadHoldingRegisters(words)) => {
                Ok(Answer::Words(words))
            }
            (true, _) => Ok(Answer::Done),
            (false, response) => match self {
                Self::Read(_, _, count) => Err(format!("{count} asked for, {}", shown(&response))),
                _ => Err(shown(&response)),
            },
        }
    }
}

/// The library's errors as ours.
fn failure(error: Error) -> Failure {
    match error {
        Error::Protocol(ProtocolError::HeaderMismatch { message, .. }) => {
            Failure::Malformed(message)
        }
        Error::Protocol(ProtocolError::FunctionCodeMismatch { request, result }) => {
            let what = match result {
                Ok(response) => response.function_code().to_string(),
                Err(_) => "an exception of another function".to_owned(),
            };
            Failure::Malformed(format!("function {request} asked, {what} answered"))
        }
        Error::Transport(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) =>
        {
            Failure::Malformed(error.to_string())
        }
        Error::Transport(error) => Failure::Lost(error.to_string()),
    }
}

/// An answer in few words, whatever is in it.
fn shown(response: &Response) -> String {
    match response {
        Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => {
            format!("{} bits came", bits.len())
        }
        Response::ReadInputRegisters(words) | Response::ReadHoldingRegisters(words) => {
            format!("{} registers came", words.len())
        }
        Response::WriteSingleCoil(address, is) => {
            format!("the device answers with coil 0x{address:04X} = {is}")
        }
        Response::WriteSingleRegister(address, word) => {
            format!("the device answers with register 0x{address:04X} = {word}")
        }
        Response::WriteMultipleCoils(address, count)
        | Response::WriteMultipleRegisters(address, count) => {
            format!("the device answers with {count} from 0x{address:04X}")
        }
        other => format!("function {}", other.function_code()),
    }
}
