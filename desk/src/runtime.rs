//! The stages of a plan, wired in memory.
//!
//! A [`Session`] is given messages at the sources and carries them on until nothing is waiting: what a stage publishes goes
//! to its sink or waits on its edges, and each edge hands on in order. What in a lattice is patience (probes, pauses, tries
//! again) is left out, and its outcome is the same: a message that traps its step, keeps it busy, or has it ask for a retry
//! each time ends as a dead letter by itself, and the messages beside it go on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;

use millrace_batch::{ARM, Batch, BatchWriter, ID, Message as Record, WriteError};
use millrace_pipeline::{Kind, Output, Plan, RejectKind, Time};
use millrace_window::{Document, attach, commit};

use crate::artifact::{ArtifactError, compose};
use crate::engine::Engine;
use crate::host::{LogLine, Setting, Surroundings};
use crate::message::{DEAD, Message, messages, own};
use crate::split::split;
use crate::stage::{Answer, Outcome, Stage, StageError};

/// Most messages that are given to stages in one session: a pipeline of flat-maps can make any number of one.
const MESSAGES: usize = 2_000_000;

/// Most log lines of a session that are kept.
const LINES: usize = 10_000;

/// Why a plan cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A stage has no artifact.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// An artifact does not run.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// Why a session cannot go on. In a lattice the batch would be tried again for ever, or the message never get in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A stage does not take its configuration.
    #[error("stage `{stage}` does not take its configuration: {text}")]
    Config {
        /// The stage.
        stage: String,
        /// What it says.
        text: String,
    },
    /// A stage gives an answer that it has no reason for here.
    #[error("stage `{stage}` answers: {text}")]
    Answer {
        /// The stage.
        stage: String,
        /// What it says.
        text: String,
    },
    /// The plan has no such source.
    #[error("the pipeline has no source `{0}`")]
    NoSource(String),
    /// A message fits into no batch.
    #[error("message {number} for `{source_name}` cannot be sent: {error}")]
    TooLarge {
        /// The source.
        source_name: String,
        /// Which of its messages, from 1.
        number: usize,
        /// What does not fit.
        error: WriteError,
    },
    /// Messages make more and more of themselves.
    #[error("the messages became more than {MESSAGES}")]
    TooMany,
}

/// A pipeline that can be run in this process.
#[derive(Debug)]
pub struct Runtime {
    engine: Engine,
    plan: Plan,
    stages: Vec<Stage>,
    /// The same with every step by itself, made when it is needed.
    apart: OnceLock<Box<Runtime>>,
}

impl Runtime {
    /// Composes and compiles the stages of a plan.
    ///
    /// # Errors
    ///
    /// When a component cannot be read or used.
    pub fn build(engine: &Engine, plan: Plan) -> Result<Self, BuildError> {
        let stage = |stage: &millrace_pipeline::Stage| -> Result<Stage, BuildError> {
            let artifact = compose(&plan, stage)?;
            let config = stage.config(&plan.pipeline);
            Ok(Stage::load(engine, &stage.name, &artifact.bytes, config, stage.outside())?)
        };
        let stages = plan.stages.iter().map(stage).collect::<Result<_, _>>()?;
        Ok(Self { engine: engine.clone(), plan, stages, apart: OnceLock::new() })
    }

    /// What is run.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The same pipeline with every step a stage of its own. Made at the first call.
    ///
    /// # Errors
    ///
    /// As [`Runtime::build`].
    pub fn apart(&self) -> Result<&Runtime, BuildError> {
        if let Some(apart) = self.apart.get() {
            return Ok(apart);
        }
        let apart = Self::build(&self.engine, split(&self.plan))?;
        Ok(self.apart.get_or_init(|| Box::new(apart)))
    }

