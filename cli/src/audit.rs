//! The audit log of a tenant's lattice: what engineers do with the command line is written there, and it is read, followed and
//! kept in files.

mod export;

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use millrace_lattice_config::Home;
use millrace_lattice_config::audit::{Account, Cursor, Log, Logged, PAGE_MAX, Page};
use millrace_lattice_config::journal::Journal;
use millrace_lattice_config::roles::audit_user_subject;
use millrace_lattice_config::tenants::{Entry, Tenants};

use crate::dead::filter::Moment;
use crate::lattice;
use crate::tenant::{date, who};
use crate::ui::Ui;
use export::Export;
pub(crate) use export::Format;

/// With `--follow` the log is looked at again after this time.
const PAUSE: Duration = Duration::from_millis(500);

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
    let entry = Entry {
        time: millrace_lattice_config::now(),
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

/// Writes that something was done to the platform itself, in its own journal.
pub(crate) fn note_platform(home: &Home, what: &str, subject: &str) -> anyhow::Result<()> {
    let entry = Entry {
        time: millrace_lattice_config::now(),
        who: who(),
        what: what.to_owned(),
        subject: subject.to_owned(),
        outcome: "ok".to_owned(),
        by_tenant: false,
    };
    Ok(Journal::of_platform(home).add(&entry)?)
}

/// Prints what was done to the platform itself, of which its journal has the newest.
pub(crate) fn platform(ui: Ui, home: &Home, wanted: &Wanted) -> anyhow::Result<()> {
    anyhow::ensure!(
        wanted.out.is_none() && !wanted.follow && wanted.pipeline.is_none(),
        "--out, --follow and --pipeline are for the log of a tenant: name one"
    );
    let entries = Journal::of_platform(home).tail()?.into_iter();
    let entries =
        entries.zip(1..).map(|(entry, sequence)| Logged { entry, log: Log::Journal, sequence });
    let entries: Vec<_> = entries.filter(|logged| wanted.is_recent(logged)).collect();
    if ui.json && wanted.format.is_none() {
        return ui.json(&entries);
    }
    print(ui, wanted.format, &entries, &mut false)
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

/// Which entries, and where they go.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Only those written since: an age as 90s, 15m, 2h or 3d, or a time as 2026-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only what was done to this pipeline.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Go on, and print what comes, until Ctrl-C.
    #[arg(long)]
    follow: bool,
    /// How entries are written [default: lines for people; jsonl with --out, csv if its name ends so]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write them to this file. Called again, it goes on where it ended: beside the file is FILE.next, which says where.
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
}

impl Wanted {
    fn is_recent(&self, logged: &Logged) -> bool {
        self.since.is_none_or(|since| logged.entry.time >= since.0.timestamp())
    }
}

/// Print the audit log of a lattice: what its engineers and the platform did.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  millrace audit --creds acme.creds --since 2d\n  millrace audit --pipeline alerts --follow\n  millrace audit --out audit.jsonl                what is new, appended\n\nPlatform entries are signed by the platform; what engineers wrote can be anything. What the platform refused stands in its own \
                  journal: `millrace tenant audit` shows it too."
)]
pub(crate) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    lattice: lattice::Options,
}

/// Where an audit log is read.
pub(crate) enum Source {
    /// By the platform, with its journal.
    Tenant(Box<Tenants>, String),
    /// By an engineer.
    Account(Box<Account>, String),
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Tenant(_, name) | Self::Account(_, name) => name,
        }
    }

    async fn page(&self, from: Option<Cursor>) -> anyhow::Result<Page> {
        Ok(match self {
            Self::Tenant(tenants, name) => tenants.audit_page(name, from, PAGE_MAX).await?,
            Self::Account(account, _) => account.page(from, PAGE_MAX).await?,
        })
    }
}

pub(crate) async fn run(ui: Ui, Args { wanted, lattice }: Args) -> anyhow::Result<()> {
    let credentials = lattice.access.access().credentials()?.context(
        "an audit log is a tenant's: name a file of credentials with --creds, as `millrace tenant creds` writes it",
    )?;
    let signer = credentials.audit_signer().context(
        "these credentials do not say with which key the platform signs its entries: they are of an older release. \
         `millrace tenant creds` writes new ones",
    )?;
    let jetstream = jetstream::new(lattice.connect().await?);
    let account = Account::new(jetstream, lattice.name(), signer)?;
    show(ui, Source::Account(Box::new(account), lattice.name().to_owned()), wanted).await
}

