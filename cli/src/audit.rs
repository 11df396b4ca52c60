//! What a tenant's engineers do with the command line, in the audit log of their lattice.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use millrace_lattice_config::roles::audit_user_subject;
use millrace_lattice_config::tenants::Entry;

use crate::lattice;
use crate::ui::Ui;

/// The log does not hold up what it is about.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most characters of what was done to what: an entry is a line.
const SUBJECT_MAX: usize = 2_000;

/// Writes that something was done. Only a tenant's lattice has such a log; where it cannot be written, that is said, because what
/// was done is done.
pub(crate) async fn note(
    ui: Ui,
    lattice: &lattice::Options,
    nats: &async_nats::Client,
    what: &str,
    subject: &str,
) {
    let Ok(Some(credentials)) = lattice.access.access().credentials() else { return };
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let entry = Entry {
        time: i64::try_from(now).unwrap_or(i64::MAX),
        // The key tells users of one role apart: `millrace tenant show` has the label of each.
        who: format!("{} {}", credentials.name(), credentials.key().public_key()),
        what: what.to_owned(),
        subject: subject.chars().take(SUBJECT_MAX).collect(),
        outcome: "ok".to_owned(),
        by_tenant: true,
    };
    let written = tokio::time::timeout(PATIENCE, write(nats, lattice.name(), &entry)).await;
    match written.context("no answer").flatten() {
        Ok(()) => {}
        Err(error) => ui.warn(format!("`{what}` is done, and not in the audit log: {error:#}")),
    }
}

async fn write(nats: &async_nats::Client, lattice: &str, entry: &Entry) -> anyhow::Result<()> {
    let body = serde_json::to_vec(entry)?;
    let jetstream = jetstream::new(nats.clone());
    let acknowledged = jetstream.publish(audit_user_subject(lattice), body.into()).await?.await;
    match acknowledged {
        Ok(_) => Ok(()),
        // A lattice that is no tenant's has no such log.
        Err(error) if error.kind() == PublishErrorKind::StreamNotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
