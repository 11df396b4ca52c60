//! `millrace dead`: the letters of a pipeline: looked at, given to a mended stage, deleted.
//!
//! | module | its part |
//! |---|---|
//! | `filter` | which letters |
//! | `letter` | one letter |
//! | `store` | the stream: pages, deletion, replacement in part |
//! | `route` | the stage that a letter goes to |
//! | `call` | calls to a stage, and whose fault a failure is |
//! | `replay` | letter by letter |
//! | `show` | tables |

pub(crate) mod call;
pub(crate) mod filter;
mod letter;
pub(crate) mod replay;
pub(crate) mod route;
mod show;
mod store;

use std::collections::VecDeque;
use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use millrace_batch::Batch;
use millrace_wadm::Applications;

use self::filter::Filter;
use self::letter::Letter;
use self::replay::{Rate, Replay};
use self::route::{Elsewhere, stage_named};
use self::store::{Kept, Reader, Store};
use crate::pipeline::name_of;
use crate::ui::Ui;
use crate::{audit, lattice};

/// Messages that failed: look at them, give them to a mended step, or delete them.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the dead letters of a pipeline, the oldest first.
    #[command(
        after_help = "Examples:\n  millrace dead list alerts\n  millrace dead list alerts --summary\n  millrace dead list pipeline.yaml --kind trap,timeout --since 2h --json\n\nWith --json a line for each letter."
    )]
    List {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        filter: Filter,
        /// How many there are of each stage and kind, instead of each.
        #[arg(long)]
        summary: bool,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Show letters whole: why, headers and payload.
    #[command(
        after_help = "Examples:\n  millrace dead show alerts --seq 12\n  millrace dead show alerts --step celsius --limit 1\n\nExits with 1 when there is none."
    )]
    Show {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Give letters to the step that refused them, as it is deployed now. What it takes is deleted here.
    #[command(
        after_help = "Examples:\n  millrace dead replay alerts --kind invalid-argument --dry-run\n  millrace dead replay alerts --step celsius --since 2h --rate 50/s\n  millrace dead replay alerts --into alerts-shadow          a try in another pipeline\n\nA message arrives as it was before it died, at the step that refused it. What is refused again is a new letter. A letter \
                      that the stage does not take stays, and the others go on. A replay that was interrupted is started \
                      again as it was: what arrived already is dropped by the next durable edge.\n\nExits with 4 when letters stay."
    )]
    Replay {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        filter: Filter,
        /// Give them to another pipeline, or to a stage by name, for a try: the letters stay here.
        #[arg(long, value_name = "PIPELINE[/STAGE]")]
        into: Option<Elsewhere>,
        /// At most so many a second (50/s) or a minute (600/m).
        #[arg(long, value_name = "N/s")]
        rate: Option<Rate>,
        /// How long the stage may take for one letter.
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = millrace_platform::parse_time)]
        timeout: Duration,
        /// Show what would be given where, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask before all letters are replayed.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Delete letters.
    #[command(
        after_help = "Examples:\n  millrace dead drop alerts --kind trap --until 7d --dry-run\n  millrace dead drop alerts --seq 12..20 --yes"
    )]
    Drop {
        /// The definition, or the name of a pipeline.
        pipeline: String,
        #[command(flatten)]
        filter: Filter,
        /// Show what would be deleted, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        lattice: lattice::Options,
    },
}

