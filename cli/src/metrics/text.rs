//! The metrics, and their form: Prometheus' text format.
//!
//! Every series of a counter belongs to one link of one provider on one host, and begins with nothing whenever that
//! begins anew, which is what Prometheus takes a falling counter for.

use std::collections::BTreeMap;

use anyhow::Context as _;
use millrace_kit::status::{Direction, LinkStatus, State};
use millrace_kit::telemetry::BOUNDS_US;
use millrace_kit::{Counters, ErrorKind, Histogram, ProviderStatus, Queue};
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::look::Seen;

/// What the text is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The provider whose sources are durable edges.
const CONDUIT: &str = "conduit";

/// The metrics of a lattice as text.
pub(crate) fn encode(lattice: &str, seen: &Seen) -> anyhow::Result<String> {
    let families: Vec<MetricFamily> =
        families(lattice, seen).into_iter().filter(|f| !f.get_metric().is_empty()).collect();
    prometheus::TextEncoder::new()
        .encode_to_string(&families)
        .context("the metrics cannot be written down")
}

/// What is read of a link.
type OfLink = (&'static str, MetricType, &'static str, fn(&LinkStatus) -> f64);

const LINKS: &[OfLink] = &[
    (
        "millrace_link_up",
        MetricType::GAUGE,
        "Whether the link is connected (1) or connecting, retrying, draining or failed (0).",
        |link| f64::from(u8::from(link.state == State::Connected)),
    ),
    (
        "millrace_link_received_messages_total",
        MetricType::COUNTER,
        "Messages that came in at this link.",
        |link| number(link.counters.messages_in),
    ),
    (
        "millrace_link_received_bytes_total",
        MetricType::COUNTER,
        "Bytes that came in at this link: of payloads, or of packed batches.",
        |link| number(link.counters.bytes_in),
    ),
    (
        "millrace_link_sent_messages_total",
        MetricType::COUNTER,
        "Messages that went out of this link and are safe.",
        |link| number(link.counters.messages_out),
    ),
    (
        "millrace_link_sent_bytes_total",
        MetricType::COUNTER,
        "Bytes of the batches that went out of this link and are safe.",
        |link| number(link.counters.bytes_out),
    ),
    (
        "millrace_link_sent_batches_total",
        MetricType::COUNTER,
        "Batches that went out of this link and are safe.",
        |link| number(link.counters.batches_out),
    ),
    (
        "millrace_link_dead_letters_total",
        MetricType::COUNTER,
        "Messages that this link wrote to the dead letters.",
        |link| number(link.counters.dead_letters),
    ),
    (
        "millrace_link_duplicate_batches_total",
        MetricType::COUNTER,
        "Batches that the other side had already and dropped.",
        |link| number(link.counters.duplicates),
    ),
    (
        "millrace_link_dropped_messages_total",
        MetricType::COUNTER,
        "Messages that could not be carried and that the protocol allows to lose.",
        |link| number(link.counters.dropped),
    ),
    (
        "millrace_link_reconnects_total",
        MetricType::COUNTER,
        "Connections made again after a loss.",
        |link| number(link.counters.reconnects),
    ),
    (
        "millrace_link_in_flight",
        MetricType::GAUGE,
        "Calls or publishes that are not answered yet.",
        |link| number(link.counters.in_flight),
    ),
    (
        "millrace_link_last_acknowledgement_seconds",
        MetricType::GAUGE,
        "Time from arrival to acknowledgement, of the last batch.",
        |link| seconds(link.counters.lag_last_us, 1e6),
    ),
    (
        "millrace_link_max_acknowledgement_seconds",
        MetricType::GAUGE,
        "Time from arrival to acknowledgement, the longest since the link was made.",
        |link| seconds(link.counters.lag_max_us, 1e6),
    ),
];

/// What is read of an edge's queue.
type OfQueue = (&'static str, &'static str, fn(&Queue) -> f64);