    /// Begins a session.
    #[must_use]
    pub fn session(&self, setting: &Setting) -> Session<'_> {
        Session {
            runtime: self,
            surroundings: setting.into(),
            waiting: VecDeque::new(),
            carried: 0,
            given: 0,
            counting: false,
            states: BTreeMap::new(),
            run: Run::default(),
        }
    }

    /// One call of the stage behind a source, with these messages as one batch, and no more: nothing is tried again, and
    /// what the stage publishes goes nowhere.
    ///
    /// # Errors
    ///
    /// When there is no such source, or a message fits into no batch.
    pub fn call<'m>(
        &self,
        source: &str,
        messages: impl IntoIterator<Item = &'m Message>,
        setting: &Setting,
    ) -> Result<Outcome, RunError> {
        let planned = self.plan.sources.iter().find(|planned| planned.name == source);
        let stage = planned.and_then(|p| self.stages.get(self.stage(&p.stage)?));
        let stage = stage.ok_or_else(|| RunError::NoSource(source.to_owned()))?;
        Ok(stage.call(&packed(source, messages)?, &mut setting.into()))
    }

    /// One call of a stage with state, with these messages as one batch and the state document of the call before (empty at
    /// the first), and no more. `now` is the caller's clock, in nanoseconds since the Unix epoch; with `idle` nothing has
    /// come until then, so windows end by it.
    ///
    /// # Errors
    ///
    /// When there is no such stage, it does not take its configuration, or the messages fit into no batch.
    pub fn fold<'m>(
        &self,
        stage: &str,
        given: impl IntoIterator<Item = &'m Message>,
        document: &[u8],
        (now, idle): (u64, bool),
        setting: &Setting,
    ) -> Result<Folded, RunError> {
        let called = self.stage(stage).and_then(|number| self.stages.get(number));
        let called = called.ok_or_else(|| RunError::NoSource(stage.to_owned()))?;
        let body = packed(stage, given)?;
        let answer = |text| RunError::Answer { stage: stage.to_owned(), text };
        let batch = Batch::open(&body).map_err(|error| answer(error.to_string()))?;
        let number = batch.len();
        let body = attach(&batch, document, stage, now, idle)
            .map_err(|error| RunError::TooLarge { source_name: stage.to_owned(), number, error })?;
        let Outcome { answer, published, log } = called.call(&body, &mut setting.into());
        if let Some(text) = answer.about_configuration() {
            return Err(RunError::Config { stage: stage.to_owned(), text: text.to_owned() });
        }
        let mut folded = Folded {
            answer,
            outputs: Vec::new(),
            letters: Vec::new(),
            document: document.to_vec(),
            log,
        };
        if folded.answer != Answer::Done {
            return Ok(folded);
        }
        for (subject, body) in published {
            match self.sort(stage, &subject, body) {
                // Which arm a message takes is said to the edge behind, and no further.
                Published::Output(body) => {
                    folded.outputs.extend(messages(&body).into_iter().map(|mut message| {
                        message.headers.retain(|(name, _)| name != ARM);
                        message
                    }));
                }
                Published::State(document) => folded.document = document,
                Published::Letters(letters) => folded.letters.extend(letters),
            }
        }
        Ok(folded)
    }

    /// What a stage has published.
    fn sort(&self, stage: &str, subject: &str, body: Vec<u8>) -> Published {
        if subject == format!("{}.out.{stage}", self.plan.pipeline) {
            return Published::Output(body);
        }
        match Batch::open(&body).ok().as_ref().and_then(commit) {
            Some(commit) => Published::State(commit.document.to_vec()),
            None => Published::Letters(letters(stage, &body)),
        }
    }

    fn stage(&self, name: &str) -> Option<usize> {
        self.plan.stages.iter().position(|stage| stage.name == name)
    }
}

/// Something that a stage has published.
enum Published {
    /// A batch that goes on.
    Output(Vec<u8>),
    /// Its new state document.
    State(Vec<u8>),
    Letters(Vec<Letter>),
}

