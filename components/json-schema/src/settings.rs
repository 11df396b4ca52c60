//! What the pipeline says about the step.

use crate::schema::Schema;

/// What becomes of a message that the schema does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInvalid {
    Reject,
    Drop,
}

#[derive(Debug)]
pub struct Settings {
    pub schema: Schema,
    pub on_invalid: OnInvalid,
}

impl Settings {
    pub fn filter(configuration: Vec<(String, String)>) -> Result<Self, String> {
        Self::read(configuration, true)
    }

    /// A branch has an arm for what is not allowed.
    pub fn branch(configuration: Vec<(String, String)>) -> Result<Self, String> {
        Self::read(configuration, false)
    }

    fn read(configuration: Vec<(String, String)>, filter: bool) -> Result<Self, String> {
        let (mut schema, mut on_invalid) = (None, OnInvalid::Reject);
        for (name, value) in configuration {
            match (name.as_str(), value.as_str()) {
                ("schema", text) => schema = Some(Schema::new(text)?),
                ("on-invalid", _) if !filter => {
                    return Err("`on-invalid` is of a filter; a branch has the arm `invalid`".into())
                }
                ("on-invalid", "reject") => on_invalid = OnInvalid::Reject,
                ("on-invalid", "drop") => on_invalid = OnInvalid::Drop,
                ("on-invalid", other) => {
                    return Err(format!("`on-invalid` is `reject` or `drop`, and not `{other}`"))
                }
                (other, _) => return Err(format!("no such setting: `{other}`")),
            }
        }
        let schema = schema.ok_or("`schema` is not set: it is a JSON Schema, as JSON text")?;
        Ok(Self { schema, on_invalid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_configuration() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        for (settings, expected) in [
            (&[][..], "`schema` is not set"),
            (&[("shema", "{}")], "no such setting: `shema`"),
            (
                &[("schema", "{}"), ("on-invalid", "ignore")],
                "`on-invalid` is `reject` or `drop`, and not",
            ),
            (&[("schema", "{")], "`schema` is not JSON: EOF"),
        ] {
            let error = Settings::filter(pairs(settings)).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
        let error = Settings::branch(pairs(&[("schema", "{}"), ("on-invalid", "drop")]));
        assert!(error.expect_err("no filter").contains("the arm `invalid`"));
    }
}
