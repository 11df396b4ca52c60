//! Streams that lead nowhere.

use crate::bindings::exports::wasi::io::{error, poll, streams};
use crate::{deny, Deny};
use poll::{Pollable, PollableBorrow};
use streams::{InputStreamBorrow, StreamError};

/// Room that a stream says it has, in bytes: all of it is thrown away.
const ROOM: u64 = 64 * 1024;

/// There is one state only: ready.
pub struct Ready;
/// At its end.
pub struct Closed;
/// Takes everything, keeps nothing.
pub struct Discard;
/// Never made.
pub struct NoError;

impl error::Guest for Deny {
    type Error = NoError;
}

impl error::GuestError for NoError {
    fn to_debug_string(&self) -> String {
        deny()
    }
}

impl poll::Guest for Deny {
    type Pollable = Ready;

    fn poll(list: Vec<PollableBorrow<'_>>) -> Vec<u32> {
        (0..).take(list.len()).collect()
    }
}

impl poll::GuestPollable for Ready {
    fn ready(&self) -> bool {
        true
    }

    fn block(&self) {}
}

impl streams::Guest for Deny {
    type InputStream = Closed;
    type OutputStream = Discard;
}

impl streams::GuestInputStream for Closed {
    fn read(&self, _: u64) -> Result<Vec<u8>, StreamError> {
        Err(StreamError::Closed)
    }

    fn blocking_read(&self, _: u64) -> Result<Vec<u8>, StreamError> {
        Err(StreamError::Closed)
    }

    fn skip(&self, _: u64) -> Result<u64, StreamError> {
        Err(StreamError::Closed)
    }

    fn blocking_skip(&self, _: u64) -> Result<u64, StreamError> {
        Err(StreamError::Closed)
    }

    fn subscribe(&self) -> Pollable {
        Pollable::new(Ready)
    }
}

impl streams::GuestOutputStream for Discard {
    fn check_write(&self) -> Result<u64, StreamError> {
        Ok(ROOM)
    }

    fn write(&self, _: Vec<u8>) -> Result<(), StreamError> {
        Ok(())
    }

    fn blocking_write_and_flush(&self, _: Vec<u8>) -> Result<(), StreamError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), StreamError> {
        Ok(())
    }

    fn blocking_flush(&self) -> Result<(), StreamError> {
        Ok(())
    }

    fn subscribe(&self) -> Pollable {
        Pollable::new(Ready)
    }

    fn write_zeroes(&self, _: u64) -> Result<(), StreamError> {
        Ok(())
    }

    fn blocking_write_zeroes_and_flush(&self, _: u64) -> Result<(), StreamError> {
        Ok(())
    }

    fn splice(&self, _: InputStreamBorrow<'_>, _: u64) -> Result<u64, StreamError> {
        Err(StreamError::Closed)
    }

    fn blocking_splice(&self, _: InputStreamBorrow<'_>, _: u64) -> Result<u64, StreamError> {
        Err(StreamError::Closed)
    }
}
