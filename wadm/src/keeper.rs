//! Has wadm look after what it has lost sight of.
//!
//! wadm keeps what it does for an application in memory, and is told of a change by messages that are given again when
//! nats-server went away before they were acknowledged. A deletion that is given again after the pipeline was deployed
//! anew takes its stages away: for wadm the version is deployed, and it does nothing more for it (`ScalerManager::notify`
//! of wadm 0.21). Nothing in wadm finds that out. Asked to deploy the same version once more it starts what is missing.
//!
//! It runs beside wadm in the host's process, as [`crate::watcher`] does, and leaves alone what has a roll-out under way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::applications::{Applications, Incomplete, Manifests};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// What is missing for so long, wadm does not look after: it hears of what runs every five seconds, and acts at once.
const LOST: Duration = Duration::from_secs(15);

/// Between two requests for what cannot be started at all, at most.
const AT_MOST: Duration = Duration::from_secs(300);

/// Has wadm look after the applications of a lattice, for as long as it is polled.
pub async fn keep(nats: async_nats::Client, lattice: &str) {
    let applications = Applications::new(nats, lattice);
    let (mut memory, mut manifests) = (Memory::default(), Manifests::new());
    loop {
        tokio::time::sleep(LOOK).await;
        match applications.incomplete(&mut manifests).await {
            Ok(found) => {
                for application in memory.see(found, Instant::now()) {
                    ask(&applications, &application).await;
                }
            }
            // While nobody can be asked nothing is known to be missing.
            Err(error) => {
                tracing::debug!(%error, "cannot look for what is missing");
                memory = Memory::default();
            }
        }
    }
}

async fn ask(applications: &Applications, application: &Incomplete) {
    let Incomplete { name, version, missing } = application;
    match applications.deploy_again(name, version).await {
        Ok(true) => {
            let missing = missing.join(", ");
            tracing::warn!(
                "`{name}` {version}: {missing} has not run for a while; wadm is asked to deploy it again"
            );
        }
        Ok(false) => {}
        Err(error) => tracing::debug!(name, %error, "cannot ask wadm to deploy again"),
    }
}

/// What is missing, by application and version, and when wadm is to be asked for it.
#[derive(Default)]
struct Memory(HashMap<(String, String), Due>);

struct Due {
    at: Instant,
    pause: Duration,
}

impl Memory {
    /// Those of the incomplete applications that wadm is to be asked for now. What is not among them has come back.
    fn see(&mut self, mut found: Vec<Incomplete>, now: Instant) -> Vec<Incomplete> {
        let key = |found: &Incomplete| (found.name.clone(), found.version.clone());
        let mut before = std::mem::take(&mut self.0);
        found.retain(|application| {
            let key = key(application);
            let first = Due { at: now + LOST, pause: LOST };
            let mut due = before.remove(&key).unwrap_or(first);
            let is_due = now >= due.at;
            if is_due {
                due.pause = due.pause.saturating_mul(2).min(AT_MOST);
                due.at = now + due.pause;
            }
            self.0.insert(key, due);
            is_due
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incomplete(version: &str) -> Incomplete {
        Incomplete {
            name: "p".to_owned(),
            version: version.to_owned(),
            missing: vec!["stage `s`".to_owned()],
        }
    }

    #[test]
    fn wadm_is_asked_for_what_stays_away_and_less_and_less_often() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let asked: Vec<u64> = (0..2000)
            .step_by(5)
            .filter(|second| {
                let now = start + Duration::from_secs(*second);
                !memory.see(vec![incomplete("1")], now).is_empty()
            })
            .collect();
        assert_eq!(asked, [15, 45, 105, 225, 465, 765, 1065, 1365, 1665, 1965]);
    }

    #[test]
    fn what_came_back_or_is_another_version_is_waited_for_anew() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let mut due = |version: Option<&str>, second| {
            let found = version.map(incomplete).into_iter().collect();
            memory.see(found, start + Duration::from_secs(second)).len()
        };
        assert_eq!(due(Some("1"), 0), 0);
        assert_eq!(due(None, 10), 0);
        assert_eq!(due(Some("1"), 15), 0);
        assert_eq!(due(Some("2"), 30), 0);
        assert_eq!(due(Some("2"), 45), 1);
    }
}
