//! Which steps the messages of a sink come from, and where each of them may have them written.
//!
//! A sink writes what a step gave it. Where the message says which topic, field or line is meant, a step that was granted some
//! ([`Place`]) is held to those. The settings of a stage's link to its sink say which steps there are (the plan knows the
//! graph): of a stage with steps it is the one before the sink. A stage that only passes on has several before it; the
//! conduit, which nobody but the platform writes to the edges of, says on each batch which one it is of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use millrace_batch::Batch;
use millrace_grants::{Grant, Place, Target, WRITERS_KEY};
use millrace_settings::FieldError;

use crate::answer::CallError;
use crate::link::Link;
use crate::stage::Stage;
use crate::telemetry::Used;

/// Batch header: the source or step that a batch is of, as the conduit found it on an edge.
const FROM: &str = "from";

/// What steps may have a sink write: by the source or step before the sink, and by the step that is held to it.
#[derive(Debug, Clone, Default)]
pub struct Writers(BTreeMap<String, BTreeMap<String, BTreeSet<Grant>>>);

/// The steps that the messages of one batch are held to; by default none.
#[derive(Debug, Default)]
pub struct Held<'a>(Vec<(&'a str, &'a BTreeSet<Grant>)>);

/// A message that a step may not have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The step.
    pub step: String,
    /// What it is not granted, for people.
    pub text: String,
}

impl Writers {
    /// As the settings of a stage's link to its sink say. What they do not name is not held to anything.
    ///
    /// # Errors
    ///
    /// The setting cannot be read.
    pub fn of(config: &BTreeMap<String, String>) -> Result<Self, FieldError> {
        let Some(text) = config.get(WRITERS_KEY) else { return Ok(Self::default()) };
        let writers = serde_json::from_str(text).map(Self);
        writers.map_err(|error| FieldError::invalid(WRITERS_KEY, text, error))
    }

    /// The steps that are held to something.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.0.values().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// The steps that a batch is held to. Of a batch that does not say where it is from, and could be from several, all are.
    #[must_use]
    pub fn of_batch(&self, batch: &Batch<'_>) -> Held<'_> {
        // With one before the sink its batches cannot be of another, whatever they say.
        let from = batch.header(FROM).filter(|_| self.0.len() > 1);
        let held = match from.and_then(|from| self.0.get(from)) {
            Some(steps) => steps.iter().collect::<Vec<_>>(),
            None => self.0.values().flatten().collect(),
        };
        Held(held.into_iter().map(|(step, grants)| (step.as_str(), grants)).collect())
    }
}

impl Held<'_> {
    /// Whether a message may be written there.
    ///
    /// # Errors
    ///
    /// A step may not have it written, and which.
    pub fn check(&self, target: Target<'_>) -> Result<(), Refusal> {
        let place = |grant: &Grant| match grant {
            Grant::Write(place) => Place::allows(place, target),
            _ => false,
        };
        match self.0.iter().find(|(_, grants)| !grants.iter().any(place)) {
            Some((step, _)) => {
                let text = format!("the step {step} is not granted {target}");
                Err(Refusal { step: (*step).to_owned(), text })
            }
            None => Ok(()),
        }
    }
}

impl Link {
    /// A step wanted what it is not granted: counts, and logs the first time and then ever less often, because a step may want
    /// it a thousand times a second.
    pub fn refused(&self, step: &str, text: &str) {
        let uses = self.telemetry.used(step, Used::Refused(text));
        if uses.refused.is_power_of_two() {
            let (pipeline, stage) = (&self.names.pipeline, &self.names.stage);
            tracing::warn!(pipeline, stage, step, refused = uses.refused, "{text}");
        }
    }
}

/// A stage that is told with each batch which source or step it is of.
pub struct Told {
    stage: Arc<dyn Stage>,
    from: String,
}

impl Told {
    /// Tells a stage that its batches are of this source or step.
    #[must_use]
    pub fn new(stage: Arc<dyn Stage>, from: &str) -> Self {
        Self { stage, from: from.to_owned() }
    }
}

