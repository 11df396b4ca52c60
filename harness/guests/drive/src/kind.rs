//! The customer's calls. Each kind of step is one module with `init`, and with `call`, which puts what comes of a message
//! into the output; an accumulate has `fold` and `finish` instead.

#[cfg(any(feature = "map", feature = "flat-map", feature = "accumulate"))]
use crate::bindings::millrace::step::types::MessageResult;
use crate::bindings::millrace::step::types::{Error, MessageParam};
use crate::run::{Failure, Output};
#[cfg(not(feature = "filter"))]
use millrace_batch::Fields;
use millrace_batch::Message;

#[cfg(feature = "accumulate")]
pub use accumulate::{finish, fold, init};
#[cfg(feature = "branch")]
pub use branch::{call, init};
#[cfg(feature = "delay")]
pub use delay::{call, init};
#[cfg(feature = "filter")]
pub use filter::{call, init};
#[cfg(feature = "flat-map")]
pub use flat_map::{call, init};
#[cfg(feature = "map")]
pub use map::{call, init};

#[cfg(feature = "map")]
mod map {
    use super::*;
    use crate::bindings::millrace::step::map;

    pub fn init(configuration: &[(&str, &str)]) -> Result<(), Error> {
        map::init(configuration)
    }

    #[inline]
    pub fn call(message: &Message<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
        let headers: Vec<(&str, &str)> = message.headers().collect();
        let returned = map::map(lower(message, &headers))?;
        push(&returned, output)
    }
}

#[cfg(feature = "filter")]
mod filter {
    use super::*;
    use crate::bindings::millrace::step::filter;

    pub fn init(configuration: &[(&str, &str)]) -> Result<(), Error> {
        filter::init(configuration)
    }

    #[inline]
    pub fn call(message: &Message<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
        let headers: Vec<(&str, &str)> = message.headers().collect();
        if filter::filter(lower(message, &headers))? {
            output.keep(message)?;
        }
        Ok(())
    }
}

#[cfg(feature = "flat-map")]
mod flat_map {
    use super::*;
    use crate::bindings::millrace::step::flat_map;

    pub fn init(configuration: &[(&str, &str)]) -> Result<(), Error> {
        flat_map::init(configuration)
    }

    #[inline]
    pub fn call(message: &Message<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
        let headers: Vec<(&str, &str)> = message.headers().collect();
        let returned = flat_map::flat_map(lower(message, &headers))?;
        returned.iter().try_for_each(|message| push(message, output))
    }
}

#[cfg(feature = "branch")]
mod branch {
    use super::*;
    use crate::bindings::millrace::step::branch;
    use millrace_batch::ARM;

    pub fn init(configuration: &[(&str, &str)]) -> Result<(), Error> {
        branch::init(configuration)
    }

    /// The message as it came, with the arm that it takes. Its edge takes that off again.
    #[inline]
    pub fn call(message: &Message<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
        let headers: Vec<(&str, &str)> = message.headers().collect();
        let arm = branch::branch(lower(message, &headers))?;
        if !output.arms().any(|known| known == arm) {
            let arms: Vec<&str> = output.arms().collect();
            let (arm, arms) = (crate::letters::shorten(&arm), arms.join(", "));
            let text = format!("the step has no arm `{arm}`; its arms are {arms}");
            return Err(Failure::Reject { kind: "internal", text });
        }
        let own = message.headers().filter(|(name, _)| *name != ARM);
        output.push(&Fields::from(message), own.chain([(ARM, arm.as_str())]))
    }
}

#[cfg(feature = "delay")]
mod delay {
    use super::*;
    use crate::bindings::millrace::step::delay;

    pub fn init(configuration: &[(&str, &str)]) -> Result<(), Error> {
        delay::init(configuration)
    }

    /// The message as it came, at another time.
    #[inline]
    pub fn call(message: &Message<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
        let headers: Vec<(&str, &str)> = message.headers().collect();
        let timestamp = delay::delay(lower(message, &headers))?;
        output.push(&Fields { timestamp, ..Fields::from(message) }, headers)
    }
}

#[cfg(feature = "accumulate")]
mod accumulate {
    use super::*;
    use crate::bindings::millrace::step::accumulate;
    use millrace_batch::ARM;
    use millrace_window::Ended;

    /// The arm of what comes of a window.
    const RESULT: &str = "result";

    pub fn init(configuration: &[(&str, &str)]) -> Result<(), Error> {
        accumulate::init(configuration)
    }

    /// The state with these messages in it.
    pub fn fold(state: Option<&[u8]>, messages: &[Message<'_>]) -> Result<Vec<u8>, Failure> {
        let headers: Vec<Vec<(&str, &str)>> =
            messages.iter().map(|message| message.headers().collect()).collect();
        let lowered: Vec<MessageParam<'_>> =
            messages.iter().zip(&headers).map(|(message, own)| lower(message, own)).collect();
        Ok(accumulate::accumulate(state, &lowered)?)
    }

    /// What the customer makes of a window, each message with its arm. All of it goes on, or nothing.
    pub fn finish(ended: &Ended<'_>, output: &mut Output<'_>) -> Result<(), Failure> {
        let entry = &ended.entry;
        let window = accumulate::WindowParam {
            key: entry.group.key(),
            topic: entry.group.topic(),
            start: entry.start,
            end: entry.end,
            count: entry.count,
        };
        let returned = accumulate::finish(window, entry.state)?;
        let before = output.mark();
        let pushed = returned.iter().try_for_each(|message| {
            let timestamp = if message.timestamp == 0 { ended.time } else { message.timestamp };
            let fields = Fields { timestamp, ..fields(message) };
            let own = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            output.push(&fields, own.filter(|(name, _)| *name != ARM).chain([(ARM, RESULT)]))
        });
        if pushed.is_err() {
            output.rewind(before);
        }
        pushed
    }
}

/// A message as the customer's interface takes it.
#[inline]
fn lower<'a>(message: &Message<'a>, headers: &'a [(&'a str, &'a str)]) -> MessageParam<'a> {
    MessageParam {
        timestamp: message.timestamp,
        topic: message.topic,
        key: message.key,
        content_type: message.content_type,
        headers,
        payload: message.payload,
    }
}

/// Packs a message that the customer returned.
#[cfg(any(feature = "map", feature = "flat-map"))]
#[inline]
fn push(message: &MessageResult, output: &mut Output<'_>) -> Result<(), Failure> {
    let own = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    output.push(&fields(message), own)
}

/// What a message that the customer returned holds besides its headers.
#[cfg(any(feature = "map", feature = "flat-map", feature = "accumulate"))]
#[inline]
fn fields(message: &MessageResult) -> Fields<'_> {
    Fields {
        timestamp: message.timestamp,
        topic: &message.topic,
        content_type: message.content_type.as_deref(),
        key: message.key.as_deref(),
        payload: &message.payload,
    }
}
