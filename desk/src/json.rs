//! What differs between two JSON values, each difference with its way.

use millrace_pipeline::payload_path;
use serde_json::{Map, Number, Value};

use crate::compare::Difference;
use crate::message::shown_text;

/// How payloads are compared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    ignore: Vec<Vec<String>>,
    select: Vec<Vec<String>>,
    tolerance: f64,
}

/// Whether a place is compared.
enum Place {
    /// With all that is in it.
    Whole,
    /// Only some of what is in it.
    Inside,
    /// No.
    Out,
}

impl Rules {
    pub(crate) fn new(ignore: &[String], select: &[String], tolerance: f64) -> Self {
        let ways = |texts: &[String]| {
            let ways = texts.iter().filter_map(|text| payload_path(text));
            ways.map(|way| way.into_iter().map(str::to_owned).collect()).collect()
        };
        Self { ignore: ways(ignore), select: ways(select), tolerance }
    }

    fn place(&self, way: &[String]) -> Place {
        let matches = |pattern: &[String], way: &[String]| {
            pattern.len() == way.len()
                && pattern.iter().zip(way).all(|(part, at)| part == "*" || part == at)
        };
        if self.ignore.iter().any(|pattern| matches(pattern, way)) {
            return Place::Out;
        }
        let begins = |pattern: &Vec<String>| {
            way.get(..pattern.len()).is_some_and(|start| matches(pattern, start))
        };
        if self.select.is_empty() || self.select.iter().any(begins) {
            return Place::Whole;
        }
        let leads = |pattern: &Vec<String>| {
            pattern.get(..way.len()).is_some_and(|start| matches(start, way))
        };
        if self.select.iter().any(leads) { Place::Inside } else { Place::Out }
    }

    /// Everything that differs.
    pub(crate) fn differences(&self, wanted: &Value, got: &Value) -> Vec<Difference> {
        let mut found = Vec::new();
        self.walk(Some(wanted), Some(got), &mut Vec::new(), &mut found);
        found
    }

    fn walk(
        &self,
        wanted: Option<&Value>,
        got: Option<&Value>,
        way: &mut Vec<String>,
        found: &mut Vec<Difference>,
    ) {
        let place = self.place(way);
        if matches!(place, Place::Out) {
            return;
        }
        match (wanted, got) {
            (Some(Value::Object(wanted)), Some(Value::Object(got))) => {
                for key in keys(wanted, got) {
                    way.push(key.clone());
                    self.walk(wanted.get(key), got.get(key), way, found);
                    way.pop();
                }
            }
            (Some(Value::Array(wanted)), Some(Value::Array(got))) => {
                for index in 0..wanted.len().max(got.len()) {
                    way.push(index.to_string());
                    self.walk(wanted.get(index), got.get(index), way, found);
                    way.pop();
                }
            }
            (Some(Value::Number(a)), Some(Value::Number(b))) if self.same(a, b) => {}
            (a, b) if a == b => {}
            // On the way to what is selected, which is on neither side.
            _ if matches!(place, Place::Inside) && !self.has_selected(wanted, got, way) => {}
            _ => found.push(Difference::new(&way_shown(way), shown(wanted), shown(got))),
        }
    }

    /// Whether one side alone has something that is selected.
    fn has_selected(&self, wanted: Option<&Value>, got: Option<&Value>, way: &[String]) -> bool {
        let mut way = way.to_vec();
        [wanted, got].into_iter().flatten().any(|value| self.selects(value, &mut way))
    }

    fn selects(&self, value: &Value, way: &mut Vec<String>) -> bool {
        let mut inside = |key: String, value: &Value| {
            way.push(key);
            let found = match self.place(way) {
                Place::Whole => true,
                Place::Inside => self.selects(value, way),
                Place::Out => false,
            };
            way.pop();
            found
        };
        match value {
            Value::Object(fields) => fields.iter().any(|(key, value)| inside(key.clone(), value)),
            Value::Array(items) => {
                items.iter().enumerate().any(|(index, value)| inside(index.to_string(), value))
            }
            _ => false,
        }
    }

