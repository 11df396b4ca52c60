//! Classes of hosts: limits and devices under a name.

use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};

/// The label that names the class of a host.
pub const LABEL: &str = "class";

/// Most devices of a class.
const MAX_DEVICES: usize = 64;

/// A host with wadm and the providers of a pipeline holds less than half as much before it has done anything, in MiB.
pub const MIN_HOST_MEMORY_MIB: u32 = 64;

/// Largest `nice` that there is.
const MAX_NICE: u8 = 19;

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
    /// Most memory of the host and all that it has started, in MiB, at least [`MIN_HOST_MEMORY_MIB`]: beyond it, it is ended
    /// and started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_host_memory_mib: Option<u32>,
    /// How much it leaves the processors to others: 0 to 19, the more the higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<u8>,
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
            self.nice.map(|n| format!("--nice={n}")),
        ];
        limits.into_iter().flatten().collect()
    }

    /// Whether all devices are some: files below `/dev`, and not more than 64; and the limits of a whole host. At those of
    /// components the host looks itself.
    ///
    /// # Errors
    ///
    /// Names what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if let Some(mib) = self.max_host_memory_mib.filter(|mib| *mib < MIN_HOST_MEMORY_MIB) {
            return Err(format!(
                "max-host-memory-mib is {mib}, and no host runs with less than {MIN_HOST_MEMORY_MIB}"
            ));
        }
        if let Some(nice) = self.nice.filter(|nice| *nice > MAX_NICE) {
            return Err(format!("nice is {nice}, and it is at most {MAX_NICE}"));
        }
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
    fn the_limits_of_a_whole_host_are_looked_at() {
        let class =
            |max_host_memory_mib, nice| Class { max_host_memory_mib, nice, ..Class::default() };
        class(Some(64), Some(19)).check().unwrap();
        assert!(class(Some(63), None).check().unwrap_err().contains("max-host-memory-mib is 63"));
        assert!(class(None, Some(20)).check().unwrap_err().contains("at most 19"));
        assert_eq!(class(Some(500), Some(5)).limits(), ["--nice=5"]);
    }

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
