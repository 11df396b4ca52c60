//! What the pipeline says about this step, from wasi:config. Read once a batch: the values live for a call.

use crate::bindings::wasi::config::store;

/// Greatest body in bytes unless `max-body-bytes` says otherwise; as in the outlet.
const MAX_BODY: usize = 960 * 1024;

/// Configuration of the stage, seen from one step.
pub struct Settings {
    values: Vec<(String, String)>,
    /// What the names of the step's own values begin with.
    prefix: String,
}

impl Settings {
    /// Reads the configuration.
    pub fn read(position: u32) -> Result<Self, String> {
        let values = store::get_all().map_err(|error| match error {
            store::Error::Upstream(text) | store::Error::Io(text) => format!("config: {text}"),
        })?;
        let settings = Self { values, prefix: format!("step.{position}.") };
        for key in ["pipeline", "stage"] {
            settings.find(key).ok_or_else(|| format!("config: `{key}` is not set"))?;
        }
        settings.need("name")?;
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
        self.own("name").unwrap_or_default()
    }

    /// The arms of the step, where it has any.
    #[allow(dead_code, reason = "only some kinds have arms")]
    pub fn arms(&self) -> impl Iterator<Item = &str> {
        let arms = self.own("arms").unwrap_or_default().split(',');
        arms.filter(|arm| !arm.is_empty())
    }

    /// The windows of a step with state.
    #[cfg(feature = "accumulate")]
    pub fn window(&self) -> Result<millrace_window::Window, String> {
        let wrong = |name, error: &dyn std::fmt::Display| {
            format!("config: `{}{name}`: {error}", self.prefix)
        };
        let window: millrace_window::Window =
            self.need("window")?.parse().map_err(|error| wrong("window", &error))?;
        let lateness = self.own("lateness").unwrap_or("0");
        let lateness = lateness.parse().map_err(|_| {
            wrong("lateness", &format!("`{lateness}` is not a number of nanoseconds"))
        })?;
        Ok(millrace_window::Window { lateness, ..window })
    }

    /// A setting of a step that needs no customer.
    #[cfg(any(feature = "keyed", feature = "enrich"))]
    pub fn value<T: std::str::FromStr>(&self, name: &str) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.need(name)?;
        text.parse()
            .map_err(|error| format!("config: `{}{name}` is `{text}`: {error}", self.prefix))
    }

    /// The step's own values, in a fixed order, because the host's order changes from call to call.
    #[cfg(not(any(feature = "keyed", feature = "enrich")))]
    pub fn configuration(&self) -> Vec<(&str, &str)> {
        let own = self.values.iter();
        let own = own.filter_map(|(key, value)| {
            Some((key.strip_prefix(&self.prefix)?.strip_prefix("config.")?, value.as_str()))
        });
        let mut found: Vec<(&str, &str)> = own.collect();
        found.sort_unstable();
        found
    }

    /// Greatest body of a publish, in bytes.
    pub fn max_body(&self) -> usize {
        self.find("max-body-bytes").and_then(|value| value.parse().ok()).unwrap_or(MAX_BODY)
    }

    fn need(&self, name: &str) -> Result<&str, String> {
        self.own(name).ok_or_else(|| format!("config: `{}{name}` is not set", self.prefix))
    }

    fn own(&self, name: &str) -> Option<&str> {
        let own = |key: &String| key.strip_prefix(&self.prefix) == Some(name);
        self.values.iter().find(|(key, _)| own(key)).map(|(_, value)| value.as_str())
    }

    fn find(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}
