//! `millrace pipeline tap`: shows messages as they pass a durable edge, or become dead letters. A tap is one more
//! subscriber of the edge's subject: it takes nothing away and holds nothing up.

use std::time::Duration;

use futures::StreamExt as _;
use millrace_batch::{Batch, Message};
use serde::Serialize;

use crate::ui::Ui;

/// Longest payload that is shown whole, in bytes.
const SHOWN_BYTES: usize = 400;

/// How much, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Show {
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End after this time, as 20s or 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = millrace_platform::parse_time)]
    pub(crate) time: Option<Duration>,
    /// Show payloads as hexadecimal numbers.
    #[arg(long)]
    pub(crate) hex: bool,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    edge: &'a str,
    batch: Option<&'a str>,
    timestamp_ns: u64,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    headers: Vec<(&'a str, &'a str)>,
    payload: String,
    payload_bytes: usize,
}

/// Shows what passes until the count, the time or Ctrl-C. Answers how many messages were shown.
pub(crate) async fn run(
    ui: Ui,
    nats: &async_nats::Client,
    subjects: &[(String, String)],
    options: &Show,
) -> anyhow::Result<u64> {
    let mut taps = Vec::new();
    for (edge, subject) in subjects {
        let subscriber = nats.subscribe(subject.clone()).await?;
        taps.push(subscriber.map(move |body| (edge.as_str(), body)).boxed());
    }
    nats.flush().await?;
    let mut taps = futures::stream::select_all(taps);
    let end = async {
        match options.time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let most = options.count.unwrap_or(u64::MAX);
    let mut count = 0;
    while count < most {
        let (edge, body) = tokio::select! {
            next = taps.next() => match next {
                Some(next) => next,
                None => break,
            },
            () = &mut end => break,
            _ = tokio::signal::ctrl_c() => break,
        };
        let batch = match Batch::parse(&body.payload) {
            Ok(batch) => batch,
            Err(e) => {
                ui.warn(format!("a body on {edge} is no batch: {e}"));
                continue;
            }
        };
        for message in batch.messages().take(usize::try_from(most - count).unwrap_or(usize::MAX)) {
            show(ui, &shown(edge, &batch, &message, options.hex))?;
            count += 1;
        }
    }
    Ok(count)
}

fn shown<'a>(edge: &'a str, batch: &Batch<'a>, message: &Message<'a>, hex: bool) -> Shown<'a> {
    Shown {
        edge,
        batch: batch.header("id"),
        timestamp_ns: message.timestamp,
        topic: message.topic,
        key: message.key.map(|key| text(key, hex)),
        content_type: message.content_type,
        headers: message.headers().collect(),
        payload: text(message.payload, hex),
        payload_bytes: message.payload.len(),
    }
}

/// Bytes for people: as text where they are text, otherwise (or on request) as hexadecimal numbers.
fn text(bytes: &[u8], hex: bool) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !hex => text.to_owned(),
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn show(ui: Ui, message: &Shown<'_>) -> anyhow::Result<()> {
    if ui.json {
        return ui.json(message);
    }
    // Control characters of a payload must not reach the terminal.
    let payload: String =
        message.payload.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let cut = payload.char_indices().nth(SHOWN_BYTES).map_or(payload.len(), |(at, _)| at);
    let (start, rest) = payload.split_at(cut);
    let more = if rest.is_empty() {
        String::new()
    } else {
        ui.dim(format!("... {} bytes", message.payload_bytes))
    };
    ui.line(format!(
        "{}  {}  {start}{more}",
        ui.dim(message.edge),
        ui.bold(message.topic.escape_debug())
    ));
    for (name, value) in &message.headers {
        ui.line(format!("    {}", ui.dim(format!("{name}: {}", value.escape_debug()))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn bytes_for_people() {
        assert_eq!(text(b"{\"a\":1}", false), "{\"a\":1}");
        assert_eq!(text(b"ab", true), "6162");
        assert_eq!(text(&[0xff, 0x00], false), "ff00");
    }
}
