//! `millrace step test`: samples, and then any bytes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_compose::Kind;
use millrace_desk::{Engine, Message, Options, shown};
use millrace_pipeline::{Hex, Payload, TestMessage, Time};
use millrace_step::{
    Case, Ended, Findings, Kept, Letter, Trial, Tried, Windowed, arbitrary, inspect, read_samples,
};
use serde_json::{Value, json};

use super::{Given, Subject, memory};
use crate::ui::{Ui, human_time};

/// What to try, and with what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The component, or the folder of a step that is built.
    #[arg(default_value = ".")]
    file: PathBuf,
    /// Sample messages, a JSON object on each line [default: samples.jsonl of the folder].
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// A value for the step's `init`; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
    /// The kind, where the component can be several.
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// An arm of a branch; may be given several times.
    #[arg(long, value_name = "NAME")]
    arm: Vec<String>,
    /// The window of an accumulate, as in a pipeline: tumbling=10s, count=100 or hopping=1m,every=10s [default: one for all
    /// messages of a year].
    #[arg(long, value_name = "SETTING=VALUE", value_delimiter = ',', value_parser = pair)]
    window: Vec<(String, String)>,
    #[command(flatten)]
    given: Given,
    /// How many messages of any content are given to it; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 256)]
    cases: usize,
    /// Where their random numbers begin [default: another each time].
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Longest time of one call, as on the host.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = millrace_platform::parse_time)]
    call_limit: Duration,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "has to be NAME=VALUE, such as limit=80".to_owned())
}

