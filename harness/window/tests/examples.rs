//! Each kind of window, with numbers that can be checked by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use millrace_window::{ApplyError, Document, Entry, Group, FULL, MAX_BYTES};
use support::{closed, name, sent, Running, Sent};

#[test]
fn tumbling_windows_end_one_after_another() {
    let mut run = Running::new("tumbling 10", 0);
    run.call(&[sent("a", 1, "1"), sent("b", 4, "4"), sent("a", 9, "9")]);
    assert_eq!(run.closed(), []);
    assert_eq!((run.document().len(), run.document().next_end()), (2, Some(10)));
    // Nothing has ended at 9; at 12 both have.
    run.call(&[sent("a", 12, "12")]);
    assert_eq!(run.closed(), [closed("a", 0, 10, &["1", "9"]), closed("b", 0, 10, &["4"])]);
    assert_eq!(run.document().watermark, 12);
    // Exactly at the end of its window it has ended.
    run.call(&[sent("c", 20, "20")]);
    assert_eq!(run.closed(), [closed("a", 10, 20, &["12"])]);
}

#[test]
fn hopping_windows_overlap() {
    let mut run = Running::new("hopping 30 10", 0);
    run.call(&[sent("a", 25, "25"), sent("a", 38, "38")]);
    // 25 is in 0-30, 10-40 and 20-50; 38 in 10-40, 20-50 and 30-60.
    assert_eq!(run.closed(), [closed("a", 0, 30, &["25"])]);
    // 29 comes too late for 0-30, and in time for the others.
    run.call(&[sent("a", 29, "29")]);
    assert_eq!(run.step.late, [""; 0]);
    run.idle(1_000);
    let both = &["25", "38", "29"];
    assert_eq!(
        run.closed(),
        [closed("a", 10, 40, both), closed("a", 20, 50, both), closed("a", 30, 60, &["38"])]
    );
    run.call(&[sent("a", 999, "in")]).call(&[sent("a", 970, "late")]);
    assert_eq!(run.step.late, ["late"]);
}

#[test]
fn a_session_lasts_as_long_as_messages_come() {
    let mut run = Running::new("session 10", 0);
    run.call(&[sent("a", 100, "1"), sent("a", 109, "2"), sent("b", 105, "b")]);
    run.call(&[sent("a", 118, "3")]);
    // b's last was at 105, so that it ended at 115.
    assert_eq!(run.closed(), [closed("b", 105, 115, &["b"])]);
    // Ten after the last it is another session.
    run.call(&[sent("a", 128, "4")]);
    assert_eq!(run.closed(), [closed("a", 100, 128, &["1", "2", "3"])]);
    // Late, unless it joins one that is open: 120 is within ten of 128.
    run.call(&[sent("a", 120, "5"), sent("c", 118, "6")]);
    assert_eq!(run.step.late, ["6"]);
    run.idle(1_000);
    assert_eq!(run.closed(), [closed("a", 120, 138, &["4", "5"])]);
}