/// Messages as one batch, of this id.
fn packed<'m>(
    id: &str,
    messages: impl IntoIterator<Item = &'m Message>,
) -> Result<Vec<u8>, RunError> {
    let too_large =
        |number, error| RunError::TooLarge { source_name: id.to_owned(), number, error };
    let mut writer =
        BatchWriter::new([(ID, id), ("attempt", "1")]).map_err(|error| too_large(1, error))?;
    for (index, message) in messages.into_iter().enumerate() {
        message.push(&mut writer).map_err(|error| too_large(index + 1, error))?;
    }
    Ok(writer.finish())
}

/// What came of one call of a stage with state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// How it ended. Unless it was done, nothing came of it.
    pub answer: Answer,
    /// What it made.
    pub outputs: Vec<Message>,
    /// What it rejected.
    pub letters: Vec<Letter>,
    /// The state document to call it with next.
    pub document: Vec<u8>,
    /// What its step logged.
    pub log: Vec<LogLine>,
}

/// What came of the messages.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// What came to each sink, in order. One to which nothing came has no entry.
    pub sinks: BTreeMap<String, Vec<Message>>,
    /// What was rejected, in order.
    pub letters: Vec<Letter>,
    /// What steps logged, in order.
    pub log: Vec<LogLine>,
    /// What each stage did, by its name; only where it was asked for.
    pub(crate) counts: BTreeMap<String, Count>,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The stage.
    pub stage: String,
    /// The step.
    pub step: Option<String>,
    /// Why: `invalid-argument`, `internal`, `retry`, `trap`, `timeout`, `late`, `full` or `batch`.
    pub kind: String,
    /// The reason.
    pub text: String,
    /// The message: as the step saw it where the step refused it, and as its stage was given it where that did not answer.
    pub message: Message,
}

/// What a stage of one step did with its messages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) received: usize,
    pub(crate) passed: usize,
    pub(crate) dropped: usize,
    pub(crate) rejected: usize,
    pub(crate) made: usize,
}

/// Messages on their way through a pipeline.
#[derive(Debug)]
pub struct Session<'r> {
    runtime: &'r Runtime,
    surroundings: Surroundings,
    /// Batches, each with the stage that is next.
    waiting: VecDeque<(usize, Vec<u8>)>,
    /// Messages given to stages so far.
    carried: usize,
    /// Batches given to sources so far.
    given: usize,
    counting: bool,
    /// The state of each stage that has one: all keys are in one partition here.
    states: BTreeMap<usize, Vec<u8>>,
    run: Run,
}