const QUEUES: &[OfQueue] = &[
    ("millrace_edge_queue_batches", "Batches that wait on the edge, in work included.", |queue| {
        number(queue.batches)
    }),
    ("millrace_edge_queue_bytes", "Bytes that wait on the edge, in work included.", |queue| {
        number(queue.bytes)
    }),
    (
        "millrace_edge_queue_limit_bytes",
        "Most bytes that can wait on the edge: its max-bytes.",
        |queue| number(queue.max_bytes),
    ),
    (
        "millrace_edge_queue_oldest_age_seconds",
        "How long the oldest batch has waited on the edge; 0 when none waits.",
        |queue| seconds(queue.oldest_ms, 1e3),
    ),
    (
        "millrace_edge_spilled_batches",
        "Batches that wait in the edge's spill, which the queue does not count.",
        |queue| number(queue.spilled_batches),
    ),
    ("millrace_edge_spilled_bytes", "Bytes that wait in the edge's spill.", |queue| {
        number(queue.spilled_bytes)
    }),
];

/// A double has 53 bits: what is counted here stays below that for centuries.
fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(value: u64, a_second: f64) -> f64 {
    value as f64 / a_second
}

fn families(lattice: &str, seen: &Seen) -> Vec<MetricFamily> {
    let links = links(&seen.providers);
    let mut families = of_lattice(lattice, seen);
    families.extend(of_providers(lattice, &seen.providers));
    for (name, kind, help, read) in LINKS {
        let series = links.iter().map(|(key, link)| (key.labels(lattice), read(link)));
        families.push(family(name, *kind, help, series));
    }
    let acknowledged = links.iter().map(|(key, link)| (key, &link.counters.acknowledged));
    families.push(histogram(
        "millrace_link_acknowledgement_seconds",
        "Times from arrival to acknowledgement, of batches.",
        lattice,
        acknowledged,
    ));
    let sources = links.iter().filter(|(_, link)| link.direction == Direction::Source);
    families.push(histogram(
        "millrace_link_call_seconds",
        "Times of calls of the stage by this link, whatever came of them.",
        lattice,
        sources.map(|(key, link)| (key, &link.counters.calls)),
    ));
    let errors = links.iter().flat_map(|(key, link)| {
        // All kinds, also those without errors: of a counter that appears the first step is not seen.
        ErrorKind::ALL.into_iter().map(|kind| {
            let mut labels = key.labels(lattice);
            labels.push(("kind", kind.name()));
            (labels, number(link.counters.errors.get(kind.name()).copied().unwrap_or(0)))
        })
    });
    let help = "Errors of this link, by kind.";
    families.push(family("millrace_link_errors_total", MetricType::COUNTER, help, errors));
    let uses = links.iter().flat_map(|(key, link)| {
        link.counters.uses.iter().flat_map(|(step, uses)| {
            let outcomes =
                [("done", uses.done), ("refused", uses.refused), ("failed", uses.failed)];
            outcomes.map(|(outcome, count)| {
                let labels = vec![
                    ("lattice", lattice),
                    ("pipeline", key.pipeline),
                    ("stage", key.stage),
                    ("step", step.as_str()),
                    ("host", key.host),
                    ("outcome", outcome),
                ];
                (labels, number(count))
            })
        })
    });
    let help = "Requests of a step for what lies outside (key-value, HTTP): answered (done), not granted (refused), or granted \
        and not answered (failed).";
    families.push(family("millrace_step_requests_total", MetricType::COUNTER, help, uses));
    let last = links.iter().filter_map(|(key, link)| {
        let error = link.counters.last_error.as_ref()?;
        Some((key.labels(lattice), seconds(error.at_ms, 1e3)))
    });
    let help = "When this link had its last error, in seconds since the Unix epoch.";
    families.push(family(
        "millrace_link_last_error_timestamp_seconds",
        MetricType::GAUGE,
        help,
        last,
    ));
    families.extend(of_edges(lattice, &links));
    families
}