#[test]
fn two_sessions_that_a_message_bridges_stay_two() {
    let mut run = Running::new("session 10", 100);
    run.call(&[sent("a", 100, "1"), sent("a", 115, "2"), sent("a", 108, "3"), sent("a", 117, "4")]);
    run.idle(1_000);
    assert_eq!(
        run.closed(),
        [closed("a", 100, 127, &["1", "3", "4"]), closed("a", 115, 125, &["2"])]
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_window_of_so_many_closes_at_the_exact_message() {
    let mut run = Running::new("count 3", 0);
    let messages: Vec<Sent> =
        (1..=8).map(|n| sent(if n == 4 { "b" } else { "a" }, n * 7, &n.to_string())).collect();
    run.call(&messages);
    // Seven of a make two windows and one left over; b has one.
    assert_eq!(
        run.closed(),
        [closed("a", 0, 0, &["1", "2", "3"]), closed("a", 0, 0, &["5", "6", "7"])]
    );
    assert_eq!(run.step.times, [21, 49], "the time of the message that filled it");
    assert_eq!((run.document().len(), run.document().next_end()), (2, None));
    // Neither time nor the clock ends them, and nothing is late.
    run.idle(1_000_000).call(&[
        sent("a", 1, "9"),
        sent("b", 2, "10"),
        sent("b", 3, "11"),
        sent("a", 4, "12"),
    ]);
    assert_eq!(
        run.closed(),
        [closed("b", 0, 0, &["4", "10", "11"]), closed("a", 0, 0, &["8", "9", "12"])]
    );
    assert!(run.document().is_empty());
    assert_eq!(run.step.late, [""; 0]);
}

#[test]
fn one_that_is_rejected_is_not_counted() {
    let mut run = Running::new("count 3", 0);
    run.call(&[
        sent("a", 1, "1"),
        sent("a", 2, "bad"),
        sent("a", 3, "3"),
        sent("a", 4, "4"),
        sent("a", 5, "5"),
    ]);
    assert_eq!(run.closed(), [closed("a", 0, 0, &["1", "3", "4"])]);
    assert_eq!(run.step.refused.len(), 1);
    assert_eq!(run.document().len(), 1);
}

#[test]
fn late_out_of_order_and_twice() {
    let mut run = Running::new("tumbling 10", 5);
    // Out of order within lateness: 12 takes the watermark to 7, and 8 is in time.
    run.call(&[sent("a", 12, "12")]).call(&[sent("a", 8, "8")]);
    // The same once more counts twice.
    run.call(&[sent("a", 8, "8")]);
    assert_eq!((run.closed(), run.document().watermark), (vec![], 7));
    run.call(&[sent("a", 15, "15")]);
    assert_eq!(run.closed(), [closed("a", 0, 10, &["8", "8"])]);
    run.call(&[sent("a", 9, "late")]);
    assert_eq!((run.step.late.clone(), run.closed()), (vec!["late".to_owned()], vec![]));
    // The watermark never goes back.
    assert_eq!(run.document().watermark, 10);
    // A batch is judged by the watermark with which it began: 3 is before what 40 makes of it.
    let mut run = Running::new("tumbling 10", 0);
    run.call(&[sent("a", 40, "40"), sent("a", 3, "3")]);
    assert_eq!(run.closed(), [closed("a", 0, 10, &["3"])]);
}

#[test]
fn a_message_without_time_has_the_callers() {
    let mut run = Running::new("tumbling 10", 0);
    run.try_call(&[sent("a", 0, "x")], 57, false).unwrap();
    assert_eq!(run.document().next_end(), Some(60));
    assert_eq!(run.document().watermark, 57);
}

#[test]
fn a_step_that_is_idle_goes_by_the_clock() {
    let mut run = Running::new("tumbling 10", 5);
    run.call(&[sent("a", 3, "3")]);
    // Whoever says so has waited for what may be late: lateness is not added.
    assert_eq!(run.idle(9).closed(), []);
    assert_eq!(run.idle(10).closed(), [closed("a", 0, 10, &["3"])]);
    assert_eq!(run.idle(2).document().watermark, 10);
    // Without being told so it does not.
    run.call(&[sent("a", 11, "11")]).try_call(&[], 1_000, false).unwrap();
    assert_eq!(run.closed(), []);
}

#[test]
fn groups_are_keys_or_topics() {
    let mut run = Running::new("tumbling 10", 0);
    let bare = Sent { key: None, ..sent("", 1, "none") };
    let named = sent("t", 1, "named");
    run.call(&[sent("", 1, "empty"), bare, named]);
    let document = run.document();
    let groups: Vec<_> = document.entries().map(|entry| entry.group).collect();
    assert_eq!(groups, [Group::Key(b""), Group::Key(b"t"), Group::Topic("t")]);
    assert_eq!(name(&groups[2]), "topic t");
}

#[test]
fn the_step_is_called_once_for_each_window() {
    let mut run = Running::new("tumbling 10", 0);
    let messages: Vec<Sent> =
        (0..100).map(|n| sent(["a", "b"][n % 2], 1 + n as u64 / 10, "x")).collect();
    run.call(&messages);
    assert_eq!(run.step.folds, 4, "two keys, two windows of which 99 is in the second");
}

#[test]
fn only_those_at_fault_are_rejected() {
    let mut run = Running::new("tumbling 10", 0);
    run.call(&[sent("a", 1, "1"), sent("a", 2, "bad 2"), sent("a", 3, "3"), sent("b", 1, "bad")]);
    run.idle(10);
    assert_eq!(run.closed(), [closed("a", 0, 10, &["1", "3"])]);
    let told = |payload: &str| {
        (payload.to_owned(), "invalid-argument".to_owned(), format!("not {payload}"))
    };
    assert_eq!(run.step.refused, [told("bad 2"), told("bad")]);
    // Once, though it is in three windows.
    let mut run = Running::new("hopping 30 10", 0);
    run.call(&[sent("a", 25, "bad")]);
    assert_eq!(run.step.refused.len(), 1);
}

#[test]
fn asking_for_another_try_fails_the_batch_and_changes_nothing() {
    let mut run = Running::new("tumbling 10", 0);
    run.call(&[sent("a", 1, "1")]);
    let before = run.document.clone();
    let error = run.try_call(&[sent("a", 2, "2"), sent("a", 3, "retry")], 1, false).unwrap_err();
    assert_eq!(error, ApplyError::Answer("retry: later".to_owned()));
    assert_eq!(run.document, before);
}

#[test]
fn a_window_whose_end_is_rejected_is_reported_and_closed() {
    let mut run = Running::new("tumbling 10", 0);
    run.step.unfinished = Some("a".to_owned());
    run.call(&[sent("a", 1, "1"), sent("b", 2, "2"), sent("c", 30, "30")]);
    assert_eq!(run.step.lost, [(closed("a", 0, 10, &["1"]), "no end".to_owned())]);
    assert_eq!(run.closed(), [closed("b", 0, 10, &["2"])]);
    assert_eq!(run.document().len(), 1);
}

#[test]
fn what_does_not_fit_is_rejected_with_the_bound_and_the_mend() {
    let mut run = Running::new("tumbling 10", 0);
    let half = format!("huge {}", MAX_BYTES / 2);
    run.call(&[sent("a", 1, &half), sent("b", 1, "b")]);
    // Another half, and the second message of a's own window.
    run.call(&[sent("c", 2, &half), sent("a", 2, &half), sent("b", 3, "b2"), sent("d", 3, "d")]);
    let refused: Vec<_> = run
        .step
        .refused
        .iter()
        .map(|(payload, kind, _)| (payload.as_str(), kind.as_str()))
        .collect();
    assert_eq!(refused, [(half.as_str(), FULL), (half.as_str(), FULL)]);
    let text = &run.step.refused[0].2;
    assert!(text.contains("at most 393216 (384 KiB) are kept; more partitions"), "{text}");
    assert!(run.document.len() <= MAX_BYTES);
    let document = run.document();
    let counts: Vec<_> =
        document.entries().map(|entry| (name(&entry.group), entry.count)).collect();
    assert_eq!(counts, [("a".to_owned(), 1), ("b".to_owned(), 2), ("d".to_owned(), 1)]);
    // What ends with the batch makes room in it.
    run.step.refused.clear();
    run.call(&[sent("c", 21, &half), sent("d", 22, "d")]);
    assert_eq!(run.step.refused, []);
    assert!(run.document().len() == 2 && run.document.len() <= MAX_BYTES);
}

#[test]
fn a_full_document_takes_exactly_what_fits() {
    let mut run = Running::new("tumbling 10", 0);
    // Header 20; each entry 33, a key of 1.
    run.call(&[
        sent("a", 1, &format!("huge {}", MAX_BYTES - 20 - 34 - 36)),
        sent("b", 1, "x"),
        sent("c", 1, ""),
    ]);
    assert_eq!(run.document.len(), MAX_BYTES);
    assert_eq!(run.step.refused.len(), 1, "{:?}", run.step.refused);
    run.call(&[sent("b", 2, "")]);
    assert_eq!(run.step.refused.len(), 2);
    run.call(&[sent("b", 11, "goes on")]);
    assert_eq!((run.step.refused.len(), run.document().len()), (2, 1));
}

#[test]
fn another_kind_of_window_goes_on_with_the_same_document() {
    let mut run = Running::new("count 5", 0);
    run.call(&[sent("a", 1, "1"), sent("a", 2, "2")]);
    let document = run.document.clone();
    // By time, what was counted ends at once.
    let mut tumbling = Running::new("tumbling 10", 0);
    tumbling.document = document.clone();
    tumbling.call(&[sent("a", 3, "3")]);
    assert_eq!(tumbling.closed(), [closed("a", 0, 0, &["1", "2"])]);
    // Fewer of them: the next closes it.
    let mut fewer = Running::new("count 2", 0);
    fewer.document = document;
    fewer.call(&[sent("a", 3, "3"), sent("a", 4, "4")]);
    assert_eq!(fewer.closed(), [closed("a", 0, 0, &["1", "2", "3"])]);
    // Counted, what goes by time ends by time.
    let mut counted = Running::new("count 2", 0);
    counted.document = tumbling.document.clone();
    counted.call(&[sent("a", 4, "4")]).call(&[sent("a", 10, "5")]);
    assert_eq!(counted.closed(), [closed("a", 0, 0, &["4", "5"]), closed("a", 0, 10, &["3"])]);
}

#[test]
fn a_document_of_another_version_is_refused_with_both() {
    let entry = Entry { group: Group::Key(b"k"), start: 0, end: 10, count: 1, state: b"s" };
    let mut bytes = Document::of(5, [entry]).write();
    bytes[4] = 2;
    let expected =
        "the state document has version 2, and this version of the platform reads version 1";
    assert_eq!(Document::read(&bytes).unwrap_err().to_string(), expected);
    let mut run = Running::new("tumbling 10", 0);
    run.document = bytes;
    let error = run.try_call(&[sent("a", 1, "1")], 1, false).unwrap_err();
    assert_eq!(error.to_string(), expected);
}
