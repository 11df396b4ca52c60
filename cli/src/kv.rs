//! `millrace kv`: the values that steps read and write.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use millrace_conduit::Buckets;
use millrace_grants::{Grant, KEY_MAX, VALUE_MAX};
use serde_json::Value;

use crate::ui::Ui;
use crate::{audit, lattice};

/// Largest file of values, in bytes.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// Values by key, in buckets of a lattice: limits, calibrations, names of machines. Steps that are granted `kv:BUCKET` use them,
/// and `enrich` looks them up.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the buckets, or the keys of one.
    #[command(after_help = "Examples:\n  millrace kv list\n  millrace kv list limits --json")]
    List {
        /// The bucket.
        bucket: Option<String>,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Write the value of a key to standard output.
    #[command(
        after_help = "Example:\n  millrace kv get limits plant/press-1\n\nExits with 1 when there is none."
    )]
    Get {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Give a key a value. A step sees it with the next batch.
    #[command(
        after_help = "Examples:\n  millrace kv set limits plant/press-1 85\n  millrace kv set machines 17 '{\"name\":\"press 1\",\"hall\":3}'\n  millrace kv set models press - < model.bin"
    )]
    Set {
        /// The bucket; made if it is not there.
        bucket: String,
        /// The key.
        key: String,
        /// The value, or - for standard input.
        #[arg(allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Take the values of keys away.
    #[command(after_help = "Example:\n  millrace kv delete limits plant/press-1 plant/press-2")]
    Delete {
        /// The bucket.
        bucket: String,
        /// The keys.
        #[arg(required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Take a bucket away with all that is in it.
    #[command(after_help = "Example:\n  millrace kv remove limits")]
    Remove {
        /// The bucket.
        bucket: String,
        #[command(flatten)]
        lattice: lattice::Options,
    },
    /// Give many keys their values, from a file with a JSON object: texts as they are, everything else as JSON. Keys that are
    /// not in the file stay as they are.
    #[command(after_help = "Example:\n  millrace kv load machines machines.json")]
    Load {
        /// The bucket; made if it is not there.
        bucket: String,
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        lattice: lattice::Options,
    },
}

pub(crate) async fn run(ui: Ui, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { bucket: None, lattice } => {
            let names = buckets(&lattice).await?.list().await?;
            shown(ui, &names, "there are no buckets; `millrace kv set` makes one")
        }
        Command::List { bucket: Some(bucket), lattice } => {
            let buckets = there(&bucket, &lattice).await?;
            let mut keys: Vec<String> =
                buckets.keys(&bucket).await?.iter().map(|key| text(key)).collect();
            keys.sort();
            shown(ui, &keys, "the bucket is empty")
        }
        Command::Get { bucket, key, lattice } => {
            let buckets = there(&bucket, &lattice).await?;
            let value = buckets.get(&bucket, &[checked(&key)?]).await?.pop().flatten();
            let value =
                value.with_context(|| format!("bucket `{bucket}` has nothing for `{key}`"))?;
            if ui.json {
                return ui.json(&serde_json::json!({ "key": key, "value": text(&value) }));
            }
            let mut out = std::io::stdout().lock();
            out.write_all(&value)?;
            // A file that is written this way is the value and no more.
            if std::io::IsTerminal::is_terminal(&out) {
                out.write_all(b"\n")?;
            }
            Ok(())
        }
        Command::Set { bucket, key, value, lattice } => {
            named(&bucket)?;
            let value = if value == "-" { stdin()? } else { value.into_bytes() };
            let key = checked(&key)?;
            fits(&text(&key), &value)?;
            buckets(&lattice).await?.set(&bucket, &key, value.into()).await?;
            ui.step(format!("bucket `{bucket}`: `{}` is set", text(&key)));
            note(ui, &lattice, "kv.set", &format!("{bucket} {}", text(&key))).await
        }
        Command::Delete { bucket, keys, lattice } => {
            let buckets = there(&bucket, &lattice).await?;
            for key in &keys {
                buckets.delete(&bucket, &checked(key)?).await?;
            }
            ui.step(format!("bucket `{bucket}`: {} keys deleted", keys.len()));
            note(ui, &lattice, "kv.delete", &format!("{bucket} {}", keys.join(" "))).await
        }
        Command::Remove { bucket, lattice } => {
            there(&bucket, &lattice).await?.remove(&bucket).await?;
            ui.step(format!("bucket `{bucket}` is removed"));
            note(ui, &lattice, "kv.remove", &bucket).await
        }
        Command::Load { bucket, file, lattice } => {
            named(&bucket)?;
            let values = read(&file)?;
            let buckets = buckets(&lattice).await?;
            let total = values.len();
            for (number, (key, value)) in values.into_iter().enumerate() {
                let set = buckets.set(&bucket, key.as_bytes(), value.into()).await;
                set.with_context(|| format!("after {number} of {total} keys"))?;
            }
            ui.step(format!("bucket `{bucket}`: {total} keys are set"));
            note(ui, &lattice, "kv.load", &format!("{bucket} {total} keys")).await
        }
    }
}