fn of_lattice(lattice: &str, seen: &Seen) -> Vec<MetricFamily> {
    let of = |name, help, value: usize| {
        let series = [(vec![("lattice", lattice)], number(value as u64))];
        family(name, MetricType::GAUGE, help, series)
    };
    vec![
        of(
            "millrace_up",
            "Whether a host of the lattice answered (1). With 0 nothing else is known.",
            usize::from(seen.hosts > 0),
        ),
        of("millrace_hosts", "Hosts of the lattice that answered.", seen.hosts),
    ]
}

fn of_providers(lattice: &str, providers: &[ProviderStatus]) -> Vec<MetricFamily> {
    // One answer a pipeline, and the same provider in all of them.
    let distinct: BTreeMap<_, u64> = providers
        .iter()
        .map(|p| ((p.provider.as_str(), p.host.as_str(), p.version.as_str()), p.uptime_s))
        .collect();
    let series = distinct.into_iter().map(|((provider, host, version), uptime)| {
        let labels =
            [("lattice", lattice), ("provider", provider), ("host", host), ("version", version)];
        (labels.to_vec(), number(uptime))
    });
    let help = "Time since the provider was started.";
    vec![family("millrace_provider_uptime_seconds", MetricType::GAUGE, help, series)]
}

fn of_edges(lattice: &str, links: &BTreeMap<Key<'_>, LinkStatus>) -> Vec<MetricFamily> {
    let edges =
        || links.iter().filter(|(key, _)| key.connector == CONDUIT && key.direction == "source");
    // Two providers can see the same edge for a moment: when one takes over from another.
    let mut queues: BTreeMap<(&str, &str), Queue> = BTreeMap::new();
    for (key, link) in edges() {
        let Some(queue) = link.counters.queue else { continue };
        let seen = queues.entry((key.pipeline, key.link)).or_insert(queue);
        if queue.bytes > seen.bytes {
            *seen = queue;
        }
    }
    let labels =
        |pipeline, edge| vec![("lattice", lattice), ("pipeline", pipeline), ("edge", edge)];
    let mut families = Vec::new();
    for (name, help, read) in QUEUES {
        let series = queues.iter().map(|((pipeline, edge), q)| (labels(pipeline, edge), read(q)));
        families.push(family(name, MetricType::GAUGE, help, series));
    }
    let windows = edges().filter_map(|(key, link)| {
        let mut labels = labels(key.pipeline, key.link);
        labels.push(("host", key.host));
        Some((labels, number(link.counters.window?)))
    });
    families.push(family(
        "millrace_edge_window_batches",
        MetricType::GAUGE,
        "Most batches that the edge hands on at the same time, now.",
        windows,
    ));
    let counted = |name, help, read: fn(&Counters) -> u64| {
        let series = edges().map(|(key, link)| {
            let mut labels = labels(key.pipeline, key.link);
            labels.push(("host", key.host));
            (labels, number(read(&link.counters)))
        });
        family(name, MetricType::COUNTER, help, series)
    };
    families.push(counted(
        "millrace_edge_dropped_batches_total",
        "Batches that the edge dropped because its settings say so: the oldest, or those above its age.",
        |counters| counters.dropped_batches,
    ));
    families
}

/// What tells one link from another.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    pipeline: &'a str,
    connector: &'a str,
    direction: &'static str,
    stage: &'a str,
    link: &'a str,
    host: &'a str,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl<'a> Key<'a> {
    fn new(provider: &'a ProviderStatus, link: &'a LinkStatus) -> Self {
        Self {
            pipeline: &provider.pipeline,
            connector: &provider.provider,
            direction: match link.direction {
                Direction::Source => "source",
                Direction::Sink => "sink",
            },
            stage: &link.stage,
            link: &link.name,
            host: &provider.host,
        }
    }

    fn labels(&self, lattice: &'a str) -> Labels<'a> {
        vec![
            ("lattice", lattice),
            ("pipeline", self.pipeline),
            ("connector", self.connector),
            ("direction", self.direction),
            ("stage", self.stage),
            ("link", self.link),
            ("host", self.host),
        ]
    }
}