    /// Numbers are the same by value: 100 is 100.0.
    fn same(&self, a: &Number, b: &Number) -> bool {
        if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
            let apart = a.abs_diff(b);
            return apart == 0 || self.tolerance > 0.0 && apart as f64 <= self.tolerance;
        }
        if let (Some(a), Some(b)) = (a.as_u64(), b.as_u64()) {
            return a == b || self.tolerance > 0.0 && a.abs_diff(b) as f64 <= self.tolerance;
        }
        match (a.as_f64(), b.as_f64()) {
            // The last bits of a difference are noise: 0.3 - 0.2 is more than 0.1.
            (Some(a), Some(b)) => {
                let noise = f64::EPSILON * a.abs().max(b.abs());
                a == b || self.tolerance > 0.0 && (a - b).abs() <= self.tolerance + noise
            }
            _ => a == b,
        }
    }
}

/// The keys of the first in its order, then those that only the second has.
fn keys<'v>(first: &'v Map<String, Value>, second: &'v Map<String, Value>) -> Vec<&'v String> {
    let rest = second.keys().filter(|key| !first.contains_key(*key));
    first.keys().chain(rest).collect()
}

fn way_shown(way: &[String]) -> String {
    std::iter::once("payload").chain(way.iter().map(String::as_str)).collect::<Vec<_>>().join(".")
}

fn shown(value: Option<&Value>) -> Option<String> {
    value.map(|value| shown_text(&value.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(ignore: &[&str], select: &[&str], tolerance: f64) -> Rules {
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Rules::new(&owned(ignore), &owned(select), tolerance)
    }

    fn ways(rules: &Rules, wanted: Value, got: Value) -> Vec<String> {
        rules.differences(&wanted, &got).into_iter().map(|d| d.path).collect()
    }

    #[test]
    fn numbers_are_compared_by_value() {
        let exact = rules(&[], &[], 0.0);
        assert!(ways(&exact, json!(100), json!(100.0)).is_empty());
        assert!(ways(&exact, json!(-0.0), json!(0)).is_empty());
        assert_eq!(ways(&exact, json!(u64::MAX), json!(u64::MAX - 1)), ["payload"]);
        assert_eq!(ways(&exact, json!(i64::MAX), json!(i64::MAX - 1)), ["payload"]);
        let close = rules(&[], &[], 0.1);
        assert!(ways(&close, json!({ "a": [0.2] }), json!({ "a": [0.3] })).is_empty());
        assert_eq!(ways(&close, json!(1), json!(1.2)), ["payload"]);
        assert!(ways(&rules(&[], &[], 1.0), json!(1), json!(2)).is_empty());
        assert_eq!(ways(&close, json!("1"), json!(1)), ["payload"], "text is no number");
    }

    #[test]
    fn every_difference_has_its_way() {
        let wanted = json!({ "a": 1, "b": [1, { "c": true }], "d": null });
        let got = json!({ "a": 2, "b": [1, { "c": false }, 3], "e": {} });
        let all = rules(&[], &[], 0.0);
        let mut found = ways(&all, wanted, got);
        found.sort();
        assert_eq!(found, ["payload.a", "payload.b.1.c", "payload.b.2", "payload.d", "payload.e"]);
    }

    #[test]
    fn what_is_ignored_is_not_compared_and_a_star_is_any() {
        let wanted = json!({ "at": 1, "readings": [{ "at": 1, "v": 1 }, { "at": 2, "v": 2 }] });
        let got = json!({ "readings": [{ "at": 3, "v": 1 }, { "v": 3 }] });
        let some = rules(&["payload.at", "payload.readings.*.at"], &[], 0.0);
        assert_eq!(ways(&some, wanted.clone(), got.clone()), ["payload.readings.1.v"]);
        assert!(ways(&rules(&["payload"], &[], 0.0), wanted, got).is_empty());
    }

    #[test]
    fn only_what_is_selected_is_compared() {
        let wanted = json!({ "a": { "x": 1, "y": 1 }, "b": 1 });
        let got = json!({ "a": { "x": 1, "y": 2 }, "b": 2, "c": 3 });
        assert!(ways(&rules(&[], &["payload.a.x"], 0.0), wanted.clone(), got.clone()).is_empty());
        let two = rules(&[], &["payload.a.y", "payload.*.z"], 0.0);
        assert_eq!(ways(&two, wanted.clone(), got.clone()), ["payload.a.y"]);
        let whole = rules(&["payload.a.y"], &["payload.a"], 0.0);
        assert!(ways(&whole, wanted.clone(), got.clone()).is_empty());
        let missing = rules(&[], &["payload.a.x"], 0.0);
        assert_eq!(ways(&missing, wanted, json!({ "b": 1 })), ["payload.a"]);
        assert!(ways(&missing, json!({ "a": { "y": 1 } }), json!({ "b": 1 })).is_empty());
    }
}