pub(crate) async fn run(ui: Ui, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { pipeline, filter, summary, lattice } => {
            list(ui, &name_of(&pipeline)?, &filter, &lattice, summary).await?;
        }
        Command::Show { pipeline, filter, lattice } => {
            show(ui, &name_of(&pipeline)?, &filter, &lattice).await?;
        }
        Command::Replay { pipeline, filter, into, rate, timeout, dry_run, yes, lattice } => {
            let options = ReplayOptions { into, rate, timeout, dry_run, yes };
            return replay(ui, &name_of(&pipeline)?, &filter, &lattice, &options).await;
        }
        Command::Drop { pipeline, filter, dry_run, yes, lattice } => {
            let name = name_of(&pipeline)?;
            let nats = lattice.connect().await?;
            let Some(store) = open(&nats, lattice.name(), &name).await? else {
                return nothing(ui, &name);
            };
            if dry_run {
                list_store(ui, &store, &filter).await?;
                return Ok(ExitCode::SUCCESS);
            }
            if !yes {
                let count = count(ui, &store, &filter).await?;
                if count > 0 && !confirmed(&format!("delete {count} dead letters of `{name}`?"))? {
                    anyhow::bail!("nothing was deleted");
                }
            }
            drop_letters(ui, &name, &store, &filter).await?;
            audit::note(ui, &lattice, &nats, "dead.drop", &name).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The letters of a pipeline, one batch after the other.
struct Walk<'a> {
    filter: &'a Filter,
    reader: Reader<'a>,
    page: VecDeque<Kept>,
    /// Letters that may still be chosen.
    left: u64,
}

impl<'a> Walk<'a> {
    fn new(store: &'a Store, filter: &'a Filter) -> Self {
        let stage = match filter.stage.as_slice() {
            [only] if millrace_kit::link::is_name(only) => Some(only.as_str()),
            _ => None,
        };
        let reader = store.reader(stage, &filter.numbers());
        Self { filter, reader, page: VecDeque::new(), left: filter.limit.unwrap_or(u64::MAX) }
    }

    /// The next batch that can be read.
    async fn next(&mut self, ui: Ui) -> anyhow::Result<Option<Kept>> {
        while self.left > 0 {
            let Some(kept) = self.page.pop_front() else {
                self.page = self.reader.page().await?.into();
                if self.page.is_empty() {
                    break;
                }
                continue;
            };
            match kept.batch() {
                Ok(_) => return Ok(Some(kept)),
                Err(error) => {
                    ui.warn(format!("number {} is no batch of letters: {error}", kept.seq))
                }
            }
        }
        Ok(None)
    }

    /// The letters of a batch that are meant.
    fn choose<'k>(&mut self, kept: &'k Kept, batch: &Batch<'k>) -> Vec<Letter<'k>> {
        let letters = batch.messages().enumerate();
        let letters = letters.map(|(place, message)| Letter::read(kept, place, message));
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let chosen: Vec<_> = letters.filter(|l| self.filter.fits(l)).take(most).collect();
        self.left = self.left.saturating_sub(chosen.len() as u64);
        chosen
    }
}

/// Calls the closure with every letter that is meant.
async fn each(
    ui: Ui,
    store: &Store,
    filter: &Filter,
    mut look: impl FnMut(&Letter<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut walk = Walk::new(store, filter);
    let mut count = 0;
    while let Some(kept) = walk.next(ui).await? {
        let Ok(batch) = kept.batch() else { continue };
        for letter in walk.choose(&kept, &batch) {
            look(&letter)?;
            count += 1;
        }
    }
    Ok(count)
}

/// The letters of a pipeline. One that wadm does not know and that left none is a slip of the pen.
async fn open(
    nats: &async_nats::Client,
    lattice: &str,
    pipeline: &str,
) -> anyhow::Result<Option<Store>> {
    let store = Store::open(nats, lattice, pipeline).await?;
    if store.is_none()
        && Applications::new(nats.clone(), lattice).versions(pipeline).await?.is_empty()
    {
        let (name, lattice) = (pipeline.to_owned(), lattice.to_owned());
        return Err(millrace_wadm::WadmError::NotFound { name, lattice }.into());
    }
    Ok(store)
}

fn nothing(ui: Ui, pipeline: &str) -> anyhow::Result<ExitCode> {
    ui.step(format!("no dead letters of `{pipeline}`"));
    Ok(ExitCode::SUCCESS)
}

async fn list(
    ui: Ui,
    pipeline: &str,
    filter: &Filter,
    lattice: &lattice::Options,
    summary: bool,
) -> anyhow::Result<()> {
    let nats = lattice.connect().await?;
    let store = open(&nats, lattice.name(), pipeline).await?;
    let mut counts = show::Counts::default();
    let found = match &store {
        None => 0,
        Some(store) if !summary => list_store(ui, store, filter).await?,
        Some(store) => {
            let count = |letter: &Letter<'_>| {
                counts.add(letter);
                Ok(())
            };
            each(ui, store, filter, count).await?
        }
    };
    if summary {
        counts.show(ui)?;
    }
    let such = if filter.is_all() { "" } else { " that fit" };
    match found {
        0 => ui.step(format!("no dead letters of `{pipeline}`{such}")),
        _ if ui.json => {}
        found => ui.step(format!("{found} dead letters{such}")),
    }
    Ok(())
}

async fn list_store(ui: Ui, store: &Store, filter: &Filter) -> anyhow::Result<u64> {
    let mut table = show::Table::new(ui);
    each(ui, store, filter, |letter| table.letter(letter)).await
}

async fn count(ui: Ui, store: &Store, filter: &Filter) -> anyhow::Result<u64> {
    if store.batches() > 10_000 {
        ui.step(format!("counting in {} batches of letters", store.batches()));
    }
    each(ui, store, filter, |_| Ok(())).await
}

async fn show(
    ui: Ui,
    pipeline: &str,
    filter: &Filter,
    lattice: &lattice::Options,
) -> anyhow::Result<()> {
    let nats = lattice.connect().await?;
    let found = match open(&nats, lattice.name(), pipeline).await? {
        Some(store) => each(ui, &store, filter, |letter| show::whole(ui, letter)).await?,
        None => 0,
    };
    anyhow::ensure!(found > 0, "no dead letter of `{pipeline}` fits");
    Ok(())
}

async fn drop_letters(
    ui: Ui,
    pipeline: &str,
    store: &Store,
    filter: &Filter,
) -> anyhow::Result<()> {
    let mut walk = Walk::new(store, filter);
    let mut dropped = 0;
    while let Some(kept) = walk.next(ui).await? {
        let Ok(batch) = kept.batch() else { continue };
        let places: Vec<usize> = walk.choose(&kept, &batch).iter().map(|l| l.place).collect();
        if !places.is_empty() {
            store.remove(&kept, &batch, &places).await?;
            dropped += places.len();
        }
    }
    if ui.json {
        return ui.json(&serde_json::json!({ "pipeline": pipeline, "dropped": dropped }));
    }
    ui.line(format!("{dropped} dead letters of {pipeline} deleted"));
    Ok(())
}

/// Where letters are given, and how.
struct ReplayOptions {
    into: Option<Elsewhere>,
    rate: Option<Rate>,
    timeout: Duration,
    dry_run: bool,
    yes: bool,
}

async fn replay(
    ui: Ui,
    pipeline: &str,
    filter: &Filter,
    lattice: &lattice::Options,
    options: &ReplayOptions,
) -> anyhow::Result<ExitCode> {
    let nats = lattice.connect().await?;
    let Some(store) = open(&nats, lattice.name(), pipeline).await? else {
        return nothing(ui, pipeline);
    };
    let into = options.into.as_ref();
    let target = into.map_or(pipeline, |into| &into.pipeline);
    let stages = Applications::new(nats.clone(), lattice.name()).stages(target).await?;
    let named = match into.and_then(|into| into.stage.as_deref()) {
        Some(name) => Some(stage_named(&stages, target, name)?),
        None => None,
    };
    let replay = Replay {
        ui,
        nats,
        lattice: lattice.name(),
        store: &store,
        filter,
        pipeline: target,
        stages: &stages,
        named,
        keep: into.is_some(),
        rate: options.rate,
        limit: options.timeout,
    };
    if options.dry_run {
        let summary = replay.dry_run().await?;
        let will = summary.matched - summary.left;
        ui.step(format!("{will} of {} letters would be given to a stage", summary.matched));
        return Ok(code(summary.left));
    }
    if filter.is_all() && !options.yes {
        let count = count(ui, &store, filter).await?;
        let question = format!("replay all {count} dead letters of `{pipeline}` into `{target}`?");
        if count > 0 && !confirmed(&question)? {
            anyhow::bail!("nothing was replayed");
        }
    }
    audit::note(ui, lattice, &replay.nats, "dead.replay", &format!("{pipeline} into {target}"))
        .await;
    let summary = replay.run().await?;
    if ui.json {
        ui.json(&summary)?;
    } else {
        show::replayed(ui, &summary, replay.keep);
    }
    Ok(code(summary.left))
}

fn code(left: u64) -> ExitCode {
    if left == 0 { ExitCode::SUCCESS } else { ExitCode::from(crate::NOT_TAKEN) }
}

/// Asks on the terminal. Where there is none, somebody has to have said yes before.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    let input = std::io::stdin();
    anyhow::ensure!(
        input.is_terminal(),
        "{question} Nobody is there to ask: say --yes, or say which letters"
    );
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    input.lock().read_line(&mut answer).context("could not read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