/// In the audit log; values can be secrets, and are not in it.
async fn note(ui: Ui, lattice: &lattice::Options, what: &str, subject: &str) -> anyhow::Result<()> {
    audit::note(ui, lattice, &lattice.connect().await?, what, subject).await;
    Ok(())
}

async fn buckets(lattice: &lattice::Options) -> anyhow::Result<Buckets> {
    Ok(Buckets::of(&lattice.connect().await?, lattice.name()))
}

/// The buckets of the lattice, this one among them: looking does not make one.
async fn there(bucket: &str, lattice: &lattice::Options) -> anyhow::Result<Buckets> {
    named(bucket)?;
    let buckets = buckets(lattice).await?;
    let names = buckets.list().await?;
    if !names.iter().any(|name| name == bucket) {
        match names.as_slice() {
            [] => bail!("there is no bucket `{bucket}`, and no other; `millrace kv set` makes one"),
            names => bail!("there is no bucket `{bucket}`; there are {}", names.join(", ")),
        }
    }
    Ok(buckets)
}

fn named(bucket: &str) -> anyhow::Result<()> {
    match format!("kv:read:{bucket}").parse::<Grant>() {
        Ok(_) => Ok(()),
        Err(error) => bail!("`{bucket}` is no name of a bucket: {}", error.mend()),
    }
}

fn checked(key: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(
        key.len() <= KEY_MAX,
        "a key is at most {KEY_MAX} bytes, and this one has {}",
        key.len()
    );
    Ok(key.as_bytes().to_vec())
}

fn fits(key: &str, value: &[u8]) -> anyhow::Result<()> {
    ensure!(
        value.len() <= VALUE_MAX,
        "a value is at most {VALUE_MAX} bytes, and that of `{key}` has {}",
        value.len()
    );
    Ok(())
}

fn stdin() -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    let most = u64::try_from(VALUE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    std::io::stdin().take(most).read_to_end(&mut value).context("reading standard input")?;
    Ok(value)
}

/// Keys and values of a file, all of them checked before the first is written.
fn read(file: &PathBuf) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let name = file.display();
    let length = std::fs::metadata(file).with_context(|| format!("could not read {name}"))?.len();
    ensure!(length <= FILE_MAX, "{name} has {length} bytes, at most {FILE_MAX} are read");
    let bytes = std::fs::read(file).with_context(|| format!("could not read {name}"))?;
    let values: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{name} is not JSON"))?;
    let Value::Object(values) = values else {
        bail!("{name} is no JSON object: write {{ \"KEY\": VALUE, ... }}");
    };
    let mut read = Vec::with_capacity(values.len());
    for (key, value) in values {
        let value = match value {
            Value::String(text) => text.into_bytes(),
            other => other.to_string().into_bytes(),
        };
        checked(&key).and_then(|_| fits(&key, &value)).with_context(|| name.to_string())?;
        read.push((key, value));
    }
    Ok(read)
}

fn shown(ui: Ui, names: &[String], none: &str) -> anyhow::Result<()> {
    if ui.json {
        return ui.json(&names);
    }
    if names.is_empty() {
        ui.step(none);
    }
    names.iter().for_each(|name| ui.line(name));
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
