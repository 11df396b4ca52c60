//! Which fault comes when. The same seed gives the same faults after the same pauses.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// How long a host is away, frozen or cut off of which there are two, in milliseconds: sometimes it is back before it is missed, sometimes
/// the other has everything by then.
const AWAY: std::ops::Range<u64> = 5_000..40_000;

/// How far a clock is put ahead of the right time or behind it, in seconds.
const AHEAD: std::ops::Range<i64> = -7_200..7_200;

/// What is done to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// A host is killed and started again: the only one together with wadm, as where the two are one process, and at
    /// once; one of two after a while, so that the other has to take over.
    Host,
    /// wadm is killed and started again.
    Wadm,
    /// The conduit's provider is killed; its host starts it again.
    Conduit,
    /// The Kafka connector's provider is killed; its host starts it again.
    Connector,
    /// nats-server is killed and started again.
    Nats,
    /// Kafka is killed and started again.
    Broker,
    /// A host does not run: the only one, and wadm with it, for three seconds; one of two for so long that wadm may take it
    /// for gone, while its providers go on.
    FreezeHost,
    /// nats-server does not run for three seconds.
    FreezeNats,
    /// Kafka does not run for three seconds.
    FreezeBroker,
    /// JetStream's disk is full for some seconds. nats-server is started again afterwards: it takes no more into what it
    /// could not write to.
    Disk,
    /// The link between a host and the servers (NATS, Kafka, wadm) is cut: for five seconds; of one of two for so long that
    /// wadm may take it for gone, while it goes on by itself.
    Network,
    /// The same link carries less than is sent, for ten seconds.
    SlowLink,
    /// The wall clock of hosts and wadm jumps, by up to two hours ahead of the right time or behind it, and stays there.
    Clock,
    /// Half of their memory is taken from the hosts and their providers for five seconds; what the kernel kills is started
    /// again.
    Memory,
    /// A new version of the pipeline is deployed over the one that runs.
    Redeploy,
    /// The pipeline is undeployed and deployed again.
    Undeploy,
}

impl Fault {
    /// Every one.
    pub(crate) const ALL: [Self; 16] = [
        Self::Host,
        Self::Wadm,
        Self::Conduit,
        Self::Connector,
        Self::Nats,
        Self::Broker,
        Self::FreezeHost,
        Self::FreezeNats,
        Self::FreezeBroker,
        Self::Disk,
        Self::Network,
        Self::SlowLink,
        Self::Clock,
        Self::Memory,
        Self::Redeploy,
        Self::Undeploy,
    ];

    /// Its word on the command line and in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Wadm => "wadm",
            Self::Conduit => "conduit",
            Self::Connector => "connector",
            Self::Nats => "nats",
            Self::Broker => "broker",
            Self::FreezeHost => "freeze-host",
            Self::FreezeNats => "freeze-nats",
            Self::FreezeBroker => "freeze-broker",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::SlowLink => "slow-link",
            Self::Clock => "clock",
            Self::Memory => "memory",
            Self::Redeploy => "redeploy",
            Self::Undeploy => "undeploy",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One fault, as it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) fault: Fault,
    /// Before it.
    pub(crate) pause: Duration,
    /// The host it is made to: of those that run, the one with the most providers is the first.
    pub(crate) host: usize,
    /// How long a host is away, frozen or cut off, of which there are two.
    pub(crate) away: Duration,
    /// How far the clock is put ahead of the right time, in seconds.
    pub(crate) ahead: i64,
}

/// Each fault in turn, in an order of the seed's; after that at random.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: StdRng,
    faults: Vec<Fault>,
    round: Vec<Fault>,
    hosts: usize,
}

impl Schedule {
    /// The schedule of a seed: these faults, and so many hosts.
    pub(crate) fn new(seed: u64, faults: &[Fault], hosts: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let faults = faults.to_vec();
        let mut round = faults.clone();
        round.shuffle(&mut random);
        Self { random, faults, round, hosts }
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Turn {
        let pause = Duration::from_millis(self.random.random_range(200..3_000));
        let host = self.random.random_range(0..self.hosts);
        let away = Duration::from_millis(self.random.random_range(AWAY));
        let fault = self.round.pop().unwrap_or_else(|| {
            let at = self.random.random_range(0..self.faults.len());
            self.faults.get(at).copied().unwrap_or(Fault::Host)
        });
        let ahead = self.random.random_range(AHEAD);
        Turn { fault, pause, host, away, ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_the_first_round_has_them_all() {
        let faults = |seed| {
            let mut schedule = Schedule::new(seed, &Fault::ALL, 2);
            (0..40).map(|_| schedule.next()).collect::<Vec<_>>()
        };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        let mut round: Vec<Fault> = faults(7).iter().map(|turn| turn.fault).collect();
        round.truncate(Fault::ALL.len());
        round.sort();
        assert_eq!(round, Fault::ALL);
        assert!((0..2).all(|host| faults(7).iter().any(|turn| turn.host == host)));
    }

    #[test]
    fn only_those_that_are_asked_for() {
        let mut schedule = Schedule::new(1, &[Fault::Nats], 1);
        assert!((0..20).map(|_| schedule.next()).all(|t| t.fault == Fault::Nats && t.host == 0));
    }
}