pub(crate) fn run(ui: Ui, args: &Args) -> anyhow::Result<ExitCode> {
    let subject = Subject::of(&args.file)?;
    let mut settings = subject.settings(args.kind, &args.arm, &args.config, &args.given);
    if !args.window.is_empty() {
        settings.window = args.window.iter().cloned().collect();
    }
    let samples = match (&args.messages, &subject.project) {
        (Some(file), _) => read_samples(file)?,
        (None, Some(project)) if project.samples().is_file() => read_samples(&project.samples())?,
        _ => Vec::new(),
    };
    let grants = settings.grants.iter().cloned().collect();
    let found = inspect(&subject.read()?, &grants, memory(settings.memory.as_deref())?)?;
    let engine = Engine::new(&Options { call_limit: args.call_limit, ..Options::default() })?;
    let name = subject.component.display().to_string();
    let trial = crate::pipeline::patiently(ui, &name, || {
        Trial::build(&engine, &subject.component, &found.kinds, &settings)
    })?;

    let (tried, windows) = if trial.has_state() {
        let Windowed { messages, ended, open, largest } = trial.windows(&samples)?;
        (messages, Some((ended, open, largest)))
    } else {
        (samples.iter().map(|message| trial.give(message)).collect::<Result<_, _>>()?, None)
    };
    let all = tried.iter().chain(windows.as_ref().map(|(ended, ..)| ended));
    let trapped = all.flat_map(|tried| &tried.letters).filter(|letter| letter.is_trap()).count();
    if !ui.json {
        for (index, (message, tried)) in samples.iter().zip(&tried).enumerate() {
            sample(ui, index + 1, message, tried, windows.is_some());
        }
        if let Some((ended, open, largest)) = windows.as_ref().filter(|_| !samples.is_empty()) {
            show_windows(ui, ended, open, *largest);
        }
    }
    let seed = args.seed.unwrap_or_else(fresh);
    let findings = match args.cases {
        0 => None,
        cases => Some(arbitrary(&trial, &samples, seed, cases)?),
    };
    let passed = trapped == 0 && findings.as_ref().is_none_or(Findings::passed);
    if ui.json {
        let told = samples.iter().zip(&tried).map(|(message, tried)| sample_json(message, tried));
        ui.json(&json!({
            "component": subject.component,
            "passed": passed,
            "samples": told.collect::<Vec<_>>(),
            "windows": windows.as_ref().map(|(ended, open, largest)| windows_json(ended, open, *largest)),
            "arbitrary": findings.as_ref().map(findings_json),
        }))?;
    } else {
        if trapped > 0 {
            let text = match &windows {
                Some((ended, ..)) if ended.letters.iter().any(Letter::is_trap) => {
                    "the end of a window trapped".to_owned()
                }
                _ => format!("{trapped} of {} samples trapped", samples.len()),
            };
            ui.line(ui.red(text));
        }
        if let Some(findings) = &findings {
            show(ui, findings);
        }
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A seed that is another each time, and short enough to be typed.
fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ (now.as_secs() & 0xFFFF)
}

fn sample(ui: Ui, number: usize, message: &Message, tried: &Tried, with_state: bool) {
    let time = ui.dim(human_time(tried.took));
    let given = shown(message);
    for (arm, output) in &tried.outputs {
        let made = match arm {
            Some(arm) => format!("arm {}", ui.bold(arm)),
            None => made(message, output),
        };
        ui.line(format!("{number:>3}  {given}  {}  {made}  {time}", ui.green("->")));
    }
    for letter in &tried.letters {
        let kind = ui.red(&letter.kind);
        ui.line(format!("{number:>3}  {given}  {}  {kind}: {}  {time}", ui.red("x"), letter.text));
    }
    if tried.outputs.is_empty() && tried.letters.is_empty() {
        let what = if with_state { "in its window" } else { "dropped" };
        ui.line(format!("{number:>3}  {given}  {}  {time}", ui.yellow(what)));
    }
    log(ui, tried);
}

/// An output; with its event time, where that is another than the message's.
fn made(message: &Message, output: &Message) -> String {
    let text = shown(output);
    if output.timestamp == message.timestamp {
        return text;
    }
    format!("{text}  at {}", Time::from_nanoseconds(output.timestamp))
}

/// What the harness logs of a rejected message is shown otherwise.
fn log(ui: Ui, tried: &Tried) {
    for line in tried.log.iter().filter(|line| line.context != "millrace") {
        ui.line(ui.dim(format!("       log {} {}", line.level.as_str(), line.text)));
    }
}

fn show_windows(ui: Ui, ended: &Tried, open: &[u64], largest: usize) {
    for (_, output) in &ended.outputs {
        let time = Time::from_nanoseconds(output.timestamp);
        ui.line(format!("end  {}  {}  at {time}", ui.green("->"), shown(output)));
    }
    for letter in &ended.letters {
        ui.line(format!("end  {}  {}: {}", ui.red("x"), ui.red(&letter.kind), letter.text));
    }
    log(ui, ended);
    for count in open {
        ui.line(format!(
            "end  {}: {count} messages are in a window that is not full",
            ui.yellow("open")
        ));
    }
    ui.line(ui.dim(format!("     largest state of a window: {largest} bytes")));
}

fn windows_json(ended: &Tried, open: &[u64], largest: usize) -> Value {
    let mut told = tried_json(ended);
    if let Some(fields) = told.as_object_mut() {
        fields.insert("open".into(), json!(open));
        fields.insert("largest-state".into(), json!(largest));
    }
    told
}

fn show(ui: Ui, findings: &Findings) {
    let Findings { seed, cases, refused, took, case, kept } = findings;
    if let Some(kept) = kept {
        show_kept(ui, kept);
    }
    let each = took.checked_div(u32::try_from(*cases).unwrap_or(u32::MAX)).unwrap_or_default();
    let Some(case) = case else {
        ui.line(format!(
            "{}: {cases} messages of any content, {refused} refused, {} each  {}",
            ui.green("no trap"),
            human_time(each),
            ui.dim(format!("--seed {seed}"))
        ));
        return;
    };
    let Case { ended, messages, tries } = case;
    let (title, how) = match ended {
        Ended::Trap(text) => ("TRAP", text.clone()),
        Ended::Timeout(limit) => ("TRAP", format!("no answer within {limit:?}")),
        Ended::Differs => ("DIFFERS", DIFFERS.to_owned()),
    };
    ui.line(format!(
        "{}: {how}; among {cases} messages of any content  {}",
        ui.red(title),
        ui.dim(format!("--seed {seed}"))
    ));
    let what = if messages.len() == 1 { "the smallest message" } else { "messages in one call" };
    ui.line(format!("  {what} that was found in {tries} more calls:"));
    for message in messages {
        ui.line(format!("    {}", message_json(message)));
    }
    ui.line("  a step returns an error for what it cannot process; put the line into samples.jsonl to keep it");
}

const DIFFERS: &str =
    "called again with the same state and messages, at another time, the step gave something else";

fn show_kept(ui: Ui, kept: &Kept) {
    let Kept { before, bytes, messages, grows } = kept;
    if *grows {
        let text =
            format!("{before} bytes after {} messages, {bytes} after {messages}", messages / 2);
        ui.line(format!(
            "{}: {text}; all windows of a partition have 384 KiB. Keep less, or let a window have so many messages (--window count=100)",
            ui.red("the state GROWS")
        ));
    } else {
        ui.line(format!(
            "{}: {bytes} bytes of {messages} messages in a window",
            ui.green("the state is bounded")
        ));
    }
}

fn findings_json(findings: &Findings) -> Value {
    let Findings { seed, cases, refused, took, case, kept } = findings;
    let kept = kept.map(|Kept { before, bytes, messages, grows }| {
        json!({ "before": before, "bytes": bytes, "messages": messages, "grows": grows })
    });
    let case = case.as_ref().map(|case| {
        let (kind, text) = match &case.ended {
            Ended::Trap(text) => ("trap", text.clone()),
            Ended::Timeout(limit) => ("timeout", format!("no answer within {limit:?}")),
            Ended::Differs => ("differs", DIFFERS.to_owned()),
        };
        let messages: Vec<Value> = case.messages.iter().map(message_json).collect();
        json!({ "kind": kind, "text": text, "messages": messages, "tries": case.tries })
    });
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    json!({ "seed": seed, "cases": cases, "refused": refused, "took-us": took_us, "trap": case, "state": kept })
}

fn sample_json(message: &Message, tried: &Tried) -> Value {
    let mut told = tried_json(tried);
    if let Some(fields) = told.as_object_mut() {
        fields.insert("message".into(), message_json(message));
    }
    told
}

fn tried_json(tried: &Tried) -> Value {
    let outputs = tried.outputs.iter().map(|(arm, message)| match arm {
        Some(arm) => json!({ "arm": arm, "message": message_json(message) }),
        None => json!({ "message": message_json(message) }),
    });
    let letters = tried.letters.iter().map(|l| json!({ "kind": l.kind, "text": l.text }));
    json!({
        "outputs": outputs.collect::<Vec<_>>(),
        "rejected": letters.collect::<Vec<_>>(),
        "log": tried.log,
        "took-us": u64::try_from(tried.took.as_micros()).unwrap_or(u64::MAX),
    })
}

/// As a line of a file of samples.
fn message_json(message: &Message) -> Value {
    let payload = match std::str::from_utf8(&message.payload) {
        Ok(text) => Payload::Text(text.to_owned()),
        Err(_) => Payload::Hex(Hex(message.payload.clone())),
    };
    let time = Time::from_nanoseconds(message.timestamp);
    json!(TestMessage {
        payload: Some(payload),
        topic: Some(message.topic.clone()).filter(|topic| !topic.is_empty()),
        key: message.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()),
        headers: message.headers.iter().cloned().collect(),
        content_type: message.content_type.clone(),
        timestamp: Some(time).filter(|time| *time != Time::DEFAULT),
    })
}