impl Session<'_> {
    /// Counts what each stage does with its messages. For a plan whose stages have one step.
    pub(crate) fn count(&mut self) {
        self.counting = true;
    }

    /// Gives messages to a source. They wait before its stage in batches as the source would make them.
    ///
    /// # Errors
    ///
    /// When there is no such source, or a message fits into no batch.
    pub fn give<'m>(
        &mut self,
        source: &str,
        messages: impl IntoIterator<Item = &'m Message>,
    ) -> Result<(), RunError> {
        let planned = self.runtime.plan.sources.iter().find(|planned| planned.name == source);
        let found = planned.and_then(|p| Some((p, self.runtime.stage(&p.stage)?)));
        let Some((planned, stage)) = found else {
            return Err(RunError::NoSource(source.to_owned()));
        };
        let most = planned.delivery.batch_messages.as_usize();
        let bytes = usize::try_from(planned.delivery.batch_bytes.get()).unwrap_or(usize::MAX);
        let mut writer: Option<BatchWriter> = None;
        for (index, message) in messages.into_iter().enumerate() {
            let number = index + 1;
            let too_large =
                |error| RunError::TooLarge { source_name: source.to_owned(), number, error };
            let open = match writer.take() {
                Some(open) => open,
                None => self.batch(source).map_err(too_large)?,
            };
            let mut open = open;
            message.push(&mut open).map_err(too_large)?;
            if open.len() >= most || open.byte_len() >= bytes {
                self.waiting.push_back((stage, open.finish()));
            } else {
                writer = Some(open);
            }
        }
        self.waiting.extend(writer.map(|open| (stage, open.finish())));
        Ok(())
    }

    fn batch(&mut self, source: &str) -> Result<BatchWriter, WriteError> {
        self.given += 1;
        let id = format!("{source}-{}", self.given);
        BatchWriter::new([(ID, id.as_str()), ("attempt", "1")])
    }

    /// Carries everything on until nothing is waiting.
    ///
    /// # Errors
    ///
    /// When a stage does not take its configuration, or messages become too many.
    pub fn settle(&mut self) -> Result<(), RunError> {
        while let Some((stage, body)) = self.waiting.pop_front() {
            match self.kind(stage) {
                // What a flat-map does with one message can only be seen where it is alone.
                Some(Kind::FlatMap) if self.counting => self.each(stage, &body, Self::deliver)?,
                Some(kind) if goes_by_arrival(kind) => self.by_time(stage, &body)?,
                _ => self.deliver(stage, &body)?,
            }
        }
        Ok(())
    }

    /// Lets the time go on to `time`, as if nothing came until then: windows that end by it are ended, and what comes of them
    /// is carried on.
    ///
    /// # Errors
    ///
    /// As [`Session::settle`].
    pub fn wait_until(&mut self, time: Time) -> Result<(), RunError> {
        let now = time.nanoseconds();
        // Stages are in the order of the flow: what ends in one may still be in a window of a later one.
        for stage in 0..self.runtime.stages.len() {
            let mut ended = None;
            // Each time there is a later one, or the stage has let it be.
            while let Some(end) = self
                .next_end(stage)?
                .filter(|end| *end <= now && ended.is_none_or(|ended| *end > ended))
            {
                ended = Some(end);
                self.given += 1;
                let id = format!("idle-{}", self.given);
                let Ok(writer) = BatchWriter::new([(ID, id.as_str()), ("attempt", "1")]) else {
                    return Ok(());
                };
                self.call(stage, &writer.finish(), Some(end))?;
                self.settle()?;
            }
        }
        Ok(())
    }

    /// When the first open window of a stage ends.
    fn next_end(&self, stage: usize) -> Result<Option<u64>, RunError> {
        let Some(state) = self.states.get(&stage) else { return Ok(None) };
        let document = Document::read(state).map_err(|error| RunError::Answer {
            stage: self.runtime.plan.stages.get(stage).map(|s| s.name.clone()).unwrap_or_default(),
            text: error.to_string(),
        })?;
        Ok(document.next_end())
    }

    /// The body of a call of a stage: with its state in front, where it has one.
    fn body(&self, stage: usize, body: &[u8], idle: Option<u64>) -> Option<Vec<u8>> {
        let planned = self.runtime.plan.stages.get(stage)?;
        planned.steps.first().filter(|step| step.kind.has_state())?;
        let state = self.states.get(&stage).map(Vec::as_slice).unwrap_or_default();
        let batch = Batch::open(body).ok()?;
        let time = self.surroundings.time();
        let now = match self.kind(stage) {
            Some(kind) if goes_by_arrival(kind) => newest(time, &batch),
            _ => time,
        };
        attach(&batch, state, &planned.name, idle.unwrap_or(now), idle.is_some()).ok()
    }

    /// Ends the session.
    #[must_use]
    pub fn end(self) -> Run {
        self.run
    }

    /// What has come of the messages so far.
    #[must_use]
    pub fn so_far(&self) -> &Run {
        &self.run
    }

    fn kind(&self, stage: usize) -> Option<Kind> {
        Some(self.runtime.plan.stages.get(stage)?.steps.first()?.kind)
    }

    /// Every message of a batch by itself.
    fn each(
        &mut self,
        stage: usize,
        body: &[u8],
        act: fn(&mut Self, usize, &[u8]) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        self.parts(stage, body, |_| true, act)
    }

    /// The messages of a batch as if each came at the time that it has, or at that of the one before, where it has an earlier.
    fn by_time(&mut self, stage: usize, body: &[u8]) -> Result<(), RunError> {
        let mut clock = self.surroundings.time();
        let later = |message: &Record<'_>| {
            let later = message.timestamp > clock;
            clock = clock.max(message.timestamp);
            later
        };
        self.parts(stage, body, later, Self::deliver)
    }

    /// The messages of a batch in several: one begins with each message of which `begins` says so.
    fn parts(
        &mut self,
        stage: usize,
        body: &[u8],
        mut begins: impl FnMut(&Record<'_>) -> bool,
        act: fn(&mut Self, usize, &[u8]) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let Ok(batch) = Batch::open(body) else { return Ok(()) };
        let messages: Vec<Record<'_>> = batch.messages().collect();
        let mut parts: Vec<Vec<&Record<'_>>> = Vec::new();
        for message in &messages {
            let first = begins(message);
            match parts.last_mut() {
                Some(part) if !first => part.push(message),
                _ => parts.push(vec![message]),
            }
        }
        for (number, part) in parts.into_iter().enumerate() {
            let id = batch.header(ID).map(|id| format!("{id}.{number}"));
            let kept = batch.headers().filter(|(name, _)| *name != ID);
            let headers = kept.chain(id.as_deref().map(|id| (ID, id)));
            // The headers and the messages come out of a batch, so they fit into one.
            let part = BatchWriter::new(headers).and_then(|mut writer| {
                part.into_iter().try_for_each(|message| writer.push_record(message))?;
                Ok(writer.finish())
            });
            if let Ok(part) = part {
                act(self, stage, &part)?;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, stage: usize, body: &[u8]) -> Result<(), RunError> {
        self.call(stage, body, None)
    }

    /// One call of a stage; with `idle` one that says that nothing has come until then.
    fn call(&mut self, stage: usize, body: &[u8], idle: Option<u64>) -> Result<(), RunError> {
        let runtime = self.runtime;
        let (Some(called), Some(planned)) =
            (runtime.stages.get(stage), runtime.plan.stages.get(stage))
        else {
            return Ok(());
        };
        let received = Batch::open(body).map_or(0, |batch| batch.len());
        self.carried = self.carried.saturating_add(received);
        if self.carried > MESSAGES {
            return Err(RunError::TooMany);
        }
        let with_state = self.body(stage, body, idle);
        let Outcome { answer, published, log } =
            called.call(with_state.as_deref().unwrap_or(body), &mut self.surroundings);
        self.keep(log);
        let (kind, text) = match answer {
            Answer::Done => {
                self.publish(stage, planned, received, published);
                return Ok(());
            }
            Answer::Trap(text) => (RejectKind::Trap.as_str(), text),
            Answer::Timeout(limit) => {
                (RejectKind::Timeout.as_str(), format!("no answer within {limit:?}"))
            }
            Answer::Refused(text) => match text.split_once(": ") {
                Some(("retry", text)) => (RejectKind::Retry.as_str(), text.to_owned()),
                Some(("batch", text)) => ("batch", text.to_owned()),
                Some(("config", text)) => {
                    let stage = planned.name.clone();
                    return Err(RunError::Config { stage, text: text.to_owned() });
                }
                _ => return Err(RunError::Answer { stage: planned.name.clone(), text }),
            },
        };
        if received > 1 {
            // A lattice halves the batch, which comes to the same. Here a call costs little, and one that runs into its time
            // limit much, so the message is found with one more of those.
            return self.each(stage, body, Self::deliver);
        }
        let step = self.at_fault(planned, body);
        let counted = self.run.counts.entry(planned.name.clone()).or_default();
        counted.received += received;
        counted.rejected += received;
        let letters = messages(body).into_iter().map(|message| Letter {
            stage: planned.name.clone(),
            step: step.clone(),
            kind: kind.to_owned(),
            text: text.clone(),
            message,
        });
        self.run.letters.extend(letters);
        Ok(())
    }

    /// Which step of a stage does not answer when it is given this message alone: the stage itself cannot say.
    fn at_fault(&self, stage: &millrace_pipeline::Stage, body: &[u8]) -> Option<String> {
        if let [only] = stage.steps.as_slice() {
            return Some(only.name.clone());
        }
        let apart = self.runtime.apart().ok()?;
        let mut surroundings = self.surroundings.clone();
        let mut bodies = vec![body.to_vec()];
        for step in &stage.steps {
            let called = apart.stages.get(apart.stage(&step.name)?)?;
            let out = format!("{}.out.{}", apart.plan.pipeline, step.name);
            let mut made = Vec::new();
            for body in bodies {
                let outcome = called.call(&body, &mut surroundings);
                if outcome.answer != Answer::Done {
                    return Some(step.name.clone());
                }
                let published = outcome.published.into_iter();
                made.extend(published.filter(|(to, _)| *to == out).map(|(_, body)| body));
            }
            bodies = made;
        }
        None
    }

    fn keep(&mut self, log: Vec<LogLine>) {
        let room = LINES.saturating_sub(self.run.log.len());
        self.run.log.extend(log.into_iter().take(room));
    }

    /// What a stage has published goes where the plan says.
    fn publish(
        &mut self,
        number: usize,
        stage: &millrace_pipeline::Stage,
        received: usize,
        published: Vec<(String, Vec<u8>)>,
    ) {
        let (mut made, mut rejected) = (0, 0);
        for (subject, body) in published {
            match self.runtime.sort(&stage.name, &subject, body) {
                Published::Output(body) => {
                    made += Batch::open(&body).map_or(0, |batch| batch.len());
                    self.hand_on(stage, body);
                }
                Published::State(document) => drop(self.states.insert(number, document)),
                Published::Letters(letters) => {
                    rejected += letters.len();
                    self.run.letters.extend(letters);
                }
            }
        }
        if self.counting {
            let kind = stage.steps.first().map(|step| step.kind);
            let count = self.run.counts.entry(stage.name.clone()).or_default();
            let passed = match kind {
                Some(Kind::FlatMap) => usize::from(made > 0),
                // What is in a window is not dropped.
                Some(Kind::Accumulate) => received.saturating_sub(rejected),
                _ => made,
            };
            count.received += received;
            count.made += made;
            count.rejected += rejected;
            count.passed += passed;
            count.dropped += received.saturating_sub(passed + rejected);
        }
    }

    fn hand_on(&mut self, stage: &millrace_pipeline::Stage, body: Vec<u8>) {
        match &stage.output {
            Output::Sink(sink) => {
                self.run.sinks.entry(sink.clone()).or_default().extend(messages(&body));
            }
            Output::Edges(names) => {
                let plan = &self.runtime.plan;
                // A stage that ends with a branch gives each message an arm, and no other does.
                let arms = Batch::open(&body).ok().and_then(|batch| batch.by_arm().ok()?);
                let next = names.iter().filter_map(|name| {
                    let edge = plan.edges.iter().find(|edge| edge.name == *name)?;
                    let taken = match edge.arm() {
                        Some(arm) => arms.as_ref()?.get(arm)?.clone(),
                        None => body.clone(),
                    };
                    Some((self.runtime.stage(&edge.to)?, taken))
                });
                self.waiting.extend(next);
            }
        }
    }
}

/// Whether a step goes by when messages come, and not by when they were made.
fn goes_by_arrival(kind: Kind) -> bool {
    kind.has_state() && !kind.has_windows()
}

/// The newest time of a batch, and no earlier one than `time`: nanoseconds since the Unix epoch.
fn newest(time: u64, batch: &Batch<'_>) -> u64 {
    batch.messages().fold(time, |newest, message| newest.max(message.timestamp))
}

/// The dead letters of a batch that a stage published.
fn letters(stage: &str, body: &[u8]) -> Vec<Letter> {
    let letter = |message: millrace_batch::Message<'_>| {
        let said = |what: &str| message.header(&format!("{DEAD}{what}")).map(str::to_owned);
        Letter {
            stage: stage.to_owned(),
            step: said("step"),
            kind: said("kind").unwrap_or_default(),
            text: said("text").unwrap_or_default(),
            message: own(&message),
        }
    };
    Batch::open(body).iter().flat_map(Batch::messages).map(letter).collect()
}
