//! The messages of each batch in the order of their times: what a step that sees one message at a time cannot do.
//!
//! A monolithic component is a stage by itself. It is given the bytes of a batch (docs/batch-format.md), and is responsible for
//! what the harness does elsewhere: that everything has gone on when it answers ok.

use exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use millrace_batch::{is_batch, wrap_raw, Batch, BatchWriter, Message, PROBE};
use wasi::config::store;
use wasmcloud::messaging::consumer;

wit_bindgen::generate!({
    path: ["../../wit/deps/config", "../../wit/deps/messaging", "wit"],
    world: "example:sort-by-time/sort-by-time",
    generate_all,
});

struct SortByTime;
export!(SortByTime);

impl Guest for SortByTime {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let body = match is_batch(&message.body) {
            true => message.body,
            false => wrap_raw(&message.subject, &message.body, 0, []).map_err(refused)?,
        };
        let batch = Batch::parse(&body).map_err(refused)?;
        // A probe asks whether the way is open: it goes on as it is.
        if batch.is_empty() && batch.header(PROBE).is_none() {
            return Ok(());
        }
        let body = sorted(&batch).map_err(refused)?;
        let subject = match store::get("out-subject") {
            Ok(Some(subject)) => subject,
            Ok(None) => return Err("config: `out-subject` is not set".to_owned()),
            Err(store::Error::Upstream(text) | store::Error::Io(text)) => {
                return Err(format!("config: {text}"))
            }
        };
        consumer::publish(&BrokerMessage { subject, body, reply_to: None })
            .map_err(|error| format!("downstream: {error}"))
    }
}

/// The batch with its headers, among them the id by which a repeat of it is known.
fn sorted(batch: &Batch<'_>) -> Result<Vec<u8>, millrace_batch::WriteError> {
    let mut messages: Vec<Message<'_>> = batch.messages().collect();
    messages.sort_by_key(|message| message.timestamp);
    let mut writer = BatchWriter::with_capacity(batch.headers(), batch.bytes().len())?;
    for message in &messages {
        writer.push_record(message)?;
    }
    Ok(writer.finish())
}

fn refused(error: impl std::error::Error) -> String {
    format!("batch: {error}")
}
