//! What is kept of a window, in few bytes, because a partition of a pipeline keeps one for each key: a version, which parts
//! there are, the number of readings, and the parts in the order of their bits. Numbers are little-endian, those that are
//! mostly small have seven bits in a byte.

use std::collections::BTreeMap;

use crate::settings::parts;
use crate::sketch::Sketch;

/// Version of the bytes.
const VERSION: u8 = 1;

/// Deviation from the mean, by Welford's method: it does not lose what is small beside the mean.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Spread {
    mean: f64,
    /// Sum of the squared deviations.
    squares: f64,
}

/// A reading and its event time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Timed {
    time: u64,
    reading: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct State {
    parts: u8,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    spread: Spread,
    first: Timed,
    last: Timed,
    sketch: Sketch,
}

impl State {
    pub fn new(parts: u8) -> Self {
        Self {
            parts,
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            spread: Spread::default(),
            first: Timed { time: u64::MAX, reading: f64::NAN },
            last: Timed { time: 0, reading: f64::NAN },
            sketch: Sketch::default(),
        }
    }

    /// Adds a finite reading. Parts that the state does not have stay as they are.
    pub fn add(&mut self, reading: f64, time: u64) {
        self.count = self.count.saturating_add(1);
        self.sum += reading;
        self.min = self.min.min(reading);
        self.max = self.max.max(reading);
        let away = reading - self.spread.mean;
        self.spread.mean += away / self.count as f64;
        self.spread.squares += away * (reading - self.spread.mean);
        // Of several with one time the first to come is the first, and the last to come the last.
        if self.count == 1 || time < self.first.time {
            self.first = Timed { time, reading };
        }
        if time >= self.last.time {
            self.last = Timed { time, reading };
        }
        if self.has(parts::SKETCH) {
            self.sketch.add(reading);
        }
    }

    fn has(&self, part: u8) -> bool {
        self.parts & part != 0
    }

    fn part(&self, part: u8, value: f64) -> Option<f64> {
        (self.has(part) && self.count > 0).then_some(value)
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sum(&self) -> Option<f64> {
        self.part(parts::SUM, self.sum)
    }

    pub fn mean(&self) -> Option<f64> {
        self.part(parts::SUM, self.sum / self.count as f64)
    }

    pub fn min(&self) -> Option<f64> {
        self.part(parts::MIN, self.min)
    }

    pub fn max(&self) -> Option<f64> {
        self.part(parts::MAX, self.max)
    }

    /// Of the population: divided by the number of readings.
    pub fn variance(&self) -> Option<f64> {
        self.part(parts::SPREAD, self.spread.squares / self.count as f64)
    }

    pub fn first(&self) -> Option<f64> {
        self.part(parts::FIRST, self.first.reading)
    }

    pub fn last(&self) -> Option<f64> {
        self.part(parts::LAST, self.last.reading)
    }

    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.sketch.percentile(percent).filter(|_| self.has(parts::SKETCH))
    }

    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.parts];
        put(&mut bytes, self.count);
        let numbers = [
            (parts::SUM, &[self.sum][..]),
            (parts::MIN, &[self.min]),
            (parts::MAX, &[self.max]),
            (parts::SPREAD, &[self.spread.mean, self.spread.squares]),
        ];
        for (_, numbers) in numbers.iter().filter(|(part, _)| self.has(*part)) {
            numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        }
        for (part, timed) in [(parts::FIRST, self.first), (parts::LAST, self.last)] {
            if self.has(part) {
                bytes.extend_from_slice(&timed.time.to_le_bytes());
                bytes.extend_from_slice(&timed.reading.to_le_bytes());
            }
        }
        if self.has(parts::SKETCH) {
            put(&mut bytes, self.sketch.zeros);
            for side in [&self.sketch.negative, &self.sketch.positive] {
                put(&mut bytes, side.len() as u64);
                let mut before = 0i64;
                for (index, count) in side {
                    put(&mut bytes, zigzag(i64::from(*index) - before));
                    put(&mut bytes, *count);
                    before = i64::from(*index);
                }
            }
        }
        bytes
    }

    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = Rest(bytes);
        let version = rest.byte().map_err(damaged)?;
        if version != VERSION {
            return Err(format!(
                "the state was written by an aggregate whose state has version {version}, and this one reads {VERSION}; \
                 windows that are open end with the component that began them"
            ));
        }
        rest.state().map_err(damaged)
    }
}

/// The state ends too early, or has what no state has.
struct Damaged;

fn damaged(_: Damaged) -> String {
    "the state is damaged".to_owned()
}

