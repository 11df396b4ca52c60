//! Up to where each partition is safe.
//!
//! Records become safe batch by batch, and batches overtake one another. An
//! offset stored in the group says that everything before it is done, so what
//! may be stored is the end of the unbroken row of safe records, and no more.

use std::collections::VecDeque;

/// Stands for a record until it is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// Place of the partition in [`Marks`].
    place: u32,
    /// Which tenant of that place.
    tenancy: u32,
    /// Number of the record within the tenancy.
    number: u64,
}

/// The partitions that are read.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    places: Vec<Place>,
    /// Place of the last record: records come in runs of one partition.
    last: usize,
}

#[derive(Debug, Default)]
struct Place {
    tenancy: u32,
    partition: Option<Partition>,
}

#[derive(Debug)]
struct Partition {
    topic: String,
    number: i32,
    /// Records taken and not yet known to be safe in an unbroken row.
    row: VecDeque<Taken>,
    /// Number of the first of them.
    first: u64,
    /// The partition is being given back: nothing more is taken of it.
    leaving: bool,
    /// End of the unbroken row.
    end: Option<i64>,
    /// It has moved since it was asked for.
    moved: bool,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    offset: i64,
    safe: bool,
}

impl Marks {
    /// No partitions, after a client is gone. Tokens from before mean nothing.
    pub(crate) fn clear(&mut self) {
        for place in &mut self.places {
            place.partition = None;
            place.tenancy = place.tenancy.wrapping_add(1);
        }
    }

    /// A partition is read from now on.
    pub(crate) fn add(&mut self, topic: &str, number: i32) {
        self.remove(topic, number);
        let partition = Partition {
            topic: topic.to_owned(),
            number,
            row: VecDeque::new(),
            first: 0,
            leaving: false,
            end: None,
            moved: false,
        };
        match self.places.iter_mut().find(|place| place.partition.is_none()) {
            Some(place) => place.partition = Some(partition),
            None => self.places.push(Place { tenancy: 0, partition: Some(partition) }),
        }
    }

    /// A partition is no longer ours. Its tokens mean nothing from now on.
    pub(crate) fn remove(&mut self, topic: &str, number: i32) {
        if let Some(place) = self.find(topic, number).and_then(|at| self.places.get_mut(at)) {
            place.partition = None;
            place.tenancy = place.tenancy.wrapping_add(1);
        }
    }

    /// Takes nothing more of a partition.
    pub(crate) fn leave(&mut self, topic: &str, number: i32) {
        let at = self.find(topic, number);
        if let Some(partition) = at.and_then(|at| self.partition(at)) {
            partition.leaving = true;
        }
    }

    /// Whether records of a partition are still on their way.
    pub(crate) fn is_busy(&self, topic: &str, number: i32) -> bool {
        self.find(topic, number)
            .and_then(|at| self.places.get(at)?.partition.as_ref())
            .is_some_and(|partition| !partition.row.is_empty())
    }

    /// A token for a record, or nothing when its partition is not read (any
    /// more): then whoever has the partition next takes it.
    pub(crate) fn take(&mut self, topic: &str, number: i32, offset: i64) -> Option<Token> {
        let place = self.find(topic, number)?;
        self.last = place;
        let tenancy = self.places.get(place)?.tenancy;
        let partition = self.partition(place)?;
        if partition.leaving {
            return None;
        }
        let token = Token {
            place: u32::try_from(place).ok()?,
            tenancy,
            number: partition.first + partition.row.len() as u64,
        };
        partition.row.push_back(Taken { offset, safe: false });
        Some(token)
    }

    /// A record is safe.
    pub(crate) fn safe(&mut self, token: Token) {
        let Ok(at) = usize::try_from(token.place) else { return };
        let Some(place) = self.places.get_mut(at) else { return };
        if place.tenancy != token.tenancy {
            return;
        }
        let Some(partition) = place.partition.as_mut() else { return };
        let Some(behind) = token.number.checked_sub(partition.first) else { return };
        let Ok(behind) = usize::try_from(behind) else { return };
        if let Some(taken) = partition.row.get_mut(behind) {
            taken.safe = true;
        }
        while partition.row.front().is_some_and(|taken| taken.safe) {
            if let Some(taken) = partition.row.pop_front() {
                partition.end = Some(taken.offset + 1);
                partition.moved = true;
                partition.first += 1;
            }
        }
    }

    /// The offsets to store: of each partition whose unbroken row has grown,
    /// the first that is not in it.
    pub(crate) fn moved(&mut self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.places.iter_mut().filter_map(|place| {
            let partition = place.partition.as_mut()?;
            let moved = std::mem::take(&mut partition.moved);
            let end = partition.end.filter(|_| moved)?;
            Some((partition.topic.as_str(), partition.number, end))
        })
    }

    /// The same of every partition of which anything has become safe.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.places.iter().filter_map(|place| {
            let partition = place.partition.as_ref()?;
            Some((partition.topic.as_str(), partition.number, partition.end?))
        })
    }

    fn partition(&mut self, at: usize) -> Option<&mut Partition> {
        self.places.get_mut(at)?.partition.as_mut()
    }

    fn find(&self, topic: &str, number: i32) -> Option<usize> {
        let is = |place: &Place| {
            place.partition.as_ref().is_some_and(|p| p.number == number && p.topic == topic)
        };
        if self.places.get(self.last).is_some_and(is) {
            return Some(self.last);
        }
        self.places.iter().position(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(marks: &mut Marks) -> Vec<(String, i32, i64)> {
        marks.moved().map(|(t, p, o)| (t.to_owned(), p, o)).collect()
    }

    #[test]
    fn never_beyond_the_lowest_that_is_not_safe() {
        let mut marks = Marks::default();
        marks.add("t", 0);
        // Offsets have gaps: compaction and transactions leave them.
        let tokens: Vec<_> = [5, 6, 9, 10].map(|o| marks.take("t", 0, o).unwrap()).into();
        marks.safe(tokens[2]);
        marks.safe(tokens[1]);
        assert_eq!(moved(&mut marks), []);
        assert!(marks.is_busy("t", 0));
        marks.safe(tokens[0]);
        assert_eq!(moved(&mut marks), [("t".to_owned(), 0, 10)]);
        assert_eq!(moved(&mut marks), [], "told once");
        marks.safe(tokens[3]);
        assert_eq!(moved(&mut marks), [("t".to_owned(), 0, 11)]);
        assert!(!marks.is_busy("t", 0));
        marks.safe(tokens[0]);
        assert_eq!(moved(&mut marks), [], "a token twice changes nothing");
    }

    #[test]
    fn partitions_are_apart_and_a_new_tenancy_knows_nothing_of_the_old() {
        let mut marks = Marks::default();
        marks.add("t", 0);
        marks.add("t", 1);
        marks.add("u", 0);
        let old = marks.take("t", 0, 1).unwrap();
        let other = marks.take("t", 1, 100).unwrap();
        marks.leave("t", 0);
        assert_eq!(marks.take("t", 0, 2), None, "nothing more is taken");
        marks.remove("t", 0);
        assert_eq!(marks.take("t", 0, 2), None);
        marks.add("t", 0);
        let new = marks.take("t", 0, 7).unwrap();
        marks.safe(old);
        assert_eq!(moved(&mut marks), []);
        marks.safe(new);
        marks.safe(other);
        assert_eq!(moved(&mut marks), [("t".to_owned(), 0, 8), ("t".to_owned(), 1, 101)]);
    }
}
