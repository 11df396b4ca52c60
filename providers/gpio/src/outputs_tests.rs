//! The outputs' thread with lines that only write down what is done to them.
//! The kernel's own lines are in `tests/gpio_sim.rs`.

use std::collections::BTreeMap;

use millrace_kit::{Direction, LinkNames, State};
use parking_lot::Mutex;

use super::*;
use crate::error::LineError;

/// What was done to the lines, in order, and what is to be refused.
#[derive(Debug, Default)]
struct Bench {
    done: Mutex<Vec<String>>,
    refused: Mutex<BTreeMap<String, LineError>>,
}

struct Fake(Arc<Bench>);

struct FakeLine(Arc<Bench>, String);

impl Bench {
    fn answer(&self, line: &str, what: &str) -> Result<(), LineError> {
        if let Some(error) = self.refused.lock().get(line) {
            return Err(error.clone());
        }
        self.done.lock().push(format!("{line} {what}"));
        Ok(())
    }

    fn done(&self) -> Vec<String> {
        self.done.lock().clone()
    }
}

impl Outputs for Fake {
    fn open(&self, line: &OutputLine, level: Level) -> Result<Box<dyn Output>, LineError> {
        let name = line.line.clone().unwrap();
        self.0.answer(&name, &format!("open {level:?}"))?;
        Ok(Box::new(FakeLine(Arc::clone(&self.0), name)))
    }
}

impl Output for FakeLine {
    fn set(&self, level: Level) -> Result<(), LineError> {
        self.0.answer(&self.1, &format!("{level:?}"))
    }

    fn check(&self) -> Result<(), LineError> {
        self.0.refused.lock().get(&self.1).cloned().map_or(Ok(()), Err)
    }
}

impl Drop for FakeLine {
    fn drop(&mut self) {
        self.0.done.lock().push(format!("{} released", self.1));
    }
}

fn begin(bench: &Arc<Bench>, json: &str) -> (Handle, View, Arc<Link>) {
    let lines: BTreeMap<String, OutputLine> = serde_json::from_str(json).unwrap();
    let names = LinkNames { pipeline: "p".into(), name: "out".into(), stage: "s".into() };
    let link = Arc::new(Link::new(names, Direction::Sink));
    let (handle, view) =
        start(Box::new(Fake(Arc::clone(bench))), lines.into_iter().collect(), Arc::clone(&link))
            .unwrap();
    (handle, view, link)
}

