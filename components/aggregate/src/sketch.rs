//! Percentiles in bounded room, within 1 % of the reading: DDSketch, as in Masson, Rim, Lee, "DDSketch: A Fast and
//! Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", PVLDB 12(12), 2019.
//!
//! A reading is counted in the bucket of its size: bucket i has what is above gamma^(i-1) and not above gamma^i, with gamma
//! such that the middle of a bucket is within 1 % of all in it. Negative readings have buckets of their own, and 0 has one.
//! Where there are too many buckets, the two of the smallest readings (regardless of sign) become one, and percentiles among
//! those are less exact.

use std::collections::BTreeMap;

/// Relative error of a percentile.
const ERROR: f64 = 0.01;

/// Most buckets. Readings of nine orders of magnitude have about a thousand.
const MOST: usize = 1024;

fn gamma() -> f64 {
    (1.0 + ERROR) / (1.0 - ERROR)
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sketch {
    pub zeros: u64,
    pub negative: BTreeMap<i32, u64>,
    pub positive: BTreeMap<i32, u64>,
}

impl Sketch {
    /// Adds a finite reading.
    pub fn add(&mut self, reading: f64) {
        if reading == 0.0 {
            self.zeros = self.zeros.saturating_add(1);
            return;
        }
        // A finite number has an index of at most five digits.
        let index = (reading.abs().ln() / gamma().ln()).ceil() as i32;
        let side = if reading > 0.0 { &mut self.positive } else { &mut self.negative };
        let bucket = side.entry(index).or_default();
        *bucket = bucket.saturating_add(1);
        if self.positive.len() + self.negative.len() > MOST {
            self.collapse();
        }
    }

    /// The smallest reading that so many in a hundred are not above, `percent` from 0 to 100 (nearest rank). `None` without
    /// readings.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let sum = |side: &BTreeMap<i32, u64>| side.values().fold(0u64, |a, b| a.saturating_add(*b));
        let count =
            sum(&self.negative).saturating_add(self.zeros).saturating_add(sum(&self.positive));
        let last = count.checked_sub(1)?;
        let rank = (percent / 100.0 * count as f64).ceil() as u64;
        let rank = rank.saturating_sub(1).min(last);
        let negative = self.negative.iter().rev().map(|(index, count)| (-middle(*index), *count));
        let positive = self.positive.iter().map(|(index, count)| (middle(*index), *count));
        let mut before = 0u64;
        let all = negative.chain([(0.0, self.zeros)]).chain(positive);
        let mut reached = all.filter(|(_, count)| {
            before = before.saturating_add(*count);
            before > rank
        });
        reached.next().map(|(reading, _)| reading)
    }

    /// Puts the two buckets of the smallest readings together, on the side that has more buckets.
    fn collapse(&mut self) {
        let more_negative = self.negative.len() > self.positive.len();
        let side = if more_negative { &mut self.negative } else { &mut self.positive };
        if let Some((_, count)) = side.pop_first() {
            if let Some(mut next) = side.first_entry() {
                let sum = next.get().saturating_add(count);
                next.insert(sum);
            }
        }
    }
}

/// What stands for the readings of a bucket.
fn middle(index: i32) -> f64 {
    2.0 * gamma().powi(index) / (gamma() + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look like chance and are the same every time.
    fn readings(number: usize) -> impl Iterator<Item = f64> {
        let mut state = 42u64;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        })
        .take(number)
    }

    fn check(name: &str, readings: Vec<f64>) {
        let mut sketch = Sketch::default();
        readings.iter().for_each(|reading| sketch.add(*reading));
        let mut sorted = readings;
        sorted.sort_by(f64::total_cmp);
        for percent in [0.0, 1.0, 25.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0] {
            let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
            let exact = sorted[rank.saturating_sub(1)];
            let found = sketch.percentile(percent).expect("readings");
            assert!(
                (found - exact).abs() <= exact.abs() * 0.0101,
                "{name} p{percent}: {found}, not {exact}"
            );
        }
    }

    #[test]
    fn percentiles_are_within_a_hundredth() {
        check("even", readings(10_000).map(|x| x * 100.0).collect());
        check("around zero", readings(10_000).map(|x| (x - 0.5) * 20.0).collect());
        check("over six orders", readings(10_000).map(|x| 10f64.powf(x * 6.0 - 3.0)).collect());
        check("long tail", readings(10_000).map(|x| 1.0 / (1.0 - x)).collect());
        check("one", vec![21.5]);
        check("zeros", vec![0.0, 0.0, -1.0, 1.0, 0.0]);
        check("the ends of what a number can be", vec![f64::MIN_POSITIVE, 1e300, -1e300, 1.0]);
    }

    #[test]
    fn the_number_of_buckets_is_bounded_and_the_great_stay_exact() {
        let mut sketch = Sketch::default();
        let all: Vec<f64> = readings(50_000).map(|x| 10f64.powf(x * 200.0 - 100.0)).collect();
        for reading in &all {
            sketch.add(*reading);
            sketch.add(-*reading);
        }
        assert!(sketch.positive.len() + sketch.negative.len() <= MOST);
        let greatest = all.iter().copied().fold(0.0, f64::max);
        let found = sketch.percentile(100.0).expect("readings");
        assert!((found - greatest).abs() <= greatest * 0.0101);
        assert_eq!(Sketch::default().percentile(50.0), None);
    }
}