/// Prints what is wanted of an audit log, or writes it to a file.
pub(crate) async fn show(ui: Ui, source: Source, wanted: Wanted) -> anyhow::Result<()> {
    let Wanted { pipeline, follow, format, out, .. } = &wanted;
    let (follow, format) = (*follow, *format);
    let fits = |logged: &Logged| {
        wanted.is_recent(logged)
            && pipeline.as_ref().is_none_or(|name| is_about(&logged.entry, name))
    };
    let mut export = match out {
        Some(path) => {
            let about = format!("{} {}", source.name(), pipeline.as_deref().unwrap_or("*"));
            Some(Export::open(path.clone(), format, about)?)
        }
        None => None,
    };
    let mut from = export.as_ref().and_then(Export::from);
    // One document of JSON for those who ask for no format, as elsewhere; a line an entry for those who follow.
    let whole = ui.json && format.is_none() && !follow && export.is_none();
    let (mut all, mut begun) = (Vec::new(), false);
    loop {
        let page = source.page(from).await?;
        if page.missed > 0 {
            ui.warn(format!(
                "{} entries had to make room for newer ones and are lost",
                page.missed
            ));
        }
        from = Some(page.next);
        let entries: Vec<_> = page.entries.into_iter().filter(fits).collect();
        if let Some(export) = &mut export {
            export.add(&entries, page.next)?;
            if page.more {
                ui.step(format!("{} entries", export.added()));
            }
        } else if whole {
            all.extend(entries);
        } else {
            print(ui, format, &entries, &mut begun)?;
        }
        if page.more {
            continue;
        }
        if !follow {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    match export {
        Some(export) if ui.json => ui.json(&serde_json::json!({
            "file": export.path(), "added": export.added(),
        })),
        Some(export) => {
            ui.line(format!("{} entries added to {}", export.added(), export.path().display()));
            Ok(())
        }
        None if whole => ui.json(&all),
        None => Ok(()),
    }
}

fn print(
    ui: Ui,
    format: Option<Format>,
    entries: &[Logged],
    begun: &mut bool,
) -> anyhow::Result<()> {
    let format = format.or(ui.json.then_some(Format::Jsonl));
    let head = format.filter(|_| !std::mem::replace(begun, true)).and_then(Format::head);
    if let Some(head) = head {
        ui.line(head);
    }
    for logged in entries {
        ui.line(match format {
            Some(format) => format.line(logged)?,
            None => line(logged),
        });
    }
    Ok(())
}

/// An entry for people. What a tenant's engineers wrote can be anything, also what moves a terminal's cursor.
fn line(Logged { entry, log, .. }: &Logged) -> String {
    let [who, what, subject, outcome] =
        [&entry.who, &entry.what, &entry.subject, &entry.outcome].map(|text| text.escape_debug());
    let by = match log {
        Log::Platform => "platform",
        Log::Tenant => "tenant  ",
        Log::Journal => "journal ",
    };
    format!("{}  {by}  {who}  {what} {subject}  {outcome}", date(entry.time))
}

/// Whether something was done to a pipeline, or with its messages.
fn is_about(entry: &Entry, pipeline: &str) -> bool {
    let done = ["pipeline.", "dead."].iter().any(|kind| entry.what.starts_with(kind));
    done && entry.subject.split([' ', '/', ':']).any(|word| word == pipeline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_to_a_pipeline_is_told_from_all_else() {
        let about = |what: &str, subject: &str| {
            let [who, outcome] = ["x", "ok"].map(str::to_owned);
            let (what, subject) = (what.to_owned(), subject.to_owned());
            is_about(&Entry { time: 0, who, what, subject, outcome, by_tenant: true }, "alerts")
        };
        assert!(about("pipeline.deploy", "alerts v3: millrace:a@sha256:00"));
        assert!(about("pipeline.undeploy", "alerts"));
        assert!(about("pipeline.replay", "other a.b into alerts/too-hot"));
        assert!(about("dead.replay", "other into alerts"));
        assert!(!about("pipeline.deploy", "alerts-2 v3"));
        assert!(!about("provider.deploy", "alerts 1"));
        assert!(!about("tenant.suspend", "alerts"));
    }
}
