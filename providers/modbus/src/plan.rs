//! From fields to reads.
//!
//! Fields are declared, requests are planned: fields of one table of one unit
//! that lie together are read together, as far as the limits allow. A pure
//! function, tested by its properties: every field is covered, no limit is
//! exceeded, and there are never more requests than fields.

use std::fmt;

use millrace_settings::modbus::{Register, SourceSettings, Wire};

/// Most addresses named in a description of a request.
const NAMES_SHOWN: usize = 4;

/// A field as the planner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// The device.
    pub unit: u8,
    /// The table and where it begins.
    pub wire: Wire,
    /// How many registers or bits.
    pub count: u16,
}

/// What a request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most registers.
    pub registers: u16,
    /// Most bits.
    pub bits: u16,
    /// Most registers (or bits) between two fields that are read along.
    pub gap: u16,
}

impl From<&SourceSettings> for Limits {
    fn from(settings: &SourceSettings) -> Self {
        let number = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        Self {
            registers: number(settings.max_registers.get()),
            bits: number(settings.max_bits.get()),
            gap: number(settings.max_gap.get()),
        }
    }
}

/// One read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The device.
    pub unit: u8,
    /// The table and the first address.
    pub wire: Wire,
    /// How many registers or bits.
    pub count: u16,
    /// The fields it reads: their places in the list of items, by address.
    pub fields: Vec<usize>,
}

impl Request {
    /// Where a field lies in the answer.
    #[must_use]
    pub const fn place(&self, item: &Item) -> usize {
        item.wire.address.saturating_sub(self.wire.address) as usize
    }

    /// The request as two, each with half of the fields; none when it has one
    /// field only.
    #[must_use]
    pub fn halves(&self, items: &[Item]) -> Option<(Self, Self)> {
        if self.fields.len() < 2 {
            return None;
        }
        let (first, second) = self.fields.split_at_checked(self.fields.len() / 2)?;
        Some((around(first, items)?, around(second, items)?))
    }

    /// The request with the names of its fields.
    #[must_use]
    pub fn describe<'a>(&self, name: impl Fn(usize) -> &'a str) -> String {
        let mut text = format!("{self} for ");
        for (n, field) in self.fields.iter().take(NAMES_SHOWN).enumerate() {
            text.push_str(if n > 0 { ", " } else { "" });
            text.push_str(name(*field));
        }
        match self.fields.len().checked_sub(NAMES_SHOWN) {
            Some(more @ 1..) => text + &format!(" and {more} more"),
            _ => text,
        }
    }
}

/// `unit 1, holding 0x0000 to 0x0031`: the addresses on the wire.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unit {}, {}", self.unit, self.wire)?;
        match self.count {
            0 | 1 => Ok(()),
            more => write!(f, " to 0x{:04X}", self.wire.address.saturating_add(more - 1)),
        }
    }
}

/// The smallest request around some fields of one table.
fn around(fields: &[usize], items: &[Item]) -> Option<Request> {
    let of = |field: &usize| items.get(*field);
    let first = fields.iter().filter_map(of).min_by_key(|item| item.wire.address)?;
    let end = fields.iter().filter_map(of).map(end_of).max()?;
    Some(Request {
        unit: first.unit,
        wire: first.wire,
        count: u16::try_from(end - u32::from(first.wire.address)).ok()?,
        fields: fields.to_vec(),
    })
}

/// The address after the field's last.
fn end_of(item: &Item) -> u32 {
    u32::from(item.wire.address) + u32::from(item.count)
}

/// Plans the reads for `items`, by unit, table and address. An item larger
/// than a limit, which lint refuses, gets a request of its own.
#[must_use]
pub fn plan(items: &[Item], limits: Limits) -> Vec<Request> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|place| items.get(*place));
    let mut requests: Vec<Request> = Vec::new();
    for place in order {
        let Some(item) = items.get(place) else { continue };
        match requests.last_mut() {
            Some(request) if fits(request, item, limits) => {
                let end =
                    end_of(item).max(u32::from(request.wire.address) + u32::from(request.count));
                let count = end - u32::from(request.wire.address);
                request.count = u16::try_from(count).unwrap_or(request.count);
                request.fields.push(place);
            }
            _ => requests.push(Request {
                unit: item.unit,
                wire: item.wire,
                count: item.count,
                fields: vec![place],
            }),
        }
    }
    requests
}

/// Whether `item`, which does not begin before `request`, can be read with it.
fn fits(request: &Request, item: &Item, limits: Limits) -> bool {
    let most = most_of(request.wire.register, limits);
    let start = u32::from(request.wire.address);
    let end = start + u32::from(request.count);
    let new_end = end.max(end_of(item));
    request.unit == item.unit
        && request.wire.register == item.wire.register
        && u32::from(item.wire.address) <= end + u32::from(limits.gap)
        && new_end - start <= u32::from(most)
}

