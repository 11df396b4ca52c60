//! Which of two lists of messages belong together, and what differs.

use std::collections::VecDeque;

use serde::Serialize;

/// One thing that differs between a message that was expected and one that came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// Where: `payload.celsius`, `topic`.
    pub path: String,
    /// What was expected; absent when nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What came; absent when nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<String>,
}

impl Difference {
    pub(crate) fn new(path: &str, expected: Option<String>, got: Option<String>) -> Self {
        Self { path: path.to_owned(), expected, got }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.expected, &self.got) {
            (Some(expected), Some(got)) => {
                write!(f, "{}: expected {expected}, got {got}", self.path)
            }
            (Some(expected), None) => {
                write!(f, "{}: expected {expected}, it is missing", self.path)
            }
            (None, Some(got)) => write!(f, "{}: not expected, got {got}", self.path),
            (None, None) => write!(f, "{}", self.path),
        }
    }
}

/// Where two lists of messages do not agree. Numbers are places in the lists, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// A message came in the place of another, or is the nearest to it.
    Differs {
        /// The one that was expected.
        expected: usize,
        /// The one that came.
        got: usize,
    },
    /// Nothing came.
    Missing(usize),
    /// Nothing was expected.
    Unexpected(usize),
    /// All came, in another order.
    OtherOrder,
}

/// Most pairs that are looked at for the best way to put two lists side by side.
const PAIRS: usize = 1_000_000;

/// What two lists are compared with.
pub(crate) struct Lists<F> {
    pub(crate) expected: usize,
    pub(crate) got: usize,
    /// How many things differ between two messages.
    pub(crate) differences: F,
}

impl<F: Fn(usize, usize) -> usize> Lists<F> {
    fn same(&self, expected: usize, got: usize) -> bool {
        (self.differences)(expected, got) == 0
    }

    fn few(&self) -> bool {
        self.expected.saturating_mul(self.got) <= PAIRS
    }

    /// Where the lists do not agree when order counts.
    pub(crate) fn in_order(&self) -> Vec<Mismatch> {
        let shorter = self.expected.min(self.got);
        let start = (0..shorter).take_while(|at| self.same(*at, *at)).count();
        if start == self.expected && start == self.got {
            return Vec::new();
        }
        let end = (0..shorter - start)
            .take_while(|back| self.same(self.expected - 1 - back, self.got - 1 - back))
            .count();
        let (last_expected, last_got) = (self.expected - end, self.got - end);
        let anchors = self.anchors(start..last_expected, start..last_got);
        // Everything came and only the order is another: that is what is to be said.
        if self.expected == self.got && self.few() && self.pairs().is_some() {
            return vec![Mismatch::OtherOrder];
        }
        let mut found = Vec::new();
        let (mut expected, mut got) = (start, start);
        for (at_expected, at_got) in anchors.into_iter().chain([(last_expected, last_got)]) {
            gap(expected..at_expected, got..at_got, &mut found);
            (expected, got) = (at_expected + 1, at_got + 1);
        }
        found
    }

    /// Pairs that agree, in the order of both lists, as many as there can be.
    fn anchors(
        &self,
        expected: std::ops::Range<usize>,
        got: std::ops::Range<usize>,
    ) -> Vec<(usize, usize)> {
        let (rows, columns) = (expected.len(), got.len());
        if rows.saturating_mul(columns) > PAIRS {
            return Vec::new();
        }
        let same: Vec<Vec<bool>> =
            expected.clone().map(|e| got.clone().map(|g| self.same(e, g)).collect()).collect();
        let is_same = |row: usize, column: usize| {
            same.get(row).and_then(|row| row.get(column)).copied().unwrap_or(false)
        };
        // The longest common subsequence of what is left from each place on.
        let mut longest = vec![vec![0u32; columns + 1]; rows + 1];
        let at = |longest: &Vec<Vec<u32>>, row: usize, column: usize| {
            longest.get(row).and_then(|row| row.get(column)).copied().unwrap_or(0)
        };
        for row in (0..rows).rev() {
            for column in (0..columns).rev() {
                let best = match is_same(row, column) {
                    true => at(&longest, row + 1, column + 1) + 1,
                    false => at(&longest, row + 1, column).max(at(&longest, row, column + 1)),
                };
                if let Some(place) = longest.get_mut(row).and_then(|row| row.get_mut(column)) {
                    *place = best;
                }
            }
        }
        let mut anchors = Vec::new();
        let (mut row, mut column) = (0, 0);
        while row < rows && column < columns {
            if is_same(row, column) {
                anchors.push((expected.start + row, got.start + column));
                (row, column) = (row + 1, column + 1);
            } else if at(&longest, row + 1, column) >= at(&longest, row, column + 1) {
                row += 1;
            } else {
                column += 1;
            }
        }
        anchors
    }

