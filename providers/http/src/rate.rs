//! So many requests a second, of a source and of each client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Most clients that are counted apart. Beyond them those that have been quiet are forgotten.
const CLIENTS_MAX: usize = 10_000;

/// How far ahead of its rate a client or source may be: a second's requests at once.
const BURST: Duration = Duration::from_secs(1);

/// A rate, as the time at which the last request would have come at an even pace (GCRA, ITU-T I.371).
#[derive(Debug, Clone, Copy)]
struct Even(Instant);

impl Even {
    /// Counts a request, unless it is one too many.
    fn take(&mut self, now: Instant, every: Duration) -> bool {
        let even = self.0.max(now);
        // The first request of a second at once is there when `even` is now.
        if even.duration_since(now) + every > BURST.max(every) {
            return false;
        }
        self.0 = even + every;
        true
    }
}

/// The time between two requests of so many a second.
fn every(rate: u64) -> Duration {
    Duration::from_nanos(1_000_000_000 / rate.max(1))
}

/// The rate of a source.
#[derive(Debug)]
pub(crate) struct Rate {
    every: Duration,
    even: Mutex<Even>,
}

impl Rate {
    pub(crate) fn new(rate: u64) -> Self {
        Self { every: every(rate), even: Mutex::new(Even(Instant::now())) }
    }

    /// Counts a request, unless it is one too many.
    pub(crate) fn take(&self, now: Instant) -> bool {
        self.even.lock().take(now, self.every)
    }
}

/// The rate of each client.
#[derive(Debug)]
pub(crate) struct ClientRates {
    every: Duration,
    clients: Mutex<HashMap<IpAddr, Even>>,
}

impl ClientRates {
    pub(crate) fn new(rate: u64) -> Self {
        Self { every: every(rate), clients: Mutex::default() }
    }

    /// Counts a request of this client, unless it is one too many. With more clients than can be counted, new ones are too many.
    pub(crate) fn take(&self, client: IpAddr, now: Instant) -> bool {
        let client = network(client);
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(&client) {
            clients.retain(|_, even| even.0 > now);
            if clients.len() >= CLIENTS_MAX {
                return false;
            }
        }
        clients.entry(client).or_insert(Even(now)).take(now, self.every)
    }
}

/// What counts as one client: an address, of version 6 the network of 64 bits that one subscriber has.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_requests_at_once_and_then_an_even_pace() {
        let (rate, now) = (Rate::new(10), Instant::now());
        let now = now + Duration::from_secs(1);
        assert_eq!((0..20).filter(|_| rate.take(now)).count(), 10);
        let later = now + Duration::from_millis(300);
        assert_eq!((0..20).filter(|_| rate.take(later)).count(), 3);
        let later = now + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| rate.take(later)).count(), 10);
        let one = Rate::new(1);
        assert!(one.take(now) && !one.take(now) && one.take(now + Duration::from_secs(1)));
    }

    #[test]
    fn clients_are_counted_apart_and_bounded() {
        let (rates, now) = (ClientRates::new(1), Instant::now() + Duration::from_secs(1));
        let client = |n: u32| IpAddr::V4(n.into());
        assert!(rates.take(client(1), now) && !rates.take(client(1), now));
        assert!(rates.take(client(2), now));
        for n in 3..=u32::try_from(CLIENTS_MAX).unwrap() {
            assert!(rates.take(client(n), now));
        }
        assert!(!rates.take(client(1_000_000), now), "all that are known have just been here");
        assert!(rates.take(client(1_000_000), now + Duration::from_secs(2)));
        assert!(rates.clients.lock().len() < 10);
    }

    #[test]
    fn a_network_of_version_6_is_one_client() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1") && !same("10.0.0.1", "10.0.0.2"));
    }
}
