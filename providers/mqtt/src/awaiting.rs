//! Packets of one connection that wait for their acknowledgement.
//!
//! A client acknowledges in the order in which it received (MQTT 3.1.1 and 5.0,
//! section 4.6, statement MQTT-4.6.0-2 for PUBACK and -3 for PUBREC). Batches
//! become safe in another order, so an acknowledgement waits here for those
//! before it. A broker that holds its clients to the rule closes the connection
//! otherwise.

use std::collections::{BTreeMap, HashMap};

use millrace_settings::Qos;

/// Packets received and not yet acknowledged, in their order.
#[derive(Debug, Default)]
pub(crate) struct Awaiting {
    received: BTreeMap<u64, Packet>,
    place: HashMap<u16, u64>,
    next: u64,
}

#[derive(Debug)]
struct Packet {
    pkid: u16,
    qos: Qos,
    safe: bool,
}

impl Awaiting {
    /// Notes a packet as received. False when it is waiting already.
    pub(crate) fn insert(&mut self, pkid: u16, qos: Qos) -> bool {
        if self.place.contains_key(&pkid) {
            return false;
        }
        self.place.insert(pkid, self.next);
        self.received.insert(self.next, Packet { pkid, qos, safe: false });
        self.next += 1;
        true
    }

    /// The packet's message is safe: it may be acknowledged when its turn comes.
    pub(crate) fn safe(&mut self, pkid: u16) {
        let packet = self.place.get(&pkid).and_then(|place| self.received.get_mut(place));
        if let Some(packet) = packet {
            packet.safe = true;
        }
    }

    /// The packet whose turn it is, if its message is safe.
    pub(crate) fn due(&self) -> Option<(u16, Qos)> {
        let (_, packet) = self.received.first_key_value()?;
        packet.safe.then_some((packet.pkid, packet.qos))
    }

    /// The packet was acknowledged, or need not be.
    pub(crate) fn remove(&mut self, pkid: u16) {
        if let Some(place) = self.place.remove(&pkid) {
            self.received.remove(&place);
        }
    }

    /// The connection is gone, and all that could be acknowledged on it.
    pub(crate) fn clear(&mut self) {
        self.received.clear();
        self.place.clear();
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
}