    /// Where the lists do not agree when order does not count.
    pub(crate) fn in_any_order(&self) -> Vec<Mismatch> {
        let taken = self.matching();
        let mut free: Vec<usize> =
            (0..self.got).filter(|got| taken.get(*got).copied().flatten().is_none()).collect();
        let paired: Vec<usize> = taken.into_iter().flatten().collect();
        let mut found = Vec::new();
        for expected in (0..self.expected).filter(|expected| !paired.contains(expected)) {
            let near = free
                .iter()
                .enumerate()
                .min_by_key(|(_, got)| (self.differences)(expected, **got))
                .map(|(at, _)| at);
            found.push(match near {
                Some(at) => Mismatch::Differs { expected, got: free.remove(at) },
                None => Mismatch::Missing(expected),
            });
        }
        found.extend(free.into_iter().map(Mismatch::Unexpected));
        found
    }

    /// Everything matched with something, if that can be.
    fn pairs(&self) -> Option<()> {
        self.matching().iter().all(Option::is_some).then_some(())
    }

    /// For each message that came the one expected that it is taken for, as many as there can be. One may fit several, so
    /// what was matched first may have to give way.
    fn matching(&self) -> Vec<Option<usize>> {
        let mut taken: Vec<Option<usize>> = vec![None; self.got];
        for expected in 0..self.expected {
            // The same place is the likeliest.
            let first = taken.get(expected).is_some_and(Option::is_none);
            if first && self.same(expected, expected) {
                if let Some(place) = taken.get_mut(expected) {
                    *place = Some(expected);
                }
                continue;
            }
            self.augment(expected, &mut taken);
        }
        taken
    }

    /// Finds a place for one more, breadth first.
    fn augment(&self, expected: usize, taken: &mut [Option<usize>]) {
        // For each message that came, the expected one that wanted it.
        let mut wanted_by: Vec<Option<usize>> = vec![None; self.got];
        let mut asking = VecDeque::from([expected]);
        while let Some(asks) = asking.pop_front() {
            for got in 0..self.got {
                let seen = wanted_by.get(got).copied().flatten().is_some();
                if seen || !self.same(asks, got) {
                    continue;
                }
                if let Some(place) = wanted_by.get_mut(got) {
                    *place = Some(asks);
                }
                match taken.get(got).copied().flatten() {
                    Some(holder) => asking.push_back(holder),
                    None => return give_way(got, expected, &wanted_by, taken),
                }
            }
        }
    }
}

/// From a free place back to who asked first: each takes the place it wanted, and leaves the one it had.
fn give_way(free: usize, first: usize, wanted_by: &[Option<usize>], taken: &mut [Option<usize>]) {
    let mut place = Some(free);
    while let Some(got) = place {
        let Some(asks) = wanted_by.get(got).copied().flatten() else { return };
        let had = taken.iter().position(|holder| *holder == Some(asks));
        if let Some(had) = had.and_then(|had| taken.get_mut(had)) {
            *had = None;
        }
        if let Some(holder) = taken.get_mut(got) {
            *holder = Some(asks);
        }
        place = if asks == first { None } else { had };
    }
}

