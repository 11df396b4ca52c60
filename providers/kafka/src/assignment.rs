//! Which partitions are read: given and taken away by the group, or by hand.
//!
//! The group's decisions are carried out here and not in the library's
//! callback: partitions that are taken away are kept until what is in flight of
//! them is safe, and where new ones start is asked of the brokers. Meanwhile
//! the client is polled on, so the group sees a member that lives.

use std::sync::Arc;
use std::time::Duration;

use millrace_kit::Link;
use millrace_settings::kafka_values::Start;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::context::{Context, Notes, Rebalance};
use crate::marks::Marks;

/// How long what is in flight of a partition may take to become safe when the
/// group takes it away. Far below `max.poll.interval.ms`, after which the group
/// would take everything away.
const LEAVE: Duration = Duration::from_secs(30);

/// How long one question about offsets may take.
const ASK: Duration = Duration::from_secs(5);

/// Pause before such a question is asked again.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) type Client = BaseConsumer<Context>;

/// The partitions of one client.
pub(crate) struct Assignment {
    consumer: Arc<Client>,
    notes: Arc<Notes>,
    link: Arc<Link>,
    start: Start,
    by_hand: bool,
    work: Work,
    held: TopicPartitionList,
    paused: bool,
}

enum Work {
    None,
    /// Partitions whose start is being asked for.
    Asking(TopicPartitionList, JoinHandle<Result<Places, String>>),
    /// The same, after the question has failed.
    AskAgain(TopicPartitionList, Instant),
    /// Partitions that go when they are no longer busy, or at the latest then.
    Leaving(TopicPartitionList, Instant),
}

/// Where partitions start.
struct Places {
    partitions: TopicPartitionList,
    /// Starts that nobody has stored yet: stored at once, or `latest` would
    /// mean another place after a restart.
    pins: TopicPartitionList,
}

impl Assignment {
    pub(crate) fn new(
        consumer: Arc<Client>,
        notes: Arc<Notes>,
        link: Arc<Link>,
        start: Start,
    ) -> Self {
        Self {
            consumer,
            notes,
            link,
            start,
            by_hand: false,
            work: Work::None,
            held: TopicPartitionList::new(),
            paused: false,
        }
    }

    /// Reads these partitions, whatever the group does.
    pub(crate) fn take_by_hand(&mut self, partitions: TopicPartitionList) {
        self.by_hand = true;
        self.ask(partitions);
    }

