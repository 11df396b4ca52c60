//! A chip of gpio-sim: made, pulled at, read, taken away.
//! (Documentation/admin-guide/gpio/gpio-sim.rst of the kernel.)

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const CONFIG: &str = "/sys/kernel/config/gpio-sim";
/// Time for the kernel to notice an edge, generous for an emulated processor.
const EDGE: Duration = Duration::from_millis(10);

const TRACING: &str = "/sys/kernel/tracing";

/// A simulated chip. Gone when it is dropped.
pub(crate) struct Sim {
    config: PathBuf,
    names: Vec<usize>,
    lines: usize,
}

fn put(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn get(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

impl Sim {
    /// A chip of eight lines, with these names from the first on.
    pub(crate) fn start(names: &[&str]) -> Self {
        let sim = Self::prepare("", names);
        sim.live(true);
        sim
    }

    /// A chip with a label.
    pub(crate) fn labelled(label: &str, names: &[&str]) -> Self {
        let sim = Self::prepare(label, names);
        sim.live(true);
        sim
    }

    /// A chip that is not there yet.
    pub(crate) fn prepare(label: &str, names: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            Path::new(CONFIG).exists(),
            "the kernel's gpio-sim is needed: run scripts/gpio-vm test"
        );
        let config = Path::new(CONFIG).join(format!("sim{}", NEXT.fetch_add(1, Relaxed)));
        let bank = config.join("bank0");
        fs::create_dir(&config).unwrap();
        fs::create_dir(&bank).unwrap();
        put(bank.join("num_lines"), "8");
        if !label.is_empty() {
            put(bank.join("label"), label);
        }
        let named: Vec<usize> =
            names.iter().enumerate().filter(|(_, n)| !n.is_empty()).map(|(i, _)| i).collect();
        for place in &named {
            let line = bank.join(format!("line{place}"));
            fs::create_dir(&line).unwrap();
            put(line.join("name"), names[*place]);
        }
        Self { config, names: named, lines: 8 }
    }

    /// Plugs it in or takes it away.
    pub(crate) fn live(&self, live: bool) {
        put(self.config.join("live"), if live { "1" } else { "0" });
    }

    /// Its device: `gpiochip0`.
    pub(crate) fn chip(&self) -> String {
        get(self.config.join("bank0/chip_name"))
    }

    pub(crate) fn device(&self) -> String {
        format!("/dev/{}", self.chip())
    }

    fn line(&self, offset: usize) -> PathBuf {
        assert!(offset < self.lines);
        let device = get(self.config.join("dev_name"));
        Path::new("/sys/devices/platform")
            .join(device)
            .join(self.chip())
            .join(format!("sim_gpio{offset}"))
    }

    /// Pulls a line up or down, as the world outside does. Not too fast: what
    /// comes while the kernel's interrupt thread has not yet run is one edge.
    pub(crate) fn pull(&self, offset: usize, up: bool) {
        put(self.pull_file(offset), pull(up));
        std::thread::sleep(EDGE);
    }

    /// Where a line is pulled, see [`pull`].
    pub(crate) fn pull_file(&self, offset: usize) -> PathBuf {
        self.line(offset).join("pull")
    }

    /// The voltage of a line.
    pub(crate) fn value(&self, offset: usize) -> bool {
        get(self.value_file(offset)) == "1"
    }

    /// Where the voltage of a line is read.
    pub(crate) fn value_file(&self, offset: usize) -> PathBuf {
        self.line(offset).join("value")
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = fs::write(self.config.join("live"), "0");
        let bank = self.config.join("bank0");
        for place in &self.names {
            let _ = fs::remove_dir(bank.join(format!("line{place}")));
        }
        let _ = fs::remove_dir(bank);
        let _ = fs::remove_dir(&self.config);
    }
}

/// The word for a pull.
pub(crate) fn pull(up: bool) -> &'static str {
    if up { "pull-up" } else { "pull-down" }
}

/// What the kernel does to lines, as it writes it down itself. After a line is
/// let go its level says nothing any more: gpio-sim sets it to its pull.
pub(crate) struct Trace;

impl Trace {
    pub(crate) fn start() -> Self {
        put(format!("{TRACING}/trace"), "");
        put(format!("{TRACING}/events/gpio/enable"), "1");
        Self
    }

    /// The levels set since the start, whichever the line.
    pub(crate) fn set(&self) -> Vec<bool> {
        let trace = get(format!("{TRACING}/trace"));
        let set = trace.lines().filter_map(|line| {
            line.split_once("gpio_value: ").and_then(|(_, rest)| rest.split_once(" set "))
        });
        set.map(|(_, level)| level.trim() == "1").collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(format!("{TRACING}/events/gpio/enable"), "0");
    }
}