async fn reaches(link: &Link, state: State) {
    let reached = async {
        while link.state() != state {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
}

async fn ends(view: &View) {
    tokio::time::timeout(Duration::from_secs(10), view.ended.cancelled()).await.unwrap();
}

const TWO: &str =
    r#"{"a": {"line": "A", "safe": "active"}, "b": {"line": "B", "initial": "active"}}"#;

#[tokio::test]
async fn lines_open_at_their_initial_level_and_are_all_safe_before_one_is_released() {
    let bench = Arc::default();
    let (handle, view, link) = begin(&bench, TWO);
    reaches(&link, State::Connected).await;
    let levels =
        vec![(0, Level::Inactive), (1, Level::Inactive), (0, Level::Active), (1, Level::Active)];
    handle.clone().write(levels).await.unwrap();
    drop(handle);
    ends(&view).await;
    assert_eq!(
        bench.done(),
        [
            "A open Active",
            "B open Active",
            "A Inactive",
            "B Inactive",
            "A Active",
            "B Active",
            "A Active",
            "B Inactive",
            "A released",
            "B released",
        ]
    );
}

/// Waits until something is so.
async fn eventually(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
}

#[tokio::test]
async fn silence_trips_only_the_silent_line_once_and_a_write_wakes_it() {
    let bench = Arc::default();
    let json = r#"{"a": {"line": "A", "watchdog": "600ms"}, "b": {"line": "B", "watchdog": "1d"}}"#;
    let (handle, _view, link) = begin(&bench, json);
    reaches(&link, State::Connected).await;
    for _ in 0..20 {
        handle.clone().write(vec![(0, Level::Active), (1, Level::Active)]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let trips = || bench.done().iter().filter(|d| *d == "A Inactive").count();
    assert_eq!(trips(), 0, "writes keep it from tripping");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(trips(), 1);
    assert_eq!(bench.done().iter().filter(|d| *d == "B Inactive").count(), 0);
    assert!(link.status().counters.last_error.unwrap().text.contains("nothing written for 600ms"));
    assert_eq!(link.state(), State::Connected);
    handle.clone().write(vec![(0, Level::Active)]).await.unwrap();
    assert_eq!(bench.done().last().unwrap(), "A Active");
    eventually(|| trips() == 2).await;
}

#[tokio::test]
async fn a_watchdog_runs_from_the_start() {
    let bench = Arc::default();
    let json = r#"{"a": {"line": "A", "initial": "active", "watchdog": "50ms"}}"#;
    let (_handle, _view, link) = begin(&bench, json);
    reaches(&link, State::Connected).await;
    eventually(|| bench.done() == ["A open Active", "A Inactive"]).await;
}

#[tokio::test]
async fn a_line_that_cannot_be_set_safe_is_tried_again() {
    let bench: Arc<Bench> = Arc::default();
    let json = r#"{"a": {"line": "A", "initial": "active", "watchdog": "1s"}}"#;
    let (_handle, _view, link) = begin(&bench, json);
    reaches(&link, State::Connected).await;
    let error = LineError::Kernel {
        doing: "cannot set",
        chip: "/dev/c".into(),
        offset: 1,
        reason: "I/O error".into(),
    };
    bench.refused.lock().insert("A".into(), error);
    let said =
        || link.status().counters.last_error.is_some_and(|e| e.text.contains("not set safe"));
    eventually(said).await;
    assert_eq!(bench.done(), ["A open Active"]);
    bench.refused.lock().clear();
    eventually(|| bench.done() == ["A open Active", "A Inactive"]).await;
}

#[tokio::test]
async fn a_missing_line_fails_its_writes_whole_and_leaves_the_others_alone() {
    let bench: Arc<Bench> = Arc::default();
    let error =
        LineError::InUse { chip: "/dev/gpiochip0".into(), offset: 2, by: "\"leds\"".to_owned() };
    bench.refused.lock().insert("B".into(), error);
    let (handle, view, link) = begin(&bench, TWO);
    reaches(&link, State::Retrying).await;
    assert_eq!(link.status().error.unwrap(), "b: line 2 of /dev/gpiochip0 is in use by \"leds\"");
    assert_eq!(view.held.load(Relaxed), 1);
    let both = vec![(0, Level::Inactive), (1, Level::Active)];
    let error = handle.clone().write(both.clone()).await.unwrap_err();
    assert!(matches!(error, Failed::Missing { ref line, .. } if line == "b"), "{error:?}");
    assert_eq!(bench.done(), ["A open Active"], "nothing of the write was done");
    handle.clone().write(vec![(0, Level::Inactive)]).await.unwrap();
    bench.refused.lock().clear();
    reaches(&link, State::Connected).await;
    handle.clone().write(both).await.unwrap();
    assert_eq!(
        bench.done(),
        ["A open Active", "A Inactive", "B open Active", "A Inactive", "B Active"]
    );
}

#[tokio::test]
async fn a_line_that_comes_back_starts_safe() {
    let bench: Arc<Bench> = Arc::default();
    let (handle, _view, link) = begin(&bench, TWO);
    reaches(&link, State::Connected).await;
    bench.refused.lock().insert("B".into(), LineError::Gone("/dev/gpiochip0".into()));
    let error = handle.clone().write(vec![(1, Level::Active)]).await.unwrap_err();
    assert!(matches!(error, Failed::Refused { .. }), "{error:?}");
    assert_eq!(link.state(), State::Retrying);
    bench.refused.lock().clear();
    reaches(&link, State::Connected).await;
    assert_eq!(bench.done(), ["A open Active", "B open Active", "B released", "B open Inactive"]);
    assert_eq!(link.status().counters.reconnects, 1);
}

#[tokio::test]
async fn a_line_that_is_gone_is_noticed_without_a_write() {
    let bench: Arc<Bench> = Arc::default();
    let (_handle, view, link) = begin(&bench, TWO);
    reaches(&link, State::Connected).await;
    bench.refused.lock().insert("B".into(), LineError::Gone("/dev/gpiochip0".into()));
    reaches(&link, State::Retrying).await;
    assert_eq!(link.status().error.unwrap(), "b: /dev/gpiochip0 is gone");
    assert_eq!(view.held.load(Relaxed), 1);
    bench.refused.lock().clear();
    reaches(&link, State::Connected).await;
}

#[tokio::test]
async fn after_the_end_a_write_is_refused() {
    let bench = Arc::default();
    let (handle, view, link) = begin(&bench, TWO);
    reaches(&link, State::Connected).await;
    // A thread that is held up ends all the same: the writer's own handle is
    // gone while it waits.
    let last = handle.clone();
    drop(handle);
    last.write(vec![(0, Level::Active)]).await.unwrap();
    ends(&view).await;
}
