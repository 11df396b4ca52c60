//! What each operator costs inside a stage: a composed stage of one step in this process, over a component that does nothing
//! with the same body. What an enrich asks for is answered here at once, and a state document goes round as the conduit takes
//! it, without the store, so the figure is that of the stage.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_compose::Kind;
use millrace_grants::{Reply, Request, Use};
use millrace_window::{attach, commit};

use crate::harness::{BrokerMessage, Exchange, Subject, engine};
use crate::load::median;
use crate::parts::{self, BATCH, PAYLOAD};
use crate::progress;
use crate::report::Row;

/// Keys of the messages of a batch, in turns.
const KEYS: u64 = 50;

/// From one batch to the next, in event time and by the clock.
const SECOND_NS: u64 = 1_000_000_000;

/// When the first message was made. Later than anything that is subtracted from it.
const START_NS: u64 = 1_000 * SECOND_NS;

/// Calls of each before the measurement: more than the ten seconds of what has a state, which is then as large as it stays.
const WARM: usize = 15;

/// Calls of each in a round: windows of ten seconds end in two of them.
const CALLS: usize = 20;

/// The bucket of the enrich.
const BUCKET: &str = "machines";

/// Name of stage and step.
const STEP: &str = "step";

/// An operator as it is measured.
#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    /// What else is to be said of it.
    how: &'static str,
    /// The example component of a kind that needs one.
    component: Option<&'static str>,
    /// The step's settings, as the plan writes them behind `step.0.`.
    settings: &'static [(&'static str, &'static str)],
}

const fn case(kind: Kind, how: &'static str, component: &'static str) -> Case {
    Case { kind, how, component: Some(component), settings: &[] }
}

const fn without(kind: Kind, how: &'static str) -> Case {
    Case { kind, how, component: None, settings: &[] }
}

impl Case {
    const fn set(self, settings: &'static [(&'static str, &'static str)]) -> Self {
        Self { settings, ..self }
    }
}

/// All operators. Those of customers' components do nothing but what the kind asks for.
const CASES: [Case; 14] = [
    case(Kind::Map, "", "pass-map"),
    case(Kind::Filter, "", "pass-filter"),
    case(Kind::FlatMap, ", one message each", "pass-flat-map"),
    case(Kind::Branch, ", one arm", "pass-branch"),
    case(Kind::Delay, "", "pass-delay"),
    case(Kind::Accumulate, ", tumbling 10 s", "pass-accumulate")
        .set(&[("window", "tumbling 10000000000"), ("arms", "result")]),
    case(Kind::Accumulate, " (aggregate), tumbling 10 s", "aggregate").set(&[
        ("window", "tumbling 10000000000"),
        ("arms", "result"),
        ("config.value", "celsius"),
        ("config.functions", "count,mean,min,max"),
    ]),
    case(Kind::Monolithic, " (sort-by-time)", "sort-by-time"),
    case(Kind::Filter, " (json-schema)", "json-schema").set(&[(
        "config.schema",
        r#"{"type":"object","required":["id","celsius"],
            "properties":{"id":{"type":"integer"},"celsius":{"type":"number","minimum":-50,"maximum":300}}}"#,
    )]),
    without(Kind::DeDuplicate, " by payload.id, within 10 s").set(&[
        ("by", "payload.id"),
        ("within", "10000000000"),
        ("arms", "result"),
    ]),
    // So many that all go on.
    without(Kind::Throttle, ", all go on").set(&[
        ("messages", "1000"),
        ("per", "1000000000"),
        ("arms", "result"),
    ]),
    without(Kind::Concatenate, ""),
    without(Kind::Enrich, " by key, into a field").set(&[
        ("bucket", BUCKET),
        ("by", "key"),
        ("into", "payload.machine"),
        ("missing", "reject"),
    ]),
    without(Kind::Enrich, " by key, into a header").set(&[
        ("bucket", BUCKET),
        ("by", "key"),
        ("into", "headers.machine"),
        ("missing", "reject"),
    ]),
];

