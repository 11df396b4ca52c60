//! Classes of hosts: limits and devices under a name. `classes.yaml` in the folder of the installation's tenants has them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use millrace_lattice_config::class::Class;

/// The file, in the folder of keys and tenants.
const FILE: &str = "classes.yaml";

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 64 << 10;

/// All classes.
#[derive(Debug)]
pub(crate) struct Classes {
    path: PathBuf,
    all: BTreeMap<String, Class>,
}

impl Classes {
    /// Their file.
    pub(crate) fn file(root: &Path) -> PathBuf {
        root.join(FILE)
    }

    /// Those of the installation with its keys and tenants in this folder.
    pub(crate) fn of(root: &Path) -> anyhow::Result<Self> {
        let path = Self::file(root);
        let all = read(&path)?;
        for (name, class) in &all {
            let wrong = |what| anyhow::anyhow!("{}: class `{name}`: {what}", path.display());
            class.check().map_err(wrong)?;
        }
        Ok(Self { path, all })
    }

    /// The class of this name.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<&Class> {
        self.all.get(name).with_context(|| {
            let there: Vec<&str> = self.all.keys().map(String::as_str).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            format!("there is no class `{name}` in {}, which has {there}", self.path.display())
        })
    }
}

fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Class>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let mut text = String::new();
    file.take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| path.display().to_string())?;
    ensure!(text.len() as u64 <= FILE_MAX, "{} is larger than {FILE_MAX} bytes", path.display());
    serde_saphyr::from_str(&text)
        .with_context(|| format!("{} does not say what classes there are", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(folder: &std::path::Path, name: &str) -> anyhow::Result<Class> {
        Classes::of(folder)?.find(name).cloned()
    }

    #[test]
    fn a_class_is_found_by_its_name_and_what_is_unknown_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(folder.path(), "small").unwrap_err().to_string();
        assert!(error.contains("no class `small`"), "{error}");
        let write = |text: &str| std::fs::write(folder.path().join(FILE), text).unwrap();
        write("small: { max-memory-mib: 64, devices: [/dev/gpiochip0] }\nlarge: {}\n");
        let small = find(folder.path(), "small").unwrap();
        assert_eq!(small.limits(), ["--max-memory-mib=64"]);
        assert_eq!(small.devices, [std::path::Path::new("/dev/gpiochip0")]);
        let error = find(folder.path(), "huge").unwrap_err().to_string();
        assert!(error.contains("has large, small"), "{error}");
        write("small: { memory: 64 }\n");
        let error = format!("{:#}", find(folder.path(), "small").unwrap_err());
        assert!(error.contains("memory"), "{error}");
    }
}
