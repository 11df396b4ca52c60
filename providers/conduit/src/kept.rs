//! A group of batches for a step with state: which call has which messages, and
//! whose state goes with it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use async_nats::jetstream::Message;
use bytes::Bytes;
use millrace_batch::{Batch, ID};
use millrace_kit::regroup::{partition, regroup};
use millrace_kit::{Delivery, Packed, Stage, Watch};

use crate::consume::{Shared, StateOf};
use crate::edge::partitions;
use crate::keeper::{Keeper, Run, Work};
use crate::lane::sequence;
use crate::state::Partition;

/// Delivers groups with the states of their partitions.
pub(crate) struct Keepers {
    shared: Arc<Shared>,
    state: StateOf,
    count: u16,
    known: BTreeMap<u16, Kept>,
}

struct Kept {
    keeper: Arc<Keeper>,
    delivery: Delivery,
}

/// A batch, and where in the stream it is from.
struct Piece {
    sequence: u64,
    /// When it was published, nanoseconds since the Unix epoch.
    published: u64,
    batch: Packed,
}

impl Keepers {
    /// Those of an edge before a step with state.
    pub(crate) fn of(shared: &Arc<Shared>) -> Option<Self> {
        let state = shared.state.clone()?;
        let count = partitions(shared.settings()).unwrap_or(1);
        Some(Self { shared: Arc::clone(shared), state, count, known: BTreeMap::new() })
    }

    /// Delivers the batches of a group in their order. Gives whether all of it was
    /// done; otherwise the link is going. `made` says when the stream was.
    pub(crate) async fn deliver(
        &mut self,
        group: &[(&Message, Packed)],
        made: i64,
        place: &dyn Watch,
    ) -> bool {
        let edge = self.shared.edge.clone();
        let of = |message: &Message| edge.partition_of_subject(&message.subject);
        for batches in group.chunk_by(|(a, _), (b, _)| of(a) == of(b)) {
            let Some((first, _)) = batches.first() else { continue };
            let origin = of(first);
            let pieces = batches.iter().map(|(message, batch)| Piece::of(message, batch, origin));
            if origin.count == self.count {
                if !self.run(origin, origin.number, made, pieces.collect(), place).await {
                    return false;
                }
                continue;
            }
            // Published with another number of partitions.
            for piece in pieces {
                for (number, batch) in partition(&piece.batch, self.count) {
                    let part = vec![Piece { batch, ..piece }];
                    if !self.run(origin, number, made, part, place).await {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Ends the windows of a partition whose time is over by the clock.
    pub(crate) async fn tick(&mut self, number: u16) {
        let keeper = Arc::clone(&self.get(number).keeper);
        let mut ended = None;
        loop {
            match keeper.tick(nanoseconds(SystemTime::now())).await {
                // The stage has let it be: there is no use in asking for the same.
                Ok(end) if end.is_none() || end <= ended => return,
                Ok(end) => ended = end,
                Err(error) => {
                    let telemetry = &self.shared.link.telemetry;
                    return telemetry.error(error.kind(), format_args!("idle: {error}"));
                }
            }
        }
    }

    fn get(&mut self, number: u16) -> &Kept {
        match self.known.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let of = Partition { count: self.count, number };
                let StateOf { step, bucket, .. } = &self.state;
                let keeper =
                    Arc::new(Keeper::new(self.shared.delivery.stage(), bucket.clone(), step, of));
                let delivery = self.shared.delivery.to(Arc::clone(&keeper) as Arc<dyn Stage>);
                free.insert(Kept { keeper, delivery })
            }
        }
    }

    /// Delivers batches of one partition with the state of `number`.
    async fn run(
        &mut self,
        origin: Partition,
        number: u16,
        made: i64,
        pieces: Vec<Piece>,
        place: &dyn Watch,
    ) -> bool {
        let shared = Arc::clone(&self.shared);
        let kept = self.get(number);
        let mut left = Left::of(&pieces);
        let batches = pieces.into_iter().map(|piece| piece.batch).collect();
        for call in regroup(batches, &shared.limits) {
            let (runs, now) = left.take(call.messages() as u64);
            let id = call.id().unwrap_or_default().to_owned();
            kept.keeper.begin(Work { id, of: origin, made, now, runs });
            if shared.deliver_by(&kept.delivery, call, place).await.is_none() {
                return false;
            }
        }
        true
    }
}

impl Piece {
    fn of(message: &Message, batch: &Packed, origin: Partition) -> Self {
        let sequence = sequence(message);
        let published = message.info().map(|info| SystemTime::from(info.published));
        let named = match batch.id() {
            Some(_) => None,
            None => with_id(batch.body(), &format!("{origin}/{sequence}")),
        };
        Self {
            sequence,
            published: published.map_or(0, nanoseconds),
            // Halves of it are told apart by their ids.
            batch: named.unwrap_or_else(|| batch.clone()),
        }
    }
}

fn with_id(body: &Bytes, id: &str) -> Option<Packed> {
    let named = Batch::parse(body).ok()?.with_headers(&[(ID, id)]).ok()?;
    Some(Packed::read(named.into()))
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What no call has taken yet.
struct Left {
    runs: VecDeque<(Run, u64)>,
}

impl Left {
    fn of(pieces: &[Piece]) -> Self {
        let run = |piece: &Piece| {
            let messages = piece.batch.messages() as u64;
            (Run { sequence: piece.sequence, first: 0, messages }, piece.published)
        };
        Self { runs: pieces.iter().map(run).collect() }
    }

    /// The next so many messages, and when the last of them were published.
    fn take(&mut self, messages: u64) -> (Vec<Run>, u64) {
        let (mut taken, mut wanted, mut now) = (Vec::new(), messages, 0);
        while wanted > 0 {
            let Some((run, published)) = self.runs.front_mut() else { break };
            let here = run.messages.min(wanted);
            taken.push(Run { messages: here, ..*run });
            now = *published;
            wanted -= here;
            run.first += here;
            run.messages -= here;
            if run.messages == 0 {
                self.runs.pop_front();
            }
        }
        (taken, now)
    }
}
