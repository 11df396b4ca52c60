//! Verdicts compared with a plain model, and what happens when there is no room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, HashMap, HashSet};

use millrace_batch::{Batch, BatchWriter, Fields};
use millrace_operators::{ApplyError, Dedup, Identity, Throttle, Verdict};
use millrace_window::{attach, detach, repartition, Document, MAX_BYTES};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// Timestamp, key, payload.
type Given = (u64, u8, u8);

fn body(messages: &[(u64, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut writer = BatchWriter::new([("id", "x")]).unwrap();
    for (timestamp, key, payload) in messages {
        let fields = Fields {
            timestamp: *timestamp,
            topic: "t",
            key: Some(key),
            payload,
            content_type: None,
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish()
}

/// The verdicts on messages that come at `now`, and the next document.
fn judge(
    messages: &[(u64, Vec<u8>, Vec<u8>)],
    document: &[u8],
    now: u64,
    operator: &Operator,
) -> (Vec<Verdict>, Vec<u8>) {
    let body = body(messages);
    let attached = attach(&Batch::open(&body).unwrap(), document, "s", now, false).unwrap();
    let batch = Batch::open(&attached).unwrap();
    let mut verdicts = Vec::new();
    let mut take = |_: &_, verdict| {
        verdicts.push(verdict);
        Ok(())
    };
    let call = detach(&batch).unwrap();
    let next = match operator {
        Operator::Dedup(dedup) => dedup.apply(&call, &mut take),
        Operator::Throttle(throttle) => throttle.apply(&call, &mut take),
    };
    let next = next.unwrap();
    assert!(next.len() <= MAX_BYTES, "{}", next.len());
    (verdicts, next)
}

enum Operator {
    Dedup(Dedup),
    Throttle(Throttle),
}

fn dedup(by: &str, within: u64) -> Operator {
    Operator::Dedup(Dedup::new(by.parse().unwrap(), within))
}

fn throttle(messages: u64, per: u64) -> Operator {
    Operator::Throttle(Throttle::new(messages, per))
}

fn own(given: &[Given]) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
    given.iter().map(|(time, key, payload)| (*time, vec![*key], vec![*payload])).collect()
}

fn passed(verdicts: &[Verdict]) -> Vec<bool> {
    verdicts.iter().map(|verdict| *verdict == Verdict::Pass).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One that came within the time is held; one that did not come for the time and an eighth goes on.
    #[test]
    fn repeats_are_held_for_as_long_as_said(
        batches in prop::collection::vec(
            (0_u64..40, prop::collection::vec((0..10 * SECOND, 0_u8..3, 0_u8..6), 1..12)), 1..12),
    ) {
        let operator = dedup("payload", 80 * SECOND);
        let (mut document, mut now) = (Vec::new(), 1_000 * SECOND);
        let mut first: HashMap<(u8, u8), u64> = HashMap::new();
        for (pause, given) in batches {
            now += pause * SECOND;
            let (verdicts, next) = judge(&own(&given), &document, now, &operator);
            for ((_, key, payload), verdict) in given.iter().zip(verdicts) {
                let since = first.get(&(*key, *payload)).map(|then| now - then);
                match since {
                    Some(since) if since <= 80 * SECOND => prop_assert_eq!(&verdict, &Verdict::Hold),
                    Some(since) if since > 90 * SECOND => prop_assert_eq!(&verdict, &Verdict::Pass),
                    // Up to an eighth more.
                    Some(_) => {}
                    None => prop_assert_eq!(&verdict, &Verdict::Pass),
                }
                if verdict == Verdict::Pass {
                    first.insert((*key, *payload), now);
                }
            }
            document = next;
        }
    }

    /// What is in one call or in several is the same: a batch that was cut in two gives the same.
    #[test]
    fn cuts_change_nothing(
        given in prop::collection::vec((0..100 * SECOND, 0_u8..3, 0_u8..6), 2..40),
        cut in 1_usize..40,
        repeats in any::<bool>(),
    ) {
        let operator = if repeats { dedup("payload,timestamp", SECOND) } else { throttle(2, 7 * SECOND) };
        let cut = cut.min(given.len());
        let now = 5_000 * SECOND;
        let whole = judge(&own(&given), &[], now, &operator);
        let (mut verdicts, middle) = judge(&own(&given[..cut]), &[], now, &operator);
        let (rest, last) = judge(&own(&given[cut..]), &middle, now, &operator);
        verdicts.extend(rest);
        prop_assert_eq!(&whole.0, &verdicts);
        prop_assert_eq!(&whole.1, &last);
        // And made again.
        prop_assert_eq!(judge(&own(&given), &[], now, &operator), whole);
    }

    /// In order, the first of each period go on and no others.
    #[test]
    fn the_first_of_a_period_go_on(
        steps in prop::collection::vec((0..4 * SECOND, 0_u8..3), 1..80),
        most in 1_u64..4,
        size in 1_usize..20,
    ) {
        let mut time = 77 * SECOND;
        let given: Vec<Given> = steps
            .iter()
            .map(|(step, key)| {
                time += step;
                (time, *key, 0)
            })
            .collect();
        let operator = throttle(most, 5 * SECOND);
        let (mut document, mut verdicts) = (Vec::new(), Vec::new());
        for part in given.chunks(size) {
            let (more, next) = judge(&own(part), &document, 9 * SECOND, &operator);
            verdicts.extend(passed(&more));
            document = next;
        }
        let mut counts: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        let expected: Vec<bool> = given
            .iter()
            .map(|(time, key, _)| {
                let count = counts.entry((*key, time / (5 * SECOND))).or_default();
                *count += 1;
                *count <= most
            })
            .collect();
        prop_assert_eq!(verdicts, expected);
    }
}

#[test]
fn no_message_is_held_that_is_new_also_when_there_is_no_room() {
    let operator = dedup("payload", 3_600 * SECOND);
    let (mut document, mut seen) = (Vec::new(), HashSet::new());
    let mut repeats = 0;
    for round in 0..200_u64 {
        let messages: Vec<_> = (0..500_u64)
            .map(|n| round * 400 + n)
            .map(|n| (0, vec![(n % 7) as u8], (n as u32).to_le_bytes().to_vec()))
            .collect();
        let (verdicts, next) = judge(&messages, &document, round * 10 * SECOND, &operator);
        for ((_, key, payload), verdict) in messages.iter().zip(verdicts) {
            let new = seen.insert((key.clone(), payload.clone()));
            assert!(!new || verdict == Verdict::Pass);
            repeats += u64::from(verdict == Verdict::Hold);
        }
        document = next;
    }
    // The document is full, and what came just before is still known: the last 100 of each round come again.
    assert!(document.len() > MAX_BYTES / 2, "{}", document.len());
    assert_eq!(repeats, 199 * 100);
}

#[test]
fn what_came_last_is_known_although_there_is_no_room_for_all() {
    let message = |key: u32, id: u32| (0, key.to_le_bytes().to_vec(), id.to_le_bytes().to_vec());
    // One key with more ids in one slice than there is room for, and one id each of more keys.
    for (keys, of_last) in [(1, 10_000), (u32::MAX, 3_000)] {
        let operator = dedup("payload", 24 * 3_600 * SECOND);
        let mut document = Vec::new();
        for round in 0..120_u32 {
            let messages: Vec<_> =
                (round * 500..(round + 1) * 500).map(|n| message(n % keys, n)).collect();
            let (verdicts, next) =
                judge(&messages, &document, u64::from(round) * SECOND, &operator);
            assert!(passed(&verdicts).iter().all(|passed| *passed));
            document = next;
        }
        let last: Vec<_> = (60_000 - of_last..60_000).map(|n| message(n % keys, n)).collect();
        let (verdicts, _) = judge(&last, &document, 121 * SECOND, &operator);
        assert!(passed(&verdicts).iter().all(|passed| !passed), "{keys} keys");
    }
}

#[test]
fn a_clock_that_was_ahead_leaves_nothing_that_stays() {
    let year = 365 * 24 * 3_600 * SECOND;
    for (operator, after) in [(dedup("payload", 80 * SECOND), 91), (throttle(1, SECOND), 61)] {
        let given = own(&[(SECOND, 1, 0)]);
        let (_, document) = judge(&given, &[], year + 1_000 * SECOND, &operator);
        let (again, document) = judge(&given, &document, 1_000 * SECOND, &operator);
        assert_eq!(passed(&again), [false]);
        let (later, _) = judge(&given, &document, (1_000 + after) * SECOND, &operator);
        assert_eq!(passed(&later), [true]);
    }
}

#[test]
fn a_step_that_was_another_kind_before_begins_anew() {
    let given = own(&[(SECOND, 1, 0)]);
    let (_, of_ids) = judge(&given, &[], SECOND, &dedup("payload", 80 * SECOND));
    let (_, of_periods) = judge(&given, &[], SECOND, &throttle(1, SECOND));
    assert_eq!(passed(&judge(&given, &of_ids, SECOND, &throttle(1, SECOND)).0), [true]);
    assert_eq!(passed(&judge(&given, &of_periods, SECOND, &dedup("payload", SECOND)).0), [true]);
}

#[test]
fn full_documents_put_together_fit() {
    let operator = dedup("payload", 3_600 * SECOND);
    let full = |key: u8| {
        let mut document = Vec::new();
        for round in 0..60_u32 {
            let ids =
                (round * 500..(round + 1) * 500).map(|n| (0, vec![key], n.to_le_bytes().to_vec()));
            document =
                judge(&ids.collect::<Vec<_>>(), &document, u64::from(round) * SECOND, &operator).1;
        }
        Document::read(&document).unwrap()
    };
    let together = repartition(&[full(1), full(2)], 1, |_, _| 0);
    assert!(together[0].byte_len() <= MAX_BYTES);
    let newest: Vec<_> =
        (29_900..30_000_u32).map(|n| (0, vec![1], n.to_le_bytes().to_vec())).collect();
    let (verdicts, _) = judge(&newest, &together[0].write(), 61 * SECOND, &operator);
    assert!(passed(&verdicts).iter().all(|passed| !passed));
}

#[test]
fn several_periods_at_a_time_are_counted_each() {
    let given: Vec<Given> = (0..60).map(|n| ((1 + n % 6) * 10 * SECOND, 1, 0)).collect();
    let (verdicts, _) = judge(&own(&given), &[], SECOND, &throttle(2, 10 * SECOND));
    assert_eq!(passed(&verdicts).iter().filter(|passed| **passed).count(), 12);
}

#[test]
fn a_throttle_without_room_lets_more_through_and_not_less() {
    let operator = throttle(1, 3_600 * SECOND);
    let messages: Vec<_> = (0..5_000_u32)
        .map(|n| (SECOND, [&n.to_le_bytes()[..], &[0; 100]].concat(), vec![]))
        .collect();
    let (verdicts, document) = judge(&messages, &[], SECOND, &operator);
    assert!(passed(&verdicts).iter().all(|passed| *passed));
    let known = Document::read(&document).unwrap().len();
    assert!((1_000..5_000).contains(&known), "{known}");
    let (again, _) = judge(&messages, &document, SECOND, &operator);
    assert_eq!(passed(&again).iter().filter(|passed| !**passed).count(), known);
}

#[test]
fn a_clock_that_jumps_costs_one_period_and_not_all_that_follow() {
    let operator = throttle(1, 10 * SECOND);
    let given = own(&[
        (5 * SECOND, 1, 0),
        (4_000_000_000 * SECOND, 1, 0),
        (7 * SECOND, 1, 0),
        (15 * SECOND, 1, 0),
        (25 * SECOND, 1, 0),
    ]);
    let (verdicts, _) = judge(&given, &[], SECOND, &operator);
    assert_eq!(passed(&verdicts), [true, true, false, true, true]);
}

#[test]
fn a_group_of_which_nothing_comes_is_forgotten() {
    for (operator, after) in [(dedup("payload", 80 * SECOND), 91), (throttle(1, SECOND), 61)] {
        let given = own(&[(SECOND, 1, 0)]);
        let (_, document) = judge(&given, &[], 1_000 * SECOND, &operator);
        assert_eq!(Document::read(&document).unwrap().len(), 1);
        let (_, document) =
            judge(&own(&[(SECOND, 2, 0)]), &document, (1_000 + after) * SECOND, &operator);
        assert_eq!(Document::read(&document).unwrap().len(), 1, "only the new one");
    }
}

#[test]
fn parts_of_a_message_are_compared() {
    let message = |payload: &str| (7, b"k".to_vec(), payload.as_bytes().to_vec());
    for (by, one, other, same) in [
        ("payload.id", r#"{"id":1,"at":1}"#, r#"{"at":2,"id":1}"#, true),
        ("payload.id", r#"{"id":1}"#, r#"{"id":2}"#, false),
        ("payload.id", r#"{"id":1}"#, r#"{"id":"1"}"#, false),
        ("payload.a.1", r#"{"a":[0,5]}"#, r#"{"a":[9,5]}"#, true),
        ("payload.o", r#"{"o":{"b":1,"a":2}}"#, r#"{"o":{"a":2,"b":1}}"#, true),
        ("payload.a,payload.b", r#"{"a":"x","b":"yz"}"#, r#"{"a":"xy","b":"z"}"#, false),
        ("payload", "a", "a", true),
        ("timestamp,topic", "a", "b", true),
    ] {
        let operator = dedup(by, SECOND);
        let (verdicts, _) = judge(&[message(one), message(other)], &[], SECOND, &operator);
        assert_eq!(verdicts[1] == Verdict::Hold, same, "{by}: {one} {other}");
    }
    for (by, payload, text) in [
        ("payload.id", "not JSON", "not JSON"),
        ("payload.id", "{}", "`id`"),
        ("payload.a.7", r#"{"a":[1]}"#, "`a.7`"),
        ("headers.x", "{}", "header `x`"),
    ] {
        let (verdicts, _) = judge(&[message(payload)], &[], SECOND, &dedup(by, SECOND));
        assert!(matches!(&verdicts[0], Verdict::Wrong(why) if why.contains(text)), "{verdicts:?}");
    }
}

#[test]
fn what_is_no_identity_is_refused() {
    for wrong in [
        "",
        "key",
        "payload.",
        "payload.a..b",
        "headers.",
        "payload,,topic",
        &"payload,".repeat(20),
    ] {
        let error = wrong.parse::<Identity>().unwrap_err();
        assert!(!error.to_string().is_empty());
    }
    let text = "payload.a.b,headers.x,topic,timestamp,payload";
    assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
}

#[test]
fn a_damaged_document_is_an_error_and_nothing_is_taken() {
    let body = body(&own(&[(1, 1, 1)]));
    let attached = attach(&Batch::open(&body).unwrap(), b"no document", "s", 1, false).unwrap();
    let batch = Batch::open(&attached).unwrap();
    let call = detach(&batch).unwrap();
    let mut take = |_: &_, _| panic!("nothing can be judged");
    let error = Throttle::new(1, 1).apply(&call, &mut take).unwrap_err();
    assert!(matches!(error, ApplyError::Document(_)), "{error}");
}

/// Messages that are all new, of one key or a key each, in one call after another: every one goes on, and the last calls
/// take no longer than those as soon as the document was full.
fn all_new(operator: &Operator, messages: u64, keys: bool) {
    const BATCH: u64 = 5_000;
    let (mut document, mut took) = (Vec::new(), Vec::new());
    for begin in (0..messages).step_by(BATCH as usize) {
        let given: Vec<_> = (begin..begin + BATCH)
            .map(|n| {
                let id = n.to_le_bytes().to_vec();
                // A period each for a throttle of one key, of which it knows the eight used last.
                let time = if keys { SECOND } else { (n + 1) * SECOND };
                (time, if keys { id.clone() } else { vec![1] }, id)
            })
            .collect();
        let start = std::time::Instant::now();
        let (verdicts, next) = judge(&given, &document, SECOND + begin, operator);
        took.push(start.elapsed());
        assert!(passed(&verdicts).iter().all(|passed| *passed), "{begin}");
        document = next;
    }
    let quarter = took.len() / 4;
    let middle = |calls: &mut [std::time::Duration]| {
        calls.sort_unstable();
        calls[calls.len() / 2]
    };
    let second = middle(&mut took[quarter..2 * quarter]);
    let last = middle(&mut took[3 * quarter..]);
    println!("{second:?} a batch of {BATCH} in the second quarter, {last:?} in the last");
    let limit = 3 * second + std::time::Duration::from_millis(1);
    assert!(last < limit, "{second:?}, then {last:?}");
}

#[test]
fn of_very_many_none_that_is_new_is_held_and_each_takes_the_same_time() {
    for keys in [false, true] {
        all_new(&dedup("payload", 3_600 * SECOND), 500_000, keys);
        all_new(&throttle(1, SECOND), 500_000, keys);
    }
}

/// `cargo test --release -p millrace-operators -- --ignored --nocapture`
#[test]
#[ignore = "a hundred million: some minutes each, with --release"]
fn of_a_hundred_million_none_that_is_new_is_held() {
    for keys in [false, true] {
        all_new(&dedup("payload", 3_600 * SECOND), 100_000_000, keys);
        all_new(&throttle(1, SECOND), 100_000_000, keys);
    }
}
