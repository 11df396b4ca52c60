//! Classes of hosts: limits and devices under a name.

use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};

/// The label that names the class of a host.
pub const LABEL: &str = "class";

/// Most devices of a class.
const MAX_DEVICES: usize = 64;

/// What hosts of a class get. What is left out is as for hosts without a class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Class {
    /// Most memory of one component instance, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mib: Option<u32>,
    /// Longest time of one call into a component, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_call_seconds: Option<u64>,
    /// Most core instances at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_core_instances: Option<u32>,
    /// Devices that providers may use: paths below `/dev`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<PathBuf>,
}

impl Class {
    /// The arguments of a host that stand for the limits.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let limits = [
            self.max_memory_mib.map(|n| format!("--max-memory-mib={n}")),
            self.max_call_seconds.map(|n| format!("--max-call-seconds={n}")),
            self.max_core_instances.map(|n| format!("--max-core-instances={n}")),
        ];
        limits.into_iter().flatten().collect()
    }

    /// Whether all devices are some: files below `/dev`, and not more than 64. The host looks at the limits.
    ///
    /// # Errors
    ///
    /// Names the one that is none.
    pub fn check(&self) -> Result<(), String> {
        if self.devices.len() > MAX_DEVICES {
            return Err(format!("there are more than {MAX_DEVICES} devices"));
        }
        for device in &self.devices {
            let below = device.strip_prefix("/dev").ok().filter(|rest| {
                let mut parts = rest.components().peekable();
                parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
            });
            if below.is_none() {
                return Err(format!("{} is no device: name a file below /dev", device.display()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Class;

    #[test]
    fn only_what_is_below_dev_is_a_device() {
        let check = |path: &str| Class { devices: vec![path.into()], ..Class::default() }.check();
        check("/dev/gpiochip0").unwrap();
        check("/dev/serial/by-id/usb-1").unwrap();
        for path in ["/dev", "/dev/", "/dev/../etc/shadow", "/etc/shadow", "gpiochip0", "/"] {
            assert!(check(path).unwrap_err().contains("below /dev"), "{path}");
        }
    }
}