/// What lies between two pairs that agree: side by side as far as it goes.
fn gap(
    mut expected: std::ops::Range<usize>,
    mut got: std::ops::Range<usize>,
    found: &mut Vec<Mismatch>,
) {
    loop {
        match (expected.next(), got.next()) {
            (Some(expected), Some(got)) => found.push(Mismatch::Differs { expected, got }),
            (Some(expected), None) => found.push(Mismatch::Missing(expected)),
            (None, Some(got)) => found.push(Mismatch::Unexpected(got)),
            (None, None) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of<'a>(expected: &'a [u8], got: &'a [u8]) -> Lists<impl Fn(usize, usize) -> usize + 'a> {
        // A 0 that is expected fits anything.
        let differences = |e: usize, g: usize| {
            usize::from(expected[e] != 0).min(usize::from(expected[e].abs_diff(got[g])))
        };
        Lists { expected: expected.len(), got: got.len(), differences }
    }

    #[test]
    fn in_order_what_is_missing_moves_nothing_else() {
        assert_eq!(of(&[1, 2, 3], &[1, 2, 3]).in_order(), []);
        assert_eq!(of(&[1, 2, 3], &[2, 3]).in_order(), [Mismatch::Missing(0)]);
        assert_eq!(of(&[1, 3], &[1, 2, 3]).in_order(), [Mismatch::Unexpected(1)]);
        assert_eq!(
            of(&[1, 2, 3, 4], &[1, 9, 3, 4]).in_order(),
            [Mismatch::Differs { expected: 1, got: 1 }]
        );
        assert_eq!(
            of(&[1, 2, 3, 4, 5], &[9, 1, 3, 4, 8]).in_order(),
            [
                Mismatch::Unexpected(0),
                Mismatch::Missing(1),
                Mismatch::Differs { expected: 4, got: 4 }
            ]
        );
        assert_eq!(of(&[1, 2], &[2, 1]).in_order(), [Mismatch::OtherOrder]);
        assert_eq!(of(&[], &[1]).in_order(), [Mismatch::Unexpected(0)]);
    }

    #[test]
    fn in_any_order_who_fits_several_gives_way() {
        assert_eq!(of(&[1, 2, 3], &[3, 1, 2]).in_any_order(), []);
        // Anything first: it must not keep the only 1.
        assert_eq!(of(&[0, 1], &[1, 2]).in_any_order(), []);
        assert_eq!(of(&[0, 0, 1], &[1, 2, 3]).in_any_order(), []);
        assert_eq!(
            of(&[1, 2], &[2, 3, 4]).in_any_order(),
            [Mismatch::Differs { expected: 0, got: 1 }, Mismatch::Unexpected(2)]
        );
        assert_eq!(of(&[1], &[]).in_any_order(), [Mismatch::Missing(0)]);
    }

    proptest! {
        #[test]
        fn what_agrees_is_never_complained_about(
            list in prop::collection::vec(0u8..5, 0..20),
            turned in any::<prop::sample::Index>(),
        ) {
            let concrete: Vec<u8> = list.iter().map(|n| n + 1).collect();
            prop_assert!(of(&list, &concrete).in_order().iter().all(|_| list.contains(&0))
                || of(&concrete, &concrete).in_order().is_empty());
            prop_assert!(of(&concrete, &concrete).in_order().is_empty());
            let mut other = concrete.clone();
            if !other.is_empty() {
                other.rotate_left(turned.index(concrete.len()));
            }
            prop_assert!(of(&concrete, &other).in_any_order().is_empty());
        }

        #[test]
        fn every_message_is_spoken_of_at_most_once(
            expected in prop::collection::vec(0u8..4, 0..12),
            got in prop::collection::vec(1u8..4, 0..12),
        ) {
            for found in [of(&expected, &got).in_order(), of(&expected, &got).in_any_order()] {
                if found == [Mismatch::OtherOrder] {
                    continue;
                }
                let mut seen = (Vec::new(), Vec::new());
                for mismatch in &found {
                    match *mismatch {
                        Mismatch::Differs { expected, got } => {
                            seen.0.push(expected);
                            seen.1.push(got);
                        }
                        Mismatch::Missing(expected) => seen.0.push(expected),
                        Mismatch::Unexpected(got) => seen.1.push(got),
                        Mismatch::OtherOrder => panic!("it stands alone"),
                    }
                }
                // What is left agrees in number.
                prop_assert_eq!(expected.len() - seen.0.len(), got.len() - seen.1.len());
                for list in [&mut seen.0, &mut seen.1] {
                    let length = list.len();
                    list.sort_unstable();
                    list.dedup();
                    prop_assert_eq!(list.len(), length);
                }
            }
        }
    }
}