/// Every link once. One that is being drained while its successor works has the same name, and gives way to it: a text
/// with the same series twice is refused as a whole.
fn links(providers: &[ProviderStatus]) -> BTreeMap<Key<'_>, LinkStatus> {
    let mut links: BTreeMap<Key<'_>, LinkStatus> = BTreeMap::new();
    for provider in providers {
        for link in &provider.links {
            let known = links.entry(Key::new(provider, link)).or_insert_with(|| link.clone());
            if known.state == State::Draining {
                known.clone_from(link);
            }
        }
    }
    links
}

/// A family of histograms, with the same classes as they are counted in.
fn histogram<'a>(
    name: &str,
    help: &str,
    lattice: &'a str,
    series: impl Iterator<Item = (&'a Key<'a>, &'a Histogram)>,
) -> MetricFamily {
    let metrics = series.map(|(key, times)| {
        let mut metric = Metric::from_label(pairs(key.labels(lattice)));
        let mut sum = 0_u64;
        let buckets = BOUNDS_US.iter().enumerate().map(|(class, bound)| {
            sum = sum.saturating_add(times.counts.get(class).copied().unwrap_or(0));
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(*bound, 1e6));
            bucket.set_cumulative_count(sum);
            bucket
        });
        let mut whole = prometheus::proto::Histogram::default();
        whole.set_bucket(buckets.collect());
        whole.set_sample_sum(seconds(times.sum_us, 1e6));
        whole.set_sample_count(times.count());
        metric.set_histogram(whole);
        metric
    });
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(metrics.collect());
    family
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    let pairs = labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    pairs.collect()
}

fn family<'a>(
    name: &str,
    kind: MetricType,
    help: &str,
    series: impl IntoIterator<Item = (Labels<'a>, f64)>,
) -> MetricFamily {
    let metrics = series.into_iter().map(|(labels, value)| {
        let mut metric = Metric::from_label(pairs(labels));
        match kind {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        metric
    });
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.collect());
    family
}

#[cfg(test)]
mod tests {
    use millrace_kit::Uses;

    use super::*;

    fn provider(links: Vec<LinkStatus>) -> ProviderStatus {
        ProviderStatus {
            provider: CONDUIT.to_owned(),
            id: "millrace_conduit-provider".to_owned(),
            host: "N1".to_owned(),
            pipeline: "p".to_owned(),
            version: "0.1.0".to_owned(),
            uptime_s: 7,
            links,
        }
    }

    fn link(state: State, messages_in: u64) -> LinkStatus {
        LinkStatus {
            name: "a.b".to_owned(),
            direction: Direction::Source,
            stage: "b".to_owned(),
            state,
            error: None,
            counters: Counters { messages_in, ..Counters::default() },
        }
    }

    fn lines(seen: &Seen, name: &str) -> Vec<String> {
        let text = encode("hall \"3\"\n", seen).unwrap();
        text.lines().filter(|l| l.starts_with(&format!("{name}{{"))).map(str::to_owned).collect()
    }

    #[test]
    fn a_lattice_that_is_away_is_said() {
        let text = encode("hall", &Seen::default()).unwrap();
        assert!(text.contains("millrace_up{lattice=\"hall\"} 0\n"), "{text}");
        assert!(!text.contains("millrace_link"), "{text}");
    }

    #[test]
    fn a_link_that_gives_way_to_another_is_there_once() {
        for states in [[State::Draining, State::Connected], [State::Connected, State::Draining]] {
            let links = states.map(|s| link(s, if s == State::Connected { 2 } else { 900 }));
            let seen = Seen { hosts: 1, providers: vec![provider(links.to_vec())] };
            let lines = lines(&seen, "millrace_link_received_messages_total");
            assert_eq!(
                lines,
                [
                    "millrace_link_received_messages_total{lattice=\"hall \\\"3\\\"\\n\",pipeline=\"p\",\
                  connector=\"conduit\",direction=\"source\",stage=\"b\",link=\"a.b\",host=\"N1\"} 2"
                ]
            );
        }
    }

