//! Which fault comes when. The same seed gives the same faults after the same pauses.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// What is done to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// The host and wadm, which are one process, are killed and started again.
    Host,
    /// The conduit's provider is killed; its host starts it again.
    Conduit,
    /// The Kafka connector's provider is killed; its host starts it again.
    Connector,
    /// nats-server is killed and started again.
    Nats,
    /// Kafka is killed and started again.
    Broker,
    /// The host does not run for three seconds.
    FreezeHost,
    /// nats-server does not run for three seconds.
    FreezeNats,
    /// Kafka does not run for three seconds.
    FreezeBroker,
    /// A new version of the pipeline is deployed over the one that runs.
    Redeploy,
    /// The pipeline is undeployed and deployed again.
    Undeploy,
}

impl Fault {
    /// Every one.
    pub(crate) const ALL: [Self; 10] = [
        Self::Host,
        Self::Conduit,
        Self::Connector,
        Self::Nats,
        Self::Broker,
        Self::FreezeHost,
        Self::FreezeNats,
        Self::FreezeBroker,
        Self::Redeploy,
        Self::Undeploy,
    ];

    /// Its word on the command line and in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Conduit => "conduit",
            Self::Connector => "connector",
            Self::Nats => "nats",
            Self::Broker => "broker",
            Self::FreezeHost => "freeze-host",
            Self::FreezeNats => "freeze-nats",
            Self::FreezeBroker => "freeze-broker",
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

/// Each fault in turn, in an order of the seed's; after that at random.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: StdRng,
    faults: Vec<Fault>,
    round: Vec<Fault>,
}

impl Schedule {
    /// The schedule of a seed. Of all faults where none are named.
    pub(crate) fn new(seed: u64, only: &[Fault]) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let faults = if only.is_empty() { Fault::ALL.to_vec() } else { only.to_vec() };
        let mut round = faults.clone();
        round.shuffle(&mut random);
        Self { random, faults, round }
    }

    /// The next fault, and the pause before it.
    pub(crate) fn next(&mut self) -> (Fault, Duration) {
        let pause = Duration::from_millis(self.random.random_range(200..3_000));
        let fault = self.round.pop().unwrap_or_else(|| {
            let at = self.random.random_range(0..self.faults.len());
            self.faults.get(at).copied().unwrap_or(Fault::Host)
        });
        (fault, pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_the_first_round_has_them_all() {
        let faults = |seed| {
            let mut schedule = Schedule::new(seed, &[]);
            (0..40).map(|_| schedule.next()).collect::<Vec<_>>()
        };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        let mut round: Vec<Fault> = faults(7).iter().take(10).map(|(fault, _)| *fault).collect();
        round.sort();
        assert_eq!(round, Fault::ALL);
    }

    #[test]
    fn only_those_that_are_asked_for() {
        let mut schedule = Schedule::new(1, &[Fault::Nats]);
        assert!((0..20).all(|_| schedule.next().0 == Fault::Nats));
    }
}