    /// Goes on with what is under way. True when partitions were assigned.
    pub(crate) async fn advance(&mut self, marks: &mut Marks) -> bool {
        match std::mem::replace(&mut self.work, Work::None) {
            Work::None => match self.notes.next_rebalance() {
                Some(Rebalance::Assigned(partitions)) => {
                    if self.start == Start::Earliest || partitions.count() == 0 {
                        let pins = TopicPartitionList::new();
                        return self.assign(Places { partitions, pins }, marks);
                    }
                    self.ask(partitions);
                }
                Some(Rebalance::Revoked(partitions)) => self.leave(partitions, marks),
                None => {}
            },
            Work::Asking(partitions, asking) if !asking.is_finished() => {
                self.work = Work::Asking(partitions, asking);
            }
            Work::Asking(partitions, asking) => {
                match asking.await.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(places) => return self.assign(places, marks),
                    Err(error) => {
                        self.link.retrying(format_args!("where to start: {error}"));
                        self.work = Work::AskAgain(partitions, Instant::now() + AGAIN);
                    }
                }
            }
            Work::AskAgain(partitions, at) if Instant::now() < at => {
                self.work = Work::AskAgain(partitions, at);
            }
            Work::AskAgain(partitions, _) => self.ask(partitions),
            Work::Leaving(partitions, until) => {
                let busy =
                    partitions.elements().iter().any(|p| marks.is_busy(p.topic(), p.partition()));
                if busy && Instant::now() < until && !self.consumer.assignment_lost() {
                    self.work = Work::Leaving(partitions, until);
                } else {
                    if busy {
                        self.link.noticed(
                            "partitions were taken away before all in flight of them was safe: \
                             their next reader gets it again",
                        );
                    }
                    self.give_back(&partitions, marks);
                }
            }
        }
        false
    }

    /// Whether partitions are waiting to be given back.
    pub(crate) const fn is_leaving(&self) -> bool {
        matches!(self.work, Work::Leaving(..))
    }

    /// Pauses all partitions, or lets them go on.
    pub(crate) fn pause(&mut self, pause: bool) {
        if self.paused == pause {
            return;
        }
        self.paused = pause;
        let done =
            if pause { self.consumer.pause(&self.held) } else { self.consumer.resume(&self.held) };
        if let Err(error) = done {
            self.link.noticed(format_args!("partitions could not be paused or resumed: {error}"));
        }
    }

    pub(crate) const fn is_paused(&self) -> bool {
        self.paused
    }

    fn ask(&mut self, partitions: TopicPartitionList) {
        let (consumer, start, asked) = (Arc::clone(&self.consumer), self.start, partitions.clone());
        let wake = Arc::clone(&self.notes.wake);
        let asking = tokio::task::spawn_blocking(move || {
            let places = places(&consumer, asked, start);
            drop(consumer);
            wake.notify_one();
            places
        });
        self.work = Work::Asking(partitions, asking);
    }

    fn assign(&mut self, places: Places, marks: &mut Marks) -> bool {
        let assigned = if self.by_hand {
            self.consumer.assign(&places.partitions)
        } else {
            self.consumer.incremental_assign(&places.partitions)
        };
        if let Err(error) = assigned {
            self.link.retrying(format_args!("partitions could not be assigned: {error}"));
            return false;
        }
        for partition in places.partitions.elements() {
            marks.add(partition.topic(), partition.partition());
            self.held.add_partition(partition.topic(), partition.partition());
        }
        if places.pins.count() > 0
            && let Err(error) = self.consumer.store_offsets(&places.pins)
        {
            self.link.noticed(format_args!("the start could not be stored: {error}"));
        }
        // Paused or not is a property of the partition, and outlives its being
        // given back.
        let paused = std::mem::replace(&mut self.paused, false);
        let _ = self.consumer.resume(&places.partitions);
        self.pause(paused);
        true
    }

    fn leave(&mut self, partitions: TopicPartitionList, marks: &mut Marks) {
        if self.consumer.assignment_lost() {
            // Others have them already, and a commit would be refused.
            self.link.noticed("the group took partitions away while they were being read");
            return self.give_back(&partitions, marks);
        }
        for partition in partitions.elements() {
            marks.leave(partition.topic(), partition.partition());
        }
        if let Err(error) = self.consumer.pause(&partitions) {
            tracing::debug!("pause of partitions that leave: {error}");
        }
        self.work = Work::Leaving(partitions, Instant::now() + LEAVE);
    }

    /// What was stored of the partitions is committed by the library with this.
    fn give_back(&mut self, partitions: &TopicPartitionList, marks: &mut Marks) {
        if let Err(error) = self.consumer.incremental_unassign(partitions) {
            self.link.noticed(format_args!("partitions could not be given back: {error}"));
        }
        let mut held = TopicPartitionList::new();
        for old in self.held.elements() {
            if partitions.find_partition(old.topic(), old.partition()).is_some() {
                marks.remove(old.topic(), old.partition());
            } else {
                held.add_partition(old.topic(), old.partition());
            }
        }
        self.held = held;
    }
}

/// Asks where to start.
fn places(
    consumer: &Client,
    partitions: TopicPartitionList,
    start: Start,
) -> Result<Places, String> {
    let text = |error: rdkafka::error::KafkaError| error.to_string();
    let committed = consumer.committed_offsets(partitions, ASK).map_err(text)?;
    let mut all = TopicPartitionList::new();
    let mut fresh = TopicPartitionList::new();
    for partition in committed.elements() {
        partition.error().map_err(text)?;
        let (topic, number) = (partition.topic(), partition.partition());
        match (partition.offset(), start) {
            (Offset::Offset(at), _) => {
                all.add_partition_offset(topic, number, Offset::Offset(at)).map_err(text)?;
            }
            (_, Start::Earliest) => {
                all.add_partition_offset(topic, number, Offset::Beginning).map_err(text)?;
            }
            (_, Start::Latest) => {
                fresh.add_partition_offset(topic, number, Offset::End).map_err(text)?;
            }
            (_, Start::At(millis)) => {
                fresh.add_partition_offset(topic, number, Offset::Offset(millis)).map_err(text)?;
            }
        }
    }
    if matches!(start, Start::At(_)) && fresh.count() > 0 {
        fresh = consumer.offsets_for_times(fresh, ASK).map_err(text)?;
    }
    let mut pins = TopicPartitionList::new();
    for partition in fresh.elements() {
        partition.error().map_err(text)?;
        let (topic, number) = (partition.topic(), partition.partition());
        let at = match partition.offset() {
            Offset::Offset(at) => at,
            // No record is that young: after the last there is.
            _ => consumer.fetch_watermarks(topic, number, ASK).map_err(text)?.1,
        };
        all.add_partition_offset(topic, number, Offset::Offset(at)).map_err(text)?;
        pins.add_partition_offset(topic, number, Offset::Offset(at)).map_err(text)?;
    }
    Ok(Places { partitions: all, pins })
}
