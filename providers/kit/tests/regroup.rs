//! Regrouping: whatever batches come, no message is lost, repeated or moved.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use millrace_batch::{ARM, Batch, BatchWriter, Fields};
use millrace_kit::regroup::{by_arm, partition, partition_of, regroup};
use millrace_kit::{Limits, Packed};
use proptest::prelude::*;

const LIMITS: Limits = Limits { messages: 20, bytes: 2_000, linger: Duration::ZERO };

/// A batch of `sizes.len()` messages with payloads of these sizes, numbered on.
fn batch(number: usize, sizes: &[usize], next: &mut u64, with_id: bool) -> Packed {
    let id = format!("b{number}");
    let id = with_id.then_some(("id", id.as_str()));
    let mut writer = BatchWriter::new(id).unwrap();
    for size in sizes {
        let (payload, key) = (vec![b'x'; *size], [(*next % 7) as u8]);
        let key = (!(*next).is_multiple_of(3)).then_some(key.as_slice());
        let topic = if (*next).is_multiple_of(2) { "even" } else { "odd" };
        writer
            .push(
                &Fields { timestamp: *next, topic, key, payload: &payload, ..Fields::default() },
                [],
            )
            .unwrap();
        *next += 1;
    }
    Packed::read(writer.finish().into())
}

fn numbers(batches: &[Packed]) -> Vec<u64> {
    batches
        .iter()
        .flat_map(|batch| {
            let batch = Batch::parse(batch.body()).unwrap();
            batch.messages().map(|m| m.timestamp).collect::<Vec<_>>()
        })
        .collect()
}

fn ids(batches: &[Packed]) -> Vec<String> {
    batches.iter().map(|batch| batch.id().unwrap_or_default().to_owned()).collect()
}

proptest! {
    #[test]
    fn all_messages_are_there_in_order_and_the_ids_depend_on_the_batches_alone(
        group in proptest::collection::vec(
            (proptest::collection::vec(0usize..400, 0..60), proptest::bool::weighted(0.9)), 0..20),
    ) {
        let mut next = 0;
        let group: Vec<Packed> = group
            .iter()
            .enumerate()
            .map(|(number, (sizes, with_id))| batch(number, sizes, &mut next, *with_id))
            .collect();
        let calls = regroup(group.clone(), &LIMITS);
        prop_assert_eq!(numbers(&calls), (0..next).collect::<Vec<_>>());
        for call in &calls {
            let (messages, bytes) = (call.messages(), call.bytes());
            prop_assert!(messages <= 25, "{} messages", messages);
            prop_assert!(bytes <= 2_500 || messages == 1, "{} bytes of {}", bytes, messages);
        }
        let again = regroup(group.clone(), &LIMITS);
        prop_assert_eq!(ids(&calls), ids(&again));
        let mut known = ids(&calls);
        known.retain(|id| !id.is_empty());
        let count = known.len();
        known.sort();
        known.dedup();
        prop_assert_eq!(known.len(), count, "no id twice");
    }

    #[test]
    fn partitions_have_every_message_once_and_each_key_in_one_in_order(
        sizes in proptest::collection::vec(0usize..50, 0..200),
        count in 1u16..=64,
    ) {
        let mut next = 0;
        let whole = batch(0, &sizes, &mut next, true);
        let parts = partition(&whole, count);
        let mut all = Vec::new();
        for (number, part) in &parts {
            prop_assert_eq!(part.id().unwrap(), format!("b0/{number}"));
            let opened = Batch::parse(part.body()).unwrap();
            let mut last = None;
            for message in opened.messages() {
                prop_assert_eq!(partition_of(message.key, message.topic, count), *number);
                prop_assert!(last < Some(message.timestamp));
                last = Some(message.timestamp);
                all.push(message.timestamp);
            }
            prop_assert!(!opened.is_empty());
        }
        all.sort_unstable();
        prop_assert_eq!(all, (0..next).collect::<Vec<_>>());
    }
}

#[test]
fn small_batches_are_joined_and_large_ones_split() {
    let mut next = 0;
    let group = vec![
        batch(0, &[1; 8], &mut next, true),
        batch(1, &[1; 8], &mut next, true),
        batch(2, &[1; 8], &mut next, true),
        batch(3, &[1; 50], &mut next, true),
    ];
    let calls = regroup(group, &LIMITS);
    let sizes: Vec<usize> = calls.iter().map(Packed::messages).collect();
    // A quarter above the limit is let be.
    assert_eq!(sizes, [16, 8, 25, 25]);
    assert!(calls[0].id().unwrap().starts_with("b0+"), "{:?}", calls[0].id());
}

#[test]
fn a_damaged_batch_takes_no_other_with_it() {
    let mut next = 0;
    let mut damaged = batch(1, &[5; 4], &mut next, true).body().to_vec();
    let last = damaged.len() - 40;
    damaged[last..].fill(0xff);
    let group = vec![
        batch(0, &[1; 3], &mut next, true),
        Packed::read(damaged.clone().into()),
        batch(2, &[1; 3], &mut next, true),
        Packed::read(b"no batch at all".to_vec().into()),
        batch(3, &[1; 3], &mut next, true),
        batch(4, &[1; 3], &mut next, true),
    ];
    assert!(Batch::parse(&damaged).is_err());
    let sizes: Vec<usize> = regroup(group, &LIMITS).iter().map(Packed::messages).collect();
    assert_eq!(sizes, [3, 4, 3, 1, 6]);
}

#[test]
fn each_message_is_on_the_edge_of_its_arm_and_none_is_dropped_unseen() {
    let arms = ["high", "low", "high", "other"];
    let mut writer = BatchWriter::new([("id", "b0")]).unwrap();
    for (number, arm) in (0..).zip(arms) {
        writer.push(&Fields { timestamp: number, ..Fields::default() }, [(ARM, arm)]).unwrap();
    }
    let whole = Packed::read(writer.finish().into());
    let parts = by_arm(&whole).unwrap();
    for (arm, expected) in [("high", vec![0, 2]), ("low", vec![1]), ("other", vec![3])] {
        let part = parts[arm].clone();
        assert_eq!(part.id(), Some("b0"));
        assert_eq!(numbers(&[part]), expected);
    }
    assert!(!parts.contains_key("hi"));
    // One that takes no arm would be on no edge.
    let plain = batch(0, &[1, 1], &mut 0, true);
    assert!(by_arm(&plain).unwrap_err().contains("takes no arm"));
    assert!(by_arm(&Packed::read(b"no batch".to_vec().into())).is_err());
}

/// What waits on an edge was put there by another version: these never change.
#[test]
fn the_partition_of_a_key_is_fixed() {
    // FNV-1a of "" and "foobar", from the published test vectors.
    assert_eq!(partition_of(Some(b""), "t", u16::MAX), (0xcbf2_9ce4_8422_2325_u64 % 65_535) as u16);
    let foobar = (0x8594_4171_f739_67e8_u64 % 65_535) as u16;
    assert_eq!(partition_of(Some(b"foobar"), "t", u16::MAX), foobar);
    assert_eq!(partition_of(None, "foobar", u16::MAX), foobar, "the topic where there is no key");
}
