//! What the pipeline says about this step, from wasi:config. Read once a batch: the values live for a call.

use crate::bindings::wasi::config::store;

/// Greatest body in bytes unless `max-body-bytes` says otherwise; as in the outlet.
const MAX_BODY: usize = 960 * 1024;

/// Configuration of the stage, seen from one step.
pub struct Settings {
    values: Vec<(String, String)>,
    name_key: String,
    arms_key: String,
    config_prefix: String,
}

impl Settings {
    /// Reads the configuration.
    pub fn read(position: u32) -> Result<Self, String> {
        let values = store::get_all().map_err(|error| match error {
            store::Error::Upstream(text) | store::Error::Io(text) => format!("config: {text}"),
        })?;
        let settings = Self {
            values,
            name_key: format!("step.{position}.name"),
            arms_key: format!("step.{position}.arms"),
            config_prefix: format!("step.{position}.config."),
        };
        for key in ["pipeline", "stage", &settings.name_key] {
            settings.find(key).ok_or_else(|| format!("config: `{key}` is not set"))?;
        }
        Ok(settings)
    }

    /// Name of the pipeline.
    pub fn pipeline(&self) -> &str {
        self.find("pipeline").unwrap_or_default()
    }

    /// Name of the stage.
    pub fn stage(&self) -> &str {
        self.find("stage").unwrap_or_default()
    }

    /// Name of the step.
    pub fn step(&self) -> &str {
        self.find(&self.name_key).unwrap_or_default()
    }

    /// The arms of the step, where it is a branch.
    #[allow(dead_code, reason = "only a branch has arms")]
    pub fn arms(&self) -> impl Iterator<Item = &str> {
        let arms = self.find(&self.arms_key).unwrap_or_default().split(',');
        arms.filter(|arm| !arm.is_empty())
    }

    /// The step's own values, in a fixed order, because the host's order changes from call to call.
    pub fn configuration(&self) -> Vec<(&str, &str)> {
        let own = self.values.iter();
        let own = own.filter_map(|(key, value)| {
            Some((key.strip_prefix(&self.config_prefix)?, value.as_str()))
        });
        let mut found: Vec<(&str, &str)> = own.collect();
        found.sort_unstable();
        found
    }

    /// Greatest body of a publish, in bytes.
    pub fn max_body(&self) -> usize {
        self.find("max-body-bytes").and_then(|value| value.parse().ok()).unwrap_or(MAX_BODY)
    }

    fn find(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}
