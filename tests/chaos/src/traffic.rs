//! The machine that sends, and the reader of what comes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::ensure;
use millrace_peers::Kafka;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext, Message as _};
use tokio::task::JoinHandle;

use crate::ledger::Ledger;
use crate::message;
use crate::plant::{IN, OUT, PARTITIONS};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(5);

/// All that was sent is at the broker within this time.
const FLUSH: Duration = Duration::from_secs(120);

/// Counts what the broker does not take.
#[derive(Default)]
struct Refused(AtomicU64);

impl ClientContext for Refused {}

impl ProducerContext for Refused {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Relaxed);
        }
    }
}

/// Sends numbered messages at a steady rate, whatever happens behind it.
pub(crate) struct Machine {
    stop: Arc<AtomicBool>,
    work: JoinHandle<anyhow::Result<()>>,
}

impl Machine {
    pub(crate) fn start(
        kafka: &Kafka,
        rate: u32,
        ledger: Arc<Mutex<Ledger>>,
    ) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", kafka.brokers())
            // Also what is sent while the broker is away arrives once, in order.
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "300000")
            .set("linger.ms", "5");
        let producer: ThreadedProducer<Refused> = config.create_with_context(Refused::default())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = tokio::task::spawn_blocking(move || {
            let (start, mut sent) = (Instant::now(), 0_u64);
            while !stopped.load(Relaxed) {
                let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                while sent < due {
                    let number = ledger.lock().next();
                    send(&producer, number)?;
                    sent += 1;
                }
                std::thread::sleep(TICK);
            }
            producer.flush(FLUSH)?;
            let refused = producer.context().0.load(Relaxed);
            ensure!(refused == 0, "Kafka did not take {refused} messages of the machine");
            Ok(())
        });
        Ok(Self { stop, work })
    }

    /// Sends no more, and waits until the broker has everything.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Relaxed);
        self.work.await?
    }
}

fn send(producer: &ThreadedProducer<Refused>, number: u64) -> anyhow::Result<()> {
    let (key, payload) = (format!("k{}", message::key(number)), message::write(number));
    let mut record = BaseRecord::to(IN).key(&key).payload(&payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                std::thread::sleep(TICK);
                record = back;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Enters what comes out into the ledger.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    work: JoinHandle<()>,
}

impl Reader {
    pub(crate) fn start(kafka: &Kafka, ledger: Arc<Mutex<Ledger>>) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka.brokers())
            .set("group.id", "chaos-reader")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(OUT, partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = tokio::task::spawn_blocking(move || {
            while !stopped.load(Relaxed) {
                // Errors are the broker's being away, which is what this is about.
                if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
                    ledger.lock().enter(record.payload().unwrap_or_default(), Instant::now());
                }
            }
        });
        Ok(Self { stop, work })
    }

    pub(crate) async fn stop(self) {
        self.stop.store(true, Relaxed);
        // It has ended, or panicked, and then nothing more is entered.
        drop(self.work.await);
    }
}