/// Measures each operator.
///
/// # Errors
///
/// The example components are not there, or messages are refused or lost.
pub(crate) async fn measure(effort: crate::Effort) -> anyhow::Result<Vec<Row>> {
    let rounds = effort.rounds() * 5;
    progress(format_args!("operators: {} of them, {rounds} rounds in this process", CASES.len()));
    let engine = engine()?;
    let nothing = Subject::nothing(&engine)?;
    let mut stages = CASES
        .iter()
        .map(|case| Ok((Running::new(&engine, *case)?, Vec::new(), Vec::new())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (stage, ..) in &mut stages {
        for _ in 0..WARM {
            stage.call(&nothing).await?;
        }
    }
    for _ in 0..rounds {
        for (stage, taken, bare) in &mut stages {
            let (mut own_us, mut bare_us) = (0.0, 0.0);
            for _ in 0..CALLS {
                let times = stage.call(&nothing).await?;
                own_us += times.own_us;
                bare_us += times.bare_us;
            }
            taken.push(own_us / CALLS as f64);
            bare.push(bare_us / CALLS as f64);
        }
    }
    Ok(stages
        .into_iter()
        .map(|(stage, taken, bare)| stage.row(median(taken), median(bare)))
        .collect())
}

/// The times of one call.
struct Times {
    own_us: f64,
    /// Of a call with the same body that does nothing.
    bare_us: f64,
}

/// A stage, and what has been given to it.
struct Running {
    case: Case,
    subject: Subject,
    batches: u64,
    /// The state document of a step that has one.
    document: Vec<u8>,
}

impl Running {
    fn new(engine: &wasmtime::Engine, case: Case) -> anyhow::Result<Self> {
        let artifact = match case.component {
            Some(component) => parts::stage_of(STEP, case.kind, component)?,
            None if case.kind == Kind::Enrich => {
                parts::stage_without(STEP, case.kind, [format!("kv:read:{BUCKET}").parse()?])?
            }
            None => parts::stage_without(STEP, case.kind, [])?,
        };
        let mut config: std::collections::BTreeMap<_, _> =
            parts::stage_config("bench", STEP).into();
        if case.kind.has_state() {
            config.insert("state-subject".to_owned(), "bench.state.step".to_owned());
        }
        let own = case.settings.iter();
        config.extend(own.map(|(name, value)| (format!("step.0.{name}"), (*value).to_owned())));
        let mut subject = Subject::new(case.kind.name(), engine, &artifact.bytes, config)?;
        if case.kind == Kind::Enrich {
            subject = subject.asks(looked_up()?);
        }
        Ok(Self { case, subject, batches: 0, document: Vec::new() })
    }

    /// The next batch through the stage, and before it through one that does nothing.
    async fn call(&mut self, nothing: &Subject) -> anyhow::Result<Times> {
        let body = self.body()?;
        let (_, bare_us) = timed(nothing, &body).await?;
        let (published, own_us) = timed(&self.subject, &body).await?;
        self.take(&published)?;
        Ok(Times { own_us, bare_us })
    }

    /// Keeps the state, and checks that the stage did its work; otherwise its times would be worth nothing.
    fn take(&mut self, published: &[BrokerMessage]) -> anyhow::Result<()> {
        let kind = self.case.kind;
        let mut output = published;
        if kind.has_state() {
            let (last, before) = published.split_last().context("the stage kept no state")?;
            self.document =
                commit(&Batch::open(&last.body)?).context("not a state")?.document.to_vec();
            output = before;
        }
        let mut messages = 0;
        for batch in output {
            ensure!(!batch.subject().contains(".dead."), "the {kind} refused messages");
            messages += Batch::parse(&batch.body)?.len();
        }
        // Of windows only their results come out.
        let lost = kind != Kind::Accumulate && messages != BATCH;
        ensure!(!lost, "of {BATCH} messages {messages} came out of the {kind}");
        Ok(())
    }

    fn body(&mut self) -> anyhow::Result<Bytes> {
        let first = self.batches * BATCH as u64;
        self.batches += 1;
        let id = format!("batch-{}", self.batches);
        let mut writer = BatchWriter::new([("id", id.as_str()), ("attempt", "1")])?;
        for number in first..first + BATCH as u64 {
            let fields = Fields {
                timestamp: START_NS + number * (SECOND_NS / BATCH as u64),
                topic: "plant/press",
                key: Some(&key(number % KEYS)),
                payload: &payload(number),
                ..Fields::default()
            };
            writer.push(&fields, [])?;
        }
        let body = writer.finish();
        if !self.case.kind.has_state() {
            return Ok(Bytes::from(body));
        }
        let now = START_NS + self.batches * SECOND_NS;
        Ok(Bytes::from(attach(&Batch::open(&body)?, &self.document, "step 1.0 1", now, false)?))
    }

    fn row(&self, own_us: f64, bare_us: f64) -> Row {
        let per_message = BATCH as f64;
        let Case { kind, how, .. } = self.case;
        let what = format!("{kind}{how}, {PAYLOAD} B, above a call that does nothing");
        let row = Row::new("operators", what, (own_us - bare_us) / per_message, "us/message")
            .over(bare_us / per_message)
            .detail("us/call", own_us)
            .detail("us/bare call", bare_us);
        match kind.has_state() {
            true => row.detail("bytes of state", self.document.len() as f64),
            false => row,
        }
    }
}

/// What one call publishes, and its microseconds.
async fn timed(subject: &Subject, body: &Bytes) -> anyhow::Result<(Vec<BrokerMessage>, f64)> {
    let start = Instant::now();
    let published = subject.call(body).await?;
    Ok((published, start.elapsed().as_secs_f64() * 1e6))
}

/// In the order of their numbers they are sorted, too.
fn key(number: u64) -> Vec<u8> {
    format!("press-{number:02}").into_bytes()
}

/// A JSON object of [`PAYLOAD`] bytes, another one for each number.
fn payload(number: u64) -> Vec<u8> {
    let mut payload =
        format!("{{\"id\":{number},\"celsius\":{}.5,\"text\":\"", number % 100).into_bytes();
    payload.resize(PAYLOAD - 2, b'x');
    payload.extend_from_slice(b"\"}");
    payload
}

/// What an enrich asks for once a batch: each key once.
fn looked_up() -> anyhow::Result<Exchange> {
    let keys = (0..KEYS).map(key).collect();
    let what = Use::Get { bucket: BUCKET.to_owned(), keys };
    let request = Request { step: STEP.to_owned(), what }.encode()?;
    let value = |number| format!("{{\"name\":\"press {number}\",\"hall\":3}}").into_bytes();
    let answer = Reply::Values((0..KEYS).map(|number| Some(value(number))).collect()).encode()?;
    Ok(Exchange { request, answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_operator_has_a_figure() {
        let rows = measure(crate::Effort { quick: true }).await.unwrap();
        for kind in Kind::ALL {
            let own = rows.iter().filter(|row| {
                row.what.split([' ', ',']).next().is_some_and(|first| first == kind.name())
            });
            assert!(own.count() > 0, "no figure for {kind}");
        }
        // The check against a schema is a component of two kinds.
        assert!(rows.iter().any(|row| row.what.contains("json-schema")));
        for row in &rows {
            let bare = row.bare.as_ref().unwrap();
            // Above a bare call is a difference of two measured times: beside other tests it may come out below nothing.
            assert!(bare.value.is_finite() && bare.value > 0.0, "{}: {}", row.what, bare.value);
            assert!(row.value.is_finite() && bare.ratio.is_finite(), "{}: {}", row.what, row.value);
        }
    }

    async fn call(case: Case) -> anyhow::Result<Times> {
        let engine = engine().unwrap();
        let nothing = Subject::nothing(&engine).unwrap();
        Running::new(&engine, case)?.call(&nothing).await
    }

    fn error(times: anyhow::Result<Times>) -> String {
        format!("{:#}", times.map(|times| times.own_us).unwrap_err())
    }

    #[tokio::test]
    async fn what_loses_or_refuses_messages_is_not_measured() {
        let one_of_each = without(Kind::Throttle, "").set(&[
            ("messages", "1"),
            ("per", "1000000000"),
            ("arms", "result"),
        ]);
        let error_of = error(call(one_of_each).await);
        assert!(error_of.contains("of 500 messages 50 came out of the throttle"), "{error_of}");
        let strict = case(Kind::Filter, "", "json-schema")
            .set(&[("config.schema", r#"{"required":["fahrenheit"]}"#)]);
        let error_of = error(call(strict).await);
        assert!(error_of.contains("refused messages"), "{error_of}");
    }

    #[tokio::test]
    async fn only_the_expected_request_is_answered() {
        let other = without(Kind::Enrich, "").set(&[
            ("bucket", "limits"),
            ("by", "key"),
            ("into", "headers.machine"),
            ("missing", "keep"),
        ]);
        let error_of = error(call(other).await);
        assert!(error_of.contains("another request"), "{error_of}");
    }
}