    #[test]
    fn times_are_counted_in_classes_that_each_have_those_before_them() {
        let mut slow = link(State::Connected, 1);
        let mut counts = vec![0; BOUNDS_US.len() + 1];
        (counts[0], counts[3], counts[16]) = (5, 2, 1);
        slow.counters.calls = Histogram { counts, sum_us: 61_000_000 };
        let seen = Seen { hosts: 1, providers: vec![provider(vec![slow])] };
        let lines = lines(&seen, "millrace_link_call_seconds_bucket");
        assert_eq!(lines.len(), BOUNDS_US.len() + 1);
        for (bound, count) in
            [("0.0005", "5"), ("0.0025", "5"), ("0.005", "7"), ("60", "7"), ("+Inf", "8")]
        {
            let line = lines.iter().find(|l| l.contains(&format!("le=\"{bound}\""))).unwrap();
            assert!(line.ends_with(&format!(" {count}")), "{line}");
        }
        let text = encode("hall", &seen).unwrap();
        assert!(text.contains("# TYPE millrace_link_call_seconds histogram\n"), "{text}");
        let of = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(of("millrace_link_call_seconds_sum").ends_with(" 61"));
        assert!(of("millrace_link_call_seconds_count").ends_with(" 8"));
    }

    #[test]
    fn requests_of_a_step_are_counted_by_what_became_of_them() {
        let mut asking = link(State::Connected, 1);
        asking.direction = Direction::Sink;
        let uses = Uses { done: 5, refused: 2, ..Uses::default() };
        asking.counters.uses.insert("ask".to_owned(), uses);
        let seen = Seen { hosts: 1, providers: vec![provider(vec![asking])] };
        let lines = lines(&seen, "millrace_step_requests_total");
        let of =
            |outcome: &str| lines.iter().find(|l| l.contains(&format!("outcome=\"{outcome}\"")));
        for (outcome, count) in [("done", "5"), ("refused", "2"), ("failed", "0")] {
            let line = of(outcome).unwrap();
            assert!(
                line.contains("step=\"ask\"") && line.ends_with(&format!(" {count}")),
                "{line}"
            );
        }
    }

    #[test]
    fn an_edge_that_two_hosts_see_has_one_queue_and_two_counters() {
        let mut fuller = link(State::Connected, 1);
        let queue = |bytes| {
            Some(Queue {
                batches: bytes,
                bytes,
                max_bytes: 100,
                oldest_ms: 1500,
                spilled_bytes: 7,
                ..Queue::default()
            })
        };
        fuller.counters.queue = queue(10);
        fuller.counters.window = Some(4);
        let mut other = fuller.clone();
        other.counters.queue = queue(5);
        let second = ProviderStatus { host: "N2".to_owned(), ..provider(vec![other]) };
        let seen = Seen { hosts: 2, providers: vec![provider(vec![fuller]), second] };
        assert_eq!(lines(&seen, "millrace_edge_queue_bytes").len(), 1);
        assert!(lines(&seen, "millrace_edge_queue_bytes")[0].ends_with(" 10"));
        assert!(lines(&seen, "millrace_edge_queue_oldest_age_seconds")[0].ends_with(" 1.5"));
        assert!(lines(&seen, "millrace_edge_spilled_bytes")[0].ends_with(" 7"));
        assert_eq!(lines(&seen, "millrace_edge_window_batches").len(), 2);
        assert_eq!(lines(&seen, "millrace_edge_dropped_batches_total").len(), 2);
        assert_eq!(lines(&seen, "millrace_provider_uptime_seconds").len(), 2);
    }
}
