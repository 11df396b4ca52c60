//! What librdkafka tells us, kept until the task that owns the client asks.
//!
//! Its callbacks run on whatever thread polls. They only note what happened:
//! nothing in here blocks, and nothing is decided in here.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use millrace_kit::Link;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::Notify;

use crate::token;

/// What the group decided.
#[derive(Debug)]
pub(crate) enum Rebalance {
    Assigned(TopicPartitionList),
    Revoked(TopicPartitionList),
}

/// What is wrong, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No broker can be reached; the library goes on trying.
    Down(String),
    /// A broker does not accept who we are, or we do not accept who it is.
    Refused(String),
    /// A topic or the group cannot be used, now.
    Standing(String),
    /// The client is of no use any more.
    Fatal(String),
    /// Worth knowing.
    Notice(String),
}

/// Notes for the task that owns a client.
#[derive(Debug)]
pub(crate) struct Notes {
    link: Arc<Link>,
    token_file: Option<PathBuf>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    troubles: Mutex<VecDeque<Trouble>>,
    /// The last thing a single broker's connection failed with.
    reason: Mutex<Option<String>>,
    /// Callbacks run so far: a poll that ran one may have more behind it.
    served: AtomicU64,
    closing: AtomicBool,
    /// Notified when there is something new.
    pub(crate) wake: Arc<Notify>,
}

/// Most troubles kept: a new one drops the oldest.
const TROUBLES: usize = 16;

impl Notes {
    pub(crate) fn new(link: Arc<Link>, token_file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            link,
            token_file,
            rebalances: Mutex::default(),
            troubles: Mutex::default(),
            reason: Mutex::default(),
            served: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            wake: Arc::new(Notify::new()),
        })
    }

    pub(crate) fn next_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().pop_front()
    }

    pub(crate) fn next_trouble(&self) -> Option<Trouble> {
        self.troubles.lock().pop_front()
    }

    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// From now on partitions are given back at once: the client is closing.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, trouble: Trouble) {
        let mut troubles = self.troubles.lock();
        if troubles.back() == Some(&trouble) {
            return;
        }
        if troubles.len() >= TROUBLES {
            troubles.pop_front();
        }
        troubles.push_back(trouble);
        drop(troubles);
        self.wake.notify_one();
    }

    fn serve(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// Sorts an error by what can be done about it.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let text = if reason.is_empty() { error.to_string() } else { reason.to_owned() };
        let text = clearer(text);
        tracing::debug!(link = self.link.names.name, ?code, "{text}");
        let trouble = match code {
            Some(Code::Fatal) => Trouble::Fatal(text),
            Some(Code::AllBrokersDown) => Trouble::Down(self.reason.lock().clone().unwrap_or(text)),
            Some(
                Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut,
            ) => {
                // One broker of several: no trouble as long as others are there.
                *self.reason.lock() = Some(text);
                self.wake.notify_one();
                return;
            }
            Some(
                Code::Authentication
                | Code::SSL
                | Code::SaslAuthenticationFailed
                | Code::UnsupportedSASLMechanism
                | Code::IllegalSASLState,
            ) => {
                *self.reason.lock() = Some(text.clone());
                Trouble::Refused(text)
            }
            Some(
                Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::InvalidTopic
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::InconsistentGroupProtocol
                | Code::InvalidSessionTimeout
                | Code::InvalidGroupId
                | Code::GroupMaxSizeReached,
            ) => Trouble::Standing(text),
            _ => Trouble::Notice(text),
        };
        self.note(trouble);
    }
}

/// The library's words name a property of its own, and one reason of three.
fn clearer(text: String) -> String {
    const FAILED: &str = "certificate verify failed";
    match text.split_once(FAILED) {
        Some((before, _)) => format!(
            "{before}{FAILED}: the broker's certificate has expired, is for another name, or no \
             authority in tls-ca-file (without it: the system's) has signed it"
        ),
        None => text,
    }
}

/// The notes as the library wants them.
#[derive(Debug, Clone)]
pub(crate) struct Context(pub(crate) Arc<Notes>);

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.serve();
        // What matters comes as an error too.
        let link = &self.0.link.names.name;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(link, facility, "{text}");
            }
            _ => tracing::debug!(link, facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.serve();
        self.0.error(&error, reason);
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.serve();
        let file = self.0.token_file.as_deref().ok_or("no token-file")?;
        token::read(file).map_err(|text| {
            self.0.note(Trouble::Refused(text.clone()));
            text.into()
        })
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        self.0.serve();
        let assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.0.closing.load(Ordering::Relaxed) {
            // Nobody is left to wait for; what was stored is committed.
            let answered = if assigned {
                consumer.incremental_assign(&TopicPartitionList::new())
            } else {
                consumer.incremental_unassign(partitions)
            };
            if answered.is_err() {
                let _ = consumer.unassign();
            }
            return;
        }
        // The library waits for the answer while it is polled on, so it can be
        // given later, when what is in flight is safe.
        let partitions = partitions.clone();
        self.0.rebalances.lock().push_back(if assigned {
            Rebalance::Assigned(partitions)
        } else {
            Rebalance::Revoked(partitions)
        });
        self.0.wake.notify_one();
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.0.serve();
        match result {
            Err(error) if error.rdkafka_error_code() != Some(Code::NoOffset) => {
                self.0.note(Trouble::Notice(format!("offsets were not committed: {error}")));
            }
            _ => {}
        }
    }
}
