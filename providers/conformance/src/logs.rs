//! What the process logs, kept while a check asks for it.
//!
//! A password in a log line is a password in the logs of a plant for years.
//! Whether there is one can only be told by reading every line, at every level,
//! of every crate.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;
use tracing_subscriber::filter::{EnvFilter, dynamic_filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Most bytes kept.
const MOST: usize = 64 << 20;

static RECORDING: AtomicBool = AtomicBool::new(false);
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Keep;

impl Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut lines = LINES.lock();
        if lines.len() < MOST {
            lines.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Prints what `RUST_LOG` asks for, and keeps everything while recording. A
/// test that has set up logging itself is left alone, and then
/// [`record`] says that nothing can be heard.
pub(crate) fn install() {
    let keep = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(|| Keep)
        .with_filter(dynamic_filter_fn(|_, _| RECORDING.load(SeqCst)));
    let print = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(EnvFilter::from_default_env());
    let _ = tracing_subscriber::registry().with(keep).with(print).try_init();
}

/// One that records: suites may run beside one another in one process.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits until nobody else records, until it is dropped.
pub(crate) async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    ONE.lock().await
}

/// Keeps every line from now on. False when nothing is heard.
pub(crate) fn record() -> bool {
    LINES.lock().clear();
    RECORDING.store(true, SeqCst);
    tracing::trace!("the conformance suite listens");
    let heard = !LINES.lock().is_empty();
    LINES.lock().clear();
    heard
}

/// What was logged since [`record`].
pub(crate) fn recorded() -> String {
    RECORDING.store(false, SeqCst);
    String::from_utf8_lossy(&std::mem::take(&mut *LINES.lock())).into_owned()
}
