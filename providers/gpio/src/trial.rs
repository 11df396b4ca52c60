//! Trying lines: find each and ask the kernel what it knows of it. None is
//! requested: a request changes a line, and takes it from others.

use millrace_kit::LinkNames;
use millrace_provider::trial::Failed;
use millrace_settings::gpio::{SinkSettings, SourceSettings};

use crate::chip;
use crate::error::LineError;

/// Where one line of the settings is: chip, offset, name.
type Place = (String, Option<String>, Option<u32>, Option<String>);

/// Tries a source's lines.
pub(crate) async fn source(settings: SourceSettings, link: LinkNames) -> Result<String, Failed> {
    let lines = settings.lines.into_iter().map(|(name, line)| {
        let offset = line.offset.map(|o| u32::try_from(o.get()).unwrap_or(u32::MAX));
        (name, line.chip, offset, line.line)
    });
    look_at(lines.collect(), link).await
}

/// Tries a sink's lines.
pub(crate) async fn sink(settings: SinkSettings, link: LinkNames) -> Result<String, Failed> {
    let lines = settings.lines.into_iter().map(|(name, line)| {
        let offset = line.offset.map(|o| u32::try_from(o.get()).unwrap_or(u32::MAX));
        (name, line.chip, offset, line.line)
    });
    look_at(lines.collect(), link).await
}

async fn look_at(lines: Vec<Place>, link: LinkNames) -> Result<String, Failed> {
    // A chip behind a slow bus takes its time.
    let looked = tokio::task::spawn_blocking(move || {
        let own = chip::consumer(&link.pipeline, &link.name);
        let mut said = Vec::with_capacity(lines.len());
        for (name, chip, offset, line) in lines {
            let seen = chip::look(chip.as_deref(), offset, line.as_deref())
                .map_err(|error| Failed::new(format!("line {name}: {error}"), mend(&error)))?;
            let used = match seen.consumer {
                None => "",
                Some(by) if by == own => ", in use by this pipeline, which runs",
                Some(by) => {
                    let error = format!("line {name}: {} is in use by \"{by}\"", seen.place);
                    let mend = "end what uses it, or choose another line: a line has one user";
                    return Err(Failed::new(error, mend));
                }
            };
            said.push(format!("{name} is {}{used}", seen.place));
        }
        Ok(said.join("; "))
    });
    looked
        .await
        .unwrap_or_else(|_| Err(Failed::new("looking at the lines was given up", "try again")))
}

fn mend(error: &LineError) -> &'static str {
    match error {
        LineError::NoChip(_) | LineError::Gone(_) => {
            "mend `chip`: `gpiodetect` lists what there is"
        }
        LineError::AmbiguousChip { .. } => "name the device in `chip`",
        LineError::NoLine { .. } | LineError::NoOffset { .. } => {
            "mend `line` or `offset`: `gpioinfo` lists what there is"
        }
        LineError::AmbiguousLine { .. } => "give `chip` and `offset`",
        LineError::Denied(_) => {
            "let the user that runs the host, and this one, read and write the device"
        }
        LineError::InUse { .. } | LineError::Kernel { .. } => "look at the line with `gpioinfo`",
    }
}