impl Stage for Told {
    fn call<'a>(
        &'a self,
        batch: Bytes,
        traceparent: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        let told = Batch::open(&batch).ok().map(|batch| batch.with_headers(&[(FROM, &self.from)]));
        match told {
            Some(Ok(batch)) => self.stage.call(batch.into(), traceparent),
            // Without the header it would be held to every step before the sink: too strict is safe, and it is a matter of a
            // few bytes of a header of 64 KiB.
            Some(Err(_)) | None => self.stage.call(batch, traceparent),
        }
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Told").field("from", &self.from).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use millrace_batch::BatchWriter;
    use parking_lot::Mutex;

    use super::*;
    fn writers(json: &str) -> Writers {
        Writers::of(&BTreeMap::from([(WRITERS_KEY.to_owned(), json.to_owned())])).unwrap()
    }

    fn batch(from: Option<&str>) -> Bytes {
        BatchWriter::new(from.map(|from| (FROM, from))).unwrap().finish().into()
    }

    fn says(writers: &Writers, from: Option<&str>, topic: &str) -> Result<(), String> {
        let body = batch(from);
        let batch = Batch::open(&body).unwrap();
        writers.of_batch(&batch).check(Target::Mqtt(topic)).map_err(|refusal| refusal.step)
    }

    #[test]
    fn a_batch_is_held_to_the_steps_that_it_is_of() {
        let several = writers(
            r#"{"a":{"a":["mqtt:publish:a/#"]},"b":{"b":["mqtt:publish:b/#","mqtt:publish:c"]},"source":{}}"#,
        );
        assert_eq!(says(&several, Some("a"), "a/1"), Ok(()));
        assert_eq!(says(&several, Some("a"), "b/1"), Err("a".to_owned()));
        assert_eq!(says(&several, Some("b"), "c"), Ok(()));
        assert_eq!(says(&several, Some("source"), "anything"), Ok(()));
        // Nobody knows which: it may be of any.
        assert_eq!(says(&several, None, "a/1"), Err("b".to_owned()));
        assert_eq!(says(&several, Some("nobody"), "b/1"), Err("a".to_owned()));
    }

    #[test]
    fn a_step_cannot_say_that_its_batch_is_of_another() {
        let one = writers(r#"{"a":{"a":["mqtt:publish:a/#"]}}"#);
        assert_eq!(says(&one, Some("source"), "b"), Err("a".to_owned()));
        assert_eq!(says(&one, Some("a"), "a/1"), Ok(()));
    }

    #[test]
    fn what_passed_several_steps_is_held_to_all() {
        let both = writers(r#"{"join":{"a":["mqtt:publish:a/#"],"b":["mqtt:publish:+/1"]}}"#);
        assert_eq!(says(&both, Some("join"), "a/1"), Ok(()));
        assert_eq!(says(&both, Some("join"), "a/2"), Err("b".to_owned()));
        assert_eq!(says(&both, Some("join"), "b/1"), Err("a".to_owned()));
    }

    #[test]
    fn without_the_setting_nothing_is_held() {
        let none = Writers::of(&BTreeMap::new()).unwrap();
        assert_eq!(says(&none, Some("a"), "x"), Ok(()));
        let config = BTreeMap::from([(WRITERS_KEY.to_owned(), "{".to_owned())]);
        assert_eq!(Writers::of(&config).unwrap_err().field, WRITERS_KEY);
    }

    #[tokio::test]
    async fn a_stage_is_told_whatever_the_batch_says_itself() {
        #[derive(Default)]
        struct Heard(Mutex<Vec<Option<String>>>);
        impl Stage for Heard {
            fn call<'a>(
                &'a self,
                batch: Bytes,
                _: Option<&'a str>,
            ) -> BoxFuture<'a, Result<(), CallError>> {
                let header =
                    Batch::open(&batch).ok().and_then(|b| b.header(FROM).map(str::to_owned));
                self.0.lock().push(header);
                Box::pin(std::future::ready(Ok(())))
            }
        }
        let heard = Arc::new(Heard::default());
        let told = Told::new(Arc::clone(&heard) as Arc<dyn Stage>, "a");
        for body in [batch(None), batch(Some("b")), Bytes::from_static(b"no batch")] {
            told.call(body, None).await.unwrap();
        }
        assert_eq!(*heard.0.lock(), [Some("a".to_owned()), Some("a".to_owned()), None]);
    }
}
