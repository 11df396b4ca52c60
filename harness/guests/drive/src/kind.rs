//! The customer's call. Each kind of step is one module with the same two functions: `init`, and `call`, which puts what
//! comes of a message into the output.

#[cfg(any(feature = "map", feature = "flat-map"))]
use crate::bindings::millrace::step::types::MessageResult;
use crate::bindings::millrace::step::types::{Error, MessageParam};
use crate::run::{Failure, Output};
#[cfg(not(feature = "filter"))]
use millrace_batch::Fields;
use millrace_batch::Message;

#[cfg(feature = "branch")]
pub use branch::{call, init};
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
            return Err(Failure::Reject("internal", text));
        }
        let own = message.headers().filter(|(name, _)| *name != ARM);
        output.push(&Fields::from(message), own.chain([(ARM, arm.as_str())]))
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
    let fields = Fields {
        timestamp: message.timestamp,
        topic: &message.topic,
        content_type: message.content_type.as_deref(),
        key: message.key.as_deref(),
        payload: &message.payload,
    };
    output
        .push(&fields, message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}