/// The limit of a table.
const fn most_of(register: Register, limits: Limits) -> u16 {
    if register.is_bits() { limits.bits } else { limits.registers }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: Limits = Limits { registers: 125, bits: 2_000, gap: 0 };

    fn item(unit: u8, register: Register, address: u16, count: u16) -> Item {
        Item { unit, wire: Wire { register, address }, count }
    }

    #[test]
    fn neighbours_are_read_together_and_others_apart() {
        let items = [
            item(1, Register::Holding, 10, 2),
            item(1, Register::Holding, 12, 1),
            item(1, Register::Holding, 14, 1),
            item(1, Register::Input, 13, 1),
            item(2, Register::Holding, 13, 1),
        ];
        let requests = plan(&items, WHOLE);
        let shown: Vec<String> = requests.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "unit 1, input 0x000D",
                "unit 1, holding 0x000A to 0x000C",
                "unit 1, holding 0x000E",
                "unit 2, holding 0x000D",
            ]
        );
        let wider = plan(&items, Limits { gap: 1, ..WHOLE });
        assert_eq!(wider.len(), 3, "a gap of one is read across: {wider:?}");
        let names = ["a", "b", "c", "d", "e"];
        assert_eq!(
            wider[1].describe(|place| names[place]),
            "unit 1, holding 0x000A to 0x000E for a, b, c"
        );
    }

    #[test]
    fn the_last_address_can_be_read() {
        let items =
            [item(1, Register::Holding, 65_535, 1), item(1, Register::Holding, 65_411, 124)];
        let requests = plan(&items, WHOLE);
        assert_eq!(requests[0].to_string(), "unit 1, holding 0xFF83 to 0xFFFF");
        assert_eq!(requests.len(), 1);
    }

    fn register() -> impl Strategy<Value = Register> {
        prop_oneof![
            Just(Register::Coil),
            Just(Register::Discrete),
            Just(Register::Input),
            Just(Register::Holding)
        ]
    }

    /// Items that lint lets through: no larger than the limits.
    fn case() -> impl Strategy<Value = (Vec<Item>, Limits)> {
        (1_u16..=125, 1_u16..=2_000, 0_u16..=300).prop_flat_map(|(registers, bits, gap)| {
            let limits = Limits { registers, bits, gap };
            // Close together often, anywhere sometimes.
            let address = prop_oneof![4 => 0_u16..600, 1 => 65_000_u16..=65_535, 1 => any::<u16>()];
            let one = (1_u8..4, register(), address, 1_u16..=125).prop_map(
                move |(unit, register, address, count)| {
                    let count = if register.is_bits() { 1 } else { count.min(registers) };
                    let count = count.min(u16::MAX - address).max(1);
                    item(unit, register, address, count)
                },
            );
            (prop::collection::vec(one, 1..80), Just(limits))
        })
    }

    /// That `requests` read every item once, within the limits.
    fn holds(items: &[Item], limits: Limits, requests: &[Request]) {
        let mut covered = vec![0; items.len()];
        for request in requests {
            let most = most_of(request.wire.register, limits);
            assert!(request.count <= most, "{request} exceeds {most}");
            assert!(request.count >= 1 && !request.fields.is_empty());
            let end = u32::from(request.wire.address) + u32::from(request.count);
            assert!(end <= 65_536, "{request} is beyond the last address");
            for place in &request.fields {
                let item = &items[*place];
                covered[*place] += 1;
                assert_eq!((item.unit, item.wire.register), (request.unit, request.wire.register));
                assert!(item.wire.address >= request.wire.address && end_of(item) <= end);
                let answer = request.place(item)..request.place(item) + usize::from(item.count);
                assert!(answer.end <= usize::from(request.count), "the answer holds the field");
            }
            // Nothing more is read than what is allowed between two fields.
            let mut reached = u32::from(request.wire.address);
            for place in &request.fields {
                let item = &items[*place];
                assert!(u32::from(item.wire.address) <= reached + u32::from(limits.gap));
                reached = reached.max(end_of(item));
            }
            assert_eq!(reached, end, "nothing is read after the last field");
        }
        assert!(covered.iter().all(|times| *times == 1), "each field once: {covered:?}");
        assert!(requests.len() <= items.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn covers_every_field_within_the_limits((items, limits) in case()) {
            holds(&items, limits, &plan(&items, limits));
        }

        #[test]
        fn does_not_depend_on_the_order_of_fields((items, limits) in case(), seed in any::<u64>()) {
            let mut shuffled = items.clone();
            let turn = usize::try_from(seed % items.len() as u64).unwrap();
            shuffled.rotate_left(turn);
            let shown = |items: &[Item]| -> Vec<String> {
                plan(items, limits).iter().map(ToString::to_string).collect()
            };
            prop_assert_eq!(shown(&items), shown(&shuffled));
        }

        #[test]
        fn halves_read_the_same_fields((items, limits) in case()) {
            for request in plan(&items, limits) {
                let Some((first, second)) = request.halves(&items) else {
                    prop_assert_eq!(request.fields.len(), 1);
                    continue;
                };
                for half in [&first, &second] {
                    prop_assert!(half.count <= request.count);
                    prop_assert!(half.wire.address >= request.wire.address);
                    for place in &half.fields {
                        let item = &items[*place];
                        prop_assert!(half.place(item) + usize::from(item.count) <= usize::from(half.count));
                    }
                }
                let both: Vec<usize> = first.fields.iter().chain(&second.fields).copied().collect();
                prop_assert_eq!(both, request.fields);
            }
        }

        #[test]
        fn one_request_where_nothing_stands_between(count in 1_u16..=125) {
            let items: Vec<Item> =
                (0..count).map(|n| item(1, Register::Holding, 100 + n, 1)).collect();
            prop_assert_eq!(plan(&items, WHOLE).len(), 1);
        }
    }
}
