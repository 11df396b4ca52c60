//! Packets of one connection that wait for their acknowledgement.
//!
//! A client acknowledges in the order in which it received (MQTT 3.1.1 and 5.0,
//! section 4.6, statement MQTT-4.6.0-2 for PUBACK and -3 for PUBREC). Batches
//! become safe in another order, so an acknowledgement waits here for those
//! before it. A broker that holds its clients to the rule closes the connection
//! otherwise.

use std::collections::VecDeque;

use millrace_settings::Qos;

/// Packets received and not yet acknowledged, in their order.
#[derive(Debug, Default)]
pub(crate) struct Awaiting {
    row: VecDeque<Packet>,
    /// Number of the first in the row.
    first: u32,
    /// The number that each packet identifier had last. There are 65,535 at
    /// most, so an index is all it takes; and nothing has to be taken out,
    /// because what is stale does not lead to a packet of that identifier.
    numbers: Vec<u32>,
}

#[derive(Debug)]
struct Packet {
    pkid: u16,
    qos: Qos,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Taken,
    Safe,
    /// Acknowledged, or need not be.
    Gone,
}

impl Awaiting {
    /// Notes a packet as received. False when it is waiting already.
    pub(crate) fn insert(&mut self, pkid: u16, qos: Qos) -> bool {
        if self.find(pkid).is_some() {
            return false;
        }
        let at = usize::from(pkid);
        if self.numbers.len() <= at {
            self.numbers.resize(at + 1, 0);
        }
        let number = self.first.wrapping_add(u32::try_from(self.row.len()).unwrap_or(0));
        if let Some(place) = self.numbers.get_mut(at) {
            *place = number;
        }
        self.row.push_back(Packet { pkid, qos, state: State::Taken });
        true
    }

    /// The packet's message is safe: it may be acknowledged when its turn comes.
    pub(crate) fn safe(&mut self, pkid: u16) {
        if let Some(packet) = self.find(pkid) {
            packet.state = State::Safe;
        }
    }

    /// The packet whose turn it is, if its message is safe.
    pub(crate) fn due(&self) -> Option<(u16, Qos)> {
        let packet = self.row.front()?;
        (packet.state == State::Safe).then_some((packet.pkid, packet.qos))
    }

    /// The packet was acknowledged, or need not be.
    pub(crate) fn remove(&mut self, pkid: u16) {
        if let Some(packet) = self.find(pkid) {
            packet.state = State::Gone;
        }
        while self.row.front().is_some_and(|packet| packet.state == State::Gone) {
            self.row.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// The connection is gone, and all that could be acknowledged on it.
    pub(crate) fn clear(&mut self) {
        self.row.clear();
    }

    /// The packet with this identifier, if it is waiting.
    fn find(&mut self, pkid: u16) -> Option<&mut Packet> {
        let number = *self.numbers.get(usize::from(pkid))?;
        let at = usize::try_from(number.wrapping_sub(self.first)).ok()?;
        let packet = self.row.get_mut(at)?;
        (packet.pkid == pkid && packet.state != State::Gone).then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(awaiting: &mut Awaiting) -> Vec<u16> {
        let mut order = Vec::new();
        while let Some((pkid, _)) = awaiting.due() {
            awaiting.remove(pkid);
            order.push(pkid);
        }
        order
    }

    #[test]
    fn acknowledged_in_the_order_received_whatever_becomes_safe_first() {
        let mut awaiting = Awaiting::default();
        for pkid in [7, 3, 9, 1] {
            assert!(awaiting.insert(pkid, Qos::AtLeastOnce));
        }
        assert!(!awaiting.insert(9, Qos::AtLeastOnce), "received twice");
        awaiting.safe(9);
        awaiting.safe(3);
        assert!(drained(&mut awaiting).is_empty(), "7 is before them");
        awaiting.safe(7);
        assert_eq!(drained(&mut awaiting), [7, 3, 9]);
        assert!(awaiting.insert(7, Qos::ExactlyOnce), "an identifier is used again");
        awaiting.safe(7);
        assert_eq!(awaiting.due(), None);
        awaiting.safe(1);
        assert_eq!(drained(&mut awaiting), [1, 7]);
    }

    #[test]
    fn one_that_need_not_be_acknowledged_holds_up_nobody() {
        let mut awaiting = Awaiting::default();
        awaiting.insert(1, Qos::ExactlyOnce);
        awaiting.insert(2, Qos::ExactlyOnce);
        awaiting.safe(2);
        awaiting.remove(1);
        assert_eq!(awaiting.due(), Some((2, Qos::ExactlyOnce)));
        awaiting.clear();
        assert_eq!(awaiting.due(), None);
        awaiting.safe(2);
    }

    /// Through all identifiers several times, with some that need not be
    /// acknowledged in between.
    #[test]
    fn identifiers_are_used_again_and_again() {
        let mut awaiting = Awaiting::default();
        let mut order = Vec::new();
        let all: Vec<u16> = (0..200_000_u32).map(|n| (n % 65_535 + 1) as u16).collect();
        for window in all.chunks(500) {
            for pkid in window {
                assert!(awaiting.insert(*pkid, Qos::AtLeastOnce));
                assert!(!awaiting.insert(*pkid, Qos::AtLeastOnce));
            }
            for pkid in window.iter().filter(|pkid| **pkid % 7 == 0) {
                awaiting.remove(*pkid);
            }
            for pkid in window.iter().rev() {
                awaiting.safe(*pkid);
            }
            order.extend(drained(&mut awaiting));
            assert!(awaiting.row.is_empty());
        }
        let expected: Vec<u16> = all.iter().copied().filter(|pkid| pkid % 7 != 0).collect();
        assert_eq!(order, expected);
    }
}