/// Bytes still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn state(&mut self) -> Result<State, Damaged> {
        let mut state = State::new(self.byte()?);
        if state.parts & !parts::ALL != 0 {
            return Err(Damaged);
        }
        state.count = self.small()?;
        if state.has(parts::SUM) {
            state.sum = self.number()?;
        }
        if state.has(parts::MIN) {
            state.min = self.number()?;
        }
        if state.has(parts::MAX) {
            state.max = self.number()?;
        }
        if state.has(parts::SPREAD) {
            state.spread = Spread { mean: self.number()?, squares: self.number()? };
        }
        if state.has(parts::FIRST) {
            state.first =
                Timed { time: u64::from_le_bytes(self.eight()?), reading: self.number()? };
        }
        if state.has(parts::LAST) {
            state.last = Timed { time: u64::from_le_bytes(self.eight()?), reading: self.number()? };
        }
        if state.has(parts::SKETCH) {
            state.sketch.zeros = self.small()?;
            state.sketch.negative = self.side()?;
            state.sketch.positive = self.side()?;
        }
        if self.0.is_empty() {
            Ok(state)
        } else {
            Err(Damaged)
        }
    }

    fn side(&mut self) -> Result<BTreeMap<i32, u64>, Damaged> {
        let (mut side, mut before) = (BTreeMap::new(), 0i64);
        for _ in 0..self.small()? {
            let index = before.checked_add(unzigzag(self.small()?)).ok_or(Damaged)?;
            side.insert(i32::try_from(index).map_err(|_| Damaged)?, self.small()?);
            before = index;
        }
        Ok(side)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        let (byte, rest) = self.0.split_first().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn eight(&mut self) -> Result<[u8; 8], Damaged> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn number(&mut self) -> Result<f64, Damaged> {
        Ok(f64::from_le_bytes(self.eight()?))
    }

    fn small(&mut self) -> Result<u64, Damaged> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Damaged);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damaged)
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Small numbers of either sign as small numbers.
fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_for_every_choice_of_parts() {
        for parts in 0..=parts::ALL {
            let mut state = State::new(parts);
            for (at, reading) in [3.5, -2.0, 0.0, 1e9, -2.0].into_iter().enumerate() {
                state.add(reading, 100 - at as u64);
                let bytes = state.write();
                let mut read = State::read(&bytes).expect("a state");
                assert_eq!(read.write(), bytes);
                // It goes on as if it had never been bytes.
                let mut gone_on = state.clone();
                gone_on.add(7.0, 5);
                read.add(7.0, 5);
                assert_eq!(read.write(), gone_on.write(), "{parts}");
            }
            let bytes = state.write();
            for end in 0..bytes.len() {
                assert!(State::read(&bytes[..end]).is_err());
            }
            assert!(State::read(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert_eq!(State::new(parts::SUM | parts::MIN | parts::MAX).write().len(), 27);
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut state = 1u64;
        for length in 0..2000usize {
            let bytes: Vec<u8> = (0..length % 60)
                .map(|at| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if at == 0 {
                        VERSION
                    } else {
                        (state >> 56) as u8
                    }
                })
                .collect();
            if let Ok(mut read) = State::read(&bytes) {
                read.add(1.0, 1);
                let _ = (read.percentile(50.0), read.variance(), read.write());
            }
        }
    }

    #[test]
    fn variance_keeps_what_is_small_beside_the_mean() {
        let mut state = State::new(parts::SPREAD);
        [4.0, 7.0, 13.0, 16.0].iter().for_each(|away| state.add(1e9 + away, 0));
        assert_eq!(state.variance(), Some(22.5));
    }

    /// A key of a hundred million readings: the count is exact, sum and mean have eight right digits, and what is kept has
    /// grown by the longer count alone. 0.1 is no sum of halves, so each addition rounds.
    #[test]
    fn a_hundred_million_readings_are_counted_right_in_the_same_space() {
        const READINGS: u64 = 100_000_000;
        let mut state = State::new(parts::ALL & !parts::SKETCH);
        state.add(0.1, 1);
        let begun = state.write().len();
        (1..READINGS).for_each(|time| state.add(0.1, time));
        assert_eq!(state.count(), READINGS);
        let near = |found: Option<f64>, exact: f64| {
            let found = found.expect("a value");
            assert!((found - exact).abs() < 1e-8 * exact.abs().max(1.0), "{found}, {exact}");
        };
        near(state.sum(), 1e7);
        near(state.mean(), 0.1);
        near(state.variance(), 0.0);
        assert_eq!((state.min(), state.max()), (Some(0.1), Some(0.1)));
        assert!(state.write().len() <= begun + 4);
        let mut sketched = State::new(parts::SKETCH);
        (0..1_000_000).for_each(|n| sketched.add(f64::from(n % 1000), 1));
        let thousand = sketched.write().len();
        (0..1_000_000).for_each(|n| sketched.add(f64::from(n % 1000), 1));
        // Counts of seven bits more at most.
        assert!(sketched.write().len() < 2 * thousand, "{}", sketched.write().len());
        assert_eq!(sketched.count(), 2_000_000);
    }

    #[test]
    fn first_and_last_go_by_time_and_by_arrival_where_it_is_one() {
        let mut state = State::new(parts::FIRST | parts::LAST);
        for (reading, time) in [(1.0, 5), (2.0, 3), (3.0, 3), (4.0, 9), (5.0, 9), (6.0, 8)] {
            state.add(reading, time);
        }
        assert_eq!((state.first(), state.last()), (Some(2.0), Some(5.0)));
    }
}
