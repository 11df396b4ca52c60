//! Calls to one stage, as a source makes them, and whose fault it is when one fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::HeaderMap;
use bytes::Bytes;
use millrace_batch::{Batch, BatchWriter, ENTER, PROBE};
use millrace_kit::packed::{self, TRACEPARENT};
use millrace_kit::{Backoff, CallError};
use millrace_provider::bindings::wasmcloud::messaging::handler;
use millrace_provider::bindings::wasmcloud::messaging::types::BrokerMessage;
use millrace_provider::call::classify;
use millrace_wadm::DeployedStage;

/// How long a stage that is away, or whose next hop refuses, is asked again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a step may ask for a retry.
const ATTEMPTS: u32 = 3;

/// So many letters in a row that the next hop refused: it will refuse the others too.
const REFUSED_IN_A_ROW: u32 = 3;

/// Why a letter stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The message's own fault, as far as can be seen: others may be taken.
    #[error("{text}")]
    Letter {
        /// The kind of the error.
        kind: &'static str,
        /// The stage's words.
        text: String,
    },
    /// Not the message's fault. Nothing more is given to this stage.
    #[error("stage `{stage}`: {text}")]
    Stage {
        /// Its name.
        stage: String,
        /// What is wrong with it.
        text: String,
    },
}

/// A stage that is called.
pub(crate) struct Caller {
    stage: String,
    client: Arc<wrpc_transport_nats::Client>,
    subject: String,
    limit: Duration,
    /// Why it is not called any more.
    stopped: Option<String>,
    refused: u32,
    /// It knows where a batch is to enter.
    enters: bool,
}

impl Caller {
    /// A caller of a stage, with a time limit for each call.
    pub(crate) async fn new(
        nats: &async_nats::Client,
        lattice: &str,
        pipeline: &str,
        stage: &DeployedStage,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let prefix = format!("{lattice}.{}", stage.id);
        let client = wrpc_transport_nats::Client::new(nats.clone(), prefix, None).await;
        Ok(Self {
            stage: stage.name.clone(),
            client: Arc::new(client.context("could not prepare calls to a stage")?),
            subject: format!("{pipeline}.replay"),
            limit,
            stopped: None,
            refused: 0,
            enters: false,
        })
    }

    /// Makes sure that the stage heeds where a batch is to enter. One that was built by an earlier version takes every
    /// batch through all its steps.
    pub(crate) async fn can_enter(&mut self, step: &str) -> Result<(), Fault> {
        if self.enters {
            return Ok(());
        }
        let probe = BatchWriter::new([(PROBE, "1"), (ENTER, step)]).map(BatchWriter::finish);
        let probe: Bytes = probe.unwrap_or_default().into();
        // Refused by its outlet: an empty batch enters nowhere.
        match self.give_until(probe).await {
            Err(Fault::Letter { kind: "batch", .. }) => {
                self.enters = true;
                Ok(())
            }
            Err(fault) => Err(fault),
            Ok(()) => Err(self.stop(
                "it was built by an earlier version of Millrace, which would take the message through all its steps \
                 again; deploy it again"
                    .to_owned(),
            )),
        }
    }

    /// Gives the stage a batch, and waits a little where that may help.
    pub(crate) async fn give(&mut self, batch: Bytes) -> Result<(), Fault> {
        let given = self.give_until(batch).await;
        match &given {
            Err(Fault::Letter { kind: "downstream", text }) => {
                self.refused += 1;
                if self.refused >= REFUSED_IN_A_ROW {
                    return Err(self.stop(format!("what comes behind it refuses: {text}")));
                }
            }
            _ => self.refused = 0,
        }
        given
    }

    async fn give_until(&mut self, batch: Bytes) -> Result<(), Fault> {
        if let Some(text) = &self.stopped {
            return Err(Fault::Stage { stage: self.stage.clone(), text: text.clone() });
        }
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        let (start, mut asked) = (Instant::now(), 0);
        loop {
            let Err(error) = self.call(batch.clone()).await else { return Ok(()) };
            let impatient = start.elapsed() > PATIENCE;
            match &error {
                CallError::Batch(_) => return Err(letter(&error)),
                CallError::Retry(_) => {
                    asked += 1;
                    if asked >= ATTEMPTS {
                        return Err(letter(&error));
                    }
                }
                // It may have been the host's fault, or that of what comes behind the stage. Then a probe fails too.
                CallError::Trap(_) | CallError::Timeout(_) => match self.probe().await {
                    Ok(()) => return Err(letter(&error)),
                    Err(probe) if impatient => return Err(self.stop(probe.to_string())),
                    Err(_) => {}
                },
                CallError::Downstream(_) if impatient => return Err(letter(&error)),
                CallError::Away(_) | CallError::Config(_) if impatient => {
                    return Err(self.stop(error.to_string()));
                }
                CallError::Downstream(_) | CallError::Away(_) | CallError::Config(_) => {}
            }
            backoff.wait().await;
        }
    }

    async fn probe(&self) -> Result<(), CallError> {
        match self.call(packed::probe()).await {
            // It lives.
            Ok(()) | Err(CallError::Retry(_) | CallError::Batch(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn call(&self, body: Bytes) -> Result<(), CallError> {
        let trace = Batch::open(&body).ok().and_then(|batch| batch.header(TRACEPARENT));
        let headers = trace.map(|trace| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, trace);
            headers
        });
        let message =
            BrokerMessage { subject: self.subject.clone(), body: body.clone(), reply_to: None };
        let call = handler::handle_message(&*self.client, headers, &message);
        match tokio::time::timeout(self.limit, call).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(answer))) => Err(CallError::from_answer(&answer)),
            Ok(Err(error)) => Err(classify(&error)),
            Err(_) => Err(CallError::Timeout(self.limit)),
        }
    }

    fn stop(&mut self, text: String) -> Fault {
        self.stopped = Some(text.clone());
        Fault::Stage { stage: self.stage.clone(), text }
    }
}

fn letter(error: &CallError) -> Fault {
    Fault::Letter { kind: error.kind().name(), text: error.to_string() }
}
