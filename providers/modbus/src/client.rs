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

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use millrace_settings::modbus::Register;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_modbus::client::{Client as _, Context};
use tokio_modbus::prelude::{Slave, SlaveContext as _};
use tokio_modbus::{Error, ExceptionCode, ProtocolError, Request, Response};

use crate::transport::{Transport, discard};

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

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Bits(Vec<bool>),
    Words(Vec<u16>),
}

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Function 5.
    Coil(u16, bool),
    /// Function 15.
    Coils(u16, Vec<bool>),
    /// Function 6.
    Word(u16, u16),
    /// Function 16.
    Words(u16, Vec<u16>),
}

/// A client of one connection; many units behind it share it.
pub(crate) struct Client {
    transport: Transport,
    timing: Timing,
    context: Option<Context>,
    /// When the last answer came, or the connection was made.
    last: Instant,
    /// A request went out whose answer was not seen.
    unsettled: bool,
}

impl Client {
    pub(crate) fn new(transport: Transport, timing: Timing) -> Self {
        Self { transport, timing, context: None, last: Instant::now(), unsettled: false }
    }

    pub(crate) const fn is_connected(&self) -> bool {
        self.context.is_some()
    }

    pub(crate) const fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Makes the connection. Cancelling it leaves no connection.
    pub(crate) async fn connect(&mut self) -> io::Result<()> {
        self.context = None;
        let mut wire = self.transport.open().await?;
        if self.transport.url.is_rtu() {
            if self.unsettled {
                discard(&mut wire, self.timing.timeout).await?;
            }
            self.unsettled = false;
            sleep(self.timing.pause_after_connect).await;
            self.context = Some(tokio_modbus::client::rtu::attach(wire));
        } else {
            sleep(self.timing.pause_after_connect).await;
            self.context = Some(tokio_modbus::client::tcp::attach(wire));
        }
        self.last = Instant::now();
        Ok(())
    }

    /// Ends the connection.
    pub(crate) fn close(&mut self) {
        self.context = None;
    }

    /// Reads registers or bits.
    pub(crate) async fn read(
        &mut self,
        unit: u8,
        register: Register,
        address: u16,
        count: u16,
    ) -> Result<Answer, Failure> {
        let request = match register {
            Register::Coil => Request::ReadCoils(address, count),
            Register::Discrete => Request::ReadDiscreteInputs(address, count),
            Register::Input => Request::ReadInputRegisters(address, count),
            Register::Holding => Request::ReadHoldingRegisters(address, count),
        };
        let wanted = usize::from(count);
        match self.patiently(unit, &request).await? {
            // A whole number of bytes comes; the rest of the last means nothing.
            Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits)
                if bits.len() == wanted.div_ceil(8) * 8 =>
            {
                Ok(Answer::Bits(bits))
            }
            Response::ReadInputRegisters(words) | Response::ReadHoldingRegisters(words)
                if words.len() == wanted =>
            {
                Ok(Answer::Words(words))
            }
            other => Err(self.mismatch(&format!("{count} asked for, {}", shown(&other)))),
        }
    }

    /// Writes coils or registers. Ok when the device has said that it did.
    pub(crate) async fn write(&mut self, unit: u8, order: &Order) -> Result<(), Failure> {
        let request = match order {
            Order::Coil(address, bit) => Request::WriteSingleCoil(*address, *bit),
            Order::Word(address, word) => Request::WriteSingleRegister(*address, *word),
            Order::Coils(address, bits) => {
                Request::WriteMultipleCoils(*address, Cow::Borrowed(bits))
            }
            Order::Words(address, words) => {
                Request::WriteMultipleRegisters(*address, Cow::Borrowed(words))
            }
        };
        let response = self.patiently(unit, &request).await?;
        let echoes = match (order, &response) {
            (Order::Coil(address, bit), Response::WriteSingleCoil(at, is)) => {
                (address, bit) == (at, is)
            }
            (Order::Word(address, word), Response::WriteSingleRegister(at, is)) => {
                (address, word) == (at, is)
            }
            (Order::Coils(address, bits), Response::WriteMultipleCoils(at, count)) => {
                address == at && bits.len() == usize::from(*count)
            }
            (Order::Words(address, words), Response::WriteMultipleRegisters(at, count)) => {
                address == at && words.len() == usize::from(*count)
            }
            _ => false,
        };
        if echoes { Ok(()) } else { Err(self.mismatch(&shown(&response))) }
    }

    /// Drops the connection: what is on it is out of step.
    fn mismatch(&mut self, what: &str) -> Failure {
        self.unsettled = true;
        self.close();
        Failure::Malformed(what.to_owned())
    }

    /// Asks, and asks again while the device is busy.
    async fn patiently(&mut self, unit: u8, request: &Request<'_>) -> Result<Response, Failure> {
        for _ in 0..self.timing.busy_retries {
            match self.call(unit, request.clone()).await {
                Err(Failure::Exception(BUSY)) => sleep(BUSY_PAUSE).await,
                result => return result,
            }
        }
        self.call(unit, request.clone()).await
    }

    /// One request. The connection survives only an answer: after a timeout,
    /// a wrong answer, or when this future is dropped half-way, it is gone.
    async fn call(&mut self, unit: u8, request: Request<'_>) -> Result<Response, Failure> {
        let silence = self.transport.silence().max(self.timing.pause_between_requests);
        if !silence.is_zero() {
            sleep_until(self.last + silence).await;
        }
        let Some(mut context) = self.context.take() else {
            return Err(Failure::Unconnected("the connection was dropped".to_owned()));
        };
        self.unsettled = true;
        context.set_slave(Slave(unit));
        let limit = self.timing.timeout;
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
