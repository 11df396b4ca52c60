//! The contract of a connector, on a simulated chip.
//!
//! Outside is a state of two: one line is pulled for the source, another is
//! driven by the sink.

use std::sync::Arc;

use anyhow::Result;
use millrace_conformance::{Abilities, Ability, Flat, Note, Outside, Peer, Role, Seen, Window};
use millrace_gpio::{GpioSink, GpioSource};
use millrace_kit::telemetry::now_ns;
use millrace_kit::{DeadLetters, Limits, Link, Sink, Source};
use millrace_settings::{FieldError, from_flat};

use crate::sim::{Sim, Trace};

struct Chip {
    sim: Sim,
    trace: Option<Trace>,
}

impl Peer for Chip {
    const CONNECTOR: &'static str = "gpio";

    fn abilities(&self) -> Abilities {
        let no_network = Ability::No("a GPIO line is not reached over a network");
        Abilities {
            source: Ability::Yes,
            sink: Ability::Yes,
            outside: Outside::State { distinct: 2 },
            headers: Ability::No("a GPIO line has a level and nothing else"),
            large: Ability::No("a GPIO line has a level and nothing else"),
            tls: no_network,
            mutual_tls: no_network,
            login: no_network,
            impossible: Ability::Yes,
            leaves: Ability::Yes,
        }
    }

    async fn fresh(&mut self) -> Result<()> {
        self.sim = Sim::start(&["IN", "OUT"]);
        // The old one ends before the new one begins.
        self.trace = None;
        self.trace = Some(Trace::start());
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        self.sim.live(true);
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        self.sim.live(false);
        Ok(())
    }

    fn address(&self) -> String {
        // While the chip is away nothing says more of where it was looked for.
        "GPIO chip".to_owned()
    }

    fn config(&self, role: Role) -> Flat {
        let flat: &[(&str, &str)] = match role {
            Role::Source => &[
                ("lines", r#"{"in":{"line":"IN"}}"#),
                ("initial", "true"),
                ("interval", "50ms"),
                ("window", "100"),
            ],
            Role::Sink => &[("lines", r#"{"out":{"line":"OUT"}}"#)],
        };
        flat.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn source(
        &self,
        config: &Flat,
        limits: Limits,
        _: &Arc<Link>,
    ) -> Result<Box<dyn Source>, FieldError> {
        Ok(Box::new(GpioSource::new(from_flat(config, &[])?, limits)))
    }

    fn sink(
        &self,
        config: &Flat,
        link: &Arc<Link>,
        dead: &Arc<dyn DeadLetters>,
    ) -> Result<Arc<dyn Sink>, FieldError> {
        let settings = from_flat(config, &[])?;
        Ok(GpioSink::open(settings, link.clone(), dead.clone()).unwrap())
    }

    async fn produce(&mut self, notes: &[Note]) -> Result<()> {
        for note in notes {
            self.sim.pull(0, note.number % 2 == 1);
        }
        Ok(())
    }

    async fn collect(&mut self) -> Result<Vec<Note>> {
        if gpiocdev::Chip::from_path(self.sim.device())?.line_info(1)?.used {
            return Ok(vec![Note::new(u64::from(self.sim.value(1)))]);
        }
        // A sink that has ended has set the line safe and let it go. What was
        // written before that the kernel has noted.
        let set = self.trace.as_ref().map(Trace::set).unwrap_or_default();
        let written = set.split_last().and_then(|(safe, before)| {
            assert!(!safe, "safe is the last that was set");
            before.last()
        });
        Ok(written.map(|level| Note::new(u64::from(*level))).into_iter().collect())
    }

    fn number(&self, seen: &Seen) -> Option<u64> {
        let report: serde_json::Value = serde_json::from_slice(&seen.payload).ok()?;
        report["level"].as_u64()
    }

    fn message(&self, note: &Note) -> Seen {
        Seen {
            timestamp: now_ns(),
            topic: "out".to_owned(),
            payload: (note.number % 2).to_string().into_bytes(),
            ..Seen::default()
        }
    }

    fn window(&self) -> Window {
        Window { messages: 100 + 64, bytes: 64 << 20 }
    }

    fn impossible(&self) -> Option<(Flat, Seen)> {
        let other = Seen { topic: "not-granted".to_owned(), ..self.message(&Note::new(1)) };
        Some((self.config(Role::Sink), other))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs gpio-sim: scripts/gpio-vm test"]
async fn gpio_keeps_the_contract() {
    let mut chip = Chip { sim: Sim::start(&["IN", "OUT"]), trace: None };
    millrace_conformance::all(&mut chip).await.unwrap();
}
