//! Calls to a stage over wRPC, and what their failures mean.
//!
//! What the caller sees when something goes wrong (found by trying; the first
//! three are tests of this crate):
//!
//! | what happened | what the caller sees | so |
//! |---|---|---|
//! | nobody serves the component | at once: an I/O error of kind `NotConnected`, from NATS' "no responders" | [`CallError::Away`] |
//! | the guest trapped, or the host failed to make an instance | at once: the result stream ends before a result ("incomplete results") | [`CallError::Trap`] |
//! | the guest ran into its time or memory limit | the same, at that moment | [`CallError::Trap`] |
//! | an import of the guest failed below it: the provider it publishes to is not there, or does not answer in the host's own limit | the host traps the guest, so the same | [`CallError::Trap`], told apart by the probe |
//! | the host was killed during the call, or its reply was lost | nothing, ever | the kit's time limit |
//! | all instances are busy | nothing until one is free: calls queue in the host | the kit's time limit |
//! | NATS is away | nothing; the request is buffered and may be sent on reconnect | the kit's time limit |
//!
//! The transport's own timeout covers only the handshake, so every call is
//! limited by [`millrace_kit::Delivery`].

use std::io;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_kit::packed::TRACEPARENT;
use millrace_kit::{CallError, Stage};
use wasmcloud_provider_sdk::provider::WrpcClient;

use crate::bindings::wasmcloud::messaging::handler;
use crate::bindings::wasmcloud::messaging::types::BrokerMessage;

/// A component called over the lattice. The client is made once and kept: each
/// has a subscription of its own.
pub struct WrpcStage {
    client: WrpcClient,
    subject: String,
}

impl WrpcStage {
    /// The stage behind `client`. `subject` is what the stage is told as the
    /// subject of its messages.
    #[must_use]
    pub const fn new(client: WrpcClient, subject: String) -> Self {
        Self { client, subject }
    }

    async fn handle(&self, body: Bytes, traceparent: Option<&str>) -> Result<(), CallError> {
        let headers = traceparent.map(|trace| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, trace);
            headers
        });
        let message = BrokerMessage { subject: self.subject.clone(), body, reply_to: None };
        match handler::handle_message(&self.client, headers, &message).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(answer)) => Err(CallError::from_answer(&answer)),
            Err(error) => Err(classify(&error)),
        }
    }
}

impl Stage for WrpcStage {
    fn call<'a>(
        &'a self,
        batch: Bytes,
        traceparent: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.handle(batch, traceparent))
    }
}

/// Causes for which the transport has no type, only these texts: the result
/// stream ended before a result, or within one. A test holds them in place.
const NO_RESULT: [&str; 2] = ["incomplete results", "failed to receive sync results"];

/// What a failed invocation was. See the module's table.
#[must_use]
pub fn classify(error: &anyhow::Error) -> CallError {
    let text = format!("{error:#}");
    if error.chain().any(|cause| NO_RESULT.contains(&cause.to_string().as_str())) {
        return CallError::Trap(format!("the call ended without a result ({text})"));
    }
    let kind =
        error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::UnexpectedEof) => {
            CallError::Trap(format!("the call was cut off ({text})"))
        }
        Some(io::ErrorKind::TimedOut) => CallError::Timeout(Duration::ZERO),
        Some(io::ErrorKind::NotConnected) => {
            CallError::Away(format!("nobody serves this stage ({text})"))
        }
        // The call could not be sent, or something that was not ours came back.
        _ => CallError::Away(text),
    }
}
