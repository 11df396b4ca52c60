//! Edges that put into a second stream what they have no room for.

use millrace_conduit::spill_elsewhere;
use millrace_settings::edge::WhenFull;

use super::*;

/// Payload of a message. A batch has ten: the edge has room for about ten.
const PAYLOAD: usize = 10_000;

const KEYS: u64 = 10;

fn spilling(spill: &str, domain: Option<&str>) -> EdgeSettings {
    EdgeSettings {
        max_bytes: "1MiB".parse().unwrap(),
        when_full: WhenFull::Spill,
        spill_bytes: Some(spill.parse().unwrap()),
        spill_domain: domain.map(str::to_owned),
        ..EdgeSettings::default()
    }
}

/// One message of each key, all numbered `number`.
fn keyed(number: u64) -> Bytes {
    let mut writer = BatchWriter::new([("id", format!("k{number}").as_str())]).unwrap();
    let payload = vec![b'x'; PAYLOAD];
    for key in 0..KEYS {
        let key = format!("key-{key}");
        let fields = Fields {
            timestamp: number,
            topic: "t",
            key: Some(key.as_bytes()),
            payload: &payload,
            ..Fields::default()
        };
        writer.push(&fields, []).unwrap();
    }
    writer.finish().into()
}

/// The settings of an edge and what is known of it from outside.
struct Spilled<'a> {
    server: &'a NatsServer,
    settings: EdgeSettings,
}

impl Spilled<'_> {
    async fn publisher(&self) -> (Arc<Publisher>, Arc<Link>) {
        publisher(self.server, &[("first.second", self.settings.clone())]).await
    }

    async fn consumer(&self, far: &Arc<Far>) -> (Arc<Link>, JoinHandle<()>) {
        let link = link("first.second", "second", Direction::Source);
        let policy = Policy { in_flight: 1, ..policy() };
        let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), policy));
        let client = client(self.server).await;
        let source =
            Box::new(Consumer::new(client, edge("first.second"), self.settings.clone(), LIMITS));
        (link.clone(), tokio::spawn(source.run(link, delivery)))
    }

    /// What is in the spill.
    async fn state(&self) -> jetstream::stream::State {
        let client = client(self.server).await;
        let js = match &self.settings.spill_domain {
            Some(domain) => jetstream::with_domain(client, domain),
            None => jetstream::new(client),
        };
        let stream = js.get_stream(edge("first.second").spill_stream()).await.unwrap();
        stream.cached_info().state.clone()
    }

    /// Batches in the spill.
    async fn waiting(&self) -> u64 {
        self.state().await.messages
    }

    async fn until_empty(&self) {
        let start = Instant::now();
        while self.waiting().await > 0 || waiting(self.server, "first.second").await > 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "everything is acknowledged");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Every message is there, and each the first time in the order of its key.
async fn all_in_order(far: &Far, count: u64) {
    let start = Instant::now();
    let firsts = loop {
        let mut firsts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (key, number) in far.order.lock().iter() {
            if seen.insert((key.clone(), *number)) {
                firsts.entry(key.clone()).or_default().push(*number);
            }
        }
        if seen.len() as u64 == count * KEYS {
            break firsts;
        }
        let limit = Duration::from_secs(60);
        assert!(start.elapsed() < limit, "{} of {}", seen.len(), count * KEYS);
        sleep(Duration::from_millis(50)).await;
    };
    for (key, numbers) in firsts {
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{key}");
    }
}

/// Writes until it is refused; how many were accepted, and why no more.
async fn until_refused(publisher: &Publisher) -> (u64, String) {
    let mut accepted = 0;
    loop {
        match publisher.write(keyed(accepted)).await {
            Ok(()) => accepted += 1,
            Err(error) => return (accepted, error.to_string()),
        }
        assert!(accepted < 40, "1 MiB holds about ten, twice");
    }
}

fn repeated(far: &Far) -> usize {
    let order = far.order.lock();
    order.len() - order.iter().collect::<BTreeSet<_>>().len()
}

async fn fill_kill_drain(partitions: Option<&str>) {
    let server = NatsServer::start().unwrap();
    let settings = EdgeSettings {
        partitions: partitions.map(|count| count.parse().unwrap()),
        history: Some("1h".parse().unwrap()),
        ..spilling("64MiB", None)
    };
    let edge = Spilled { server: &server, settings };
    let (publisher, _) = edge.publisher().await;
    for n in 0..100 {
        publisher.write(keyed(n)).await.unwrap();
    }
    assert!(edge.waiting().await >= 85, "{}", edge.waiting().await);
    // Slow enough that it is killed in the middle of moving, each time.
    let far = Arc::new(Far { takes: Duration::from_millis(20), ..Far::default() });
    let (link, consumer) = edge.consumer(&far).await;
    let queue = async {
        loop {
            match link.telemetry.snapshot().queue {
                Some(queue) if queue.spilled_batches > 0 => return queue,
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let queue = timeout(Duration::from_secs(10), queue).await.expect("the status tells");
    assert!(queue.spilled_bytes >= 1_000_000, "{queue:?}");
    let mut number = 100;
    let mut running = (publisher, consumer);
    for _ in 0..3 {
        for _ in 0..10 {
            write(&running.0, keyed(number)).await;
            number += 1;
        }
        let before = edge.state().await.first_sequence;
        let start = Instant::now();
        let state = loop {
            let state = edge.state().await;
            if state.first_sequence > before + 4 {
                break state;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{before} {state:?}");
            sleep(Duration::from_millis(20)).await;
        };
        assert!(state.messages > 0, "it is in the middle of moving: {state:?}");
        running.1.abort();
        drop(running);
        sleep(Duration::from_millis(30)).await;
        let (publisher, _) = edge.publisher().await;
        running = (publisher, edge.consumer(&far).await.1);
        for _ in 0..10 {
            write(&running.0, keyed(number)).await;
            number += 1;
        }
    }
    all_in_order(&far, number).await;
    edge.until_empty().await;
    // It is used as before when it has room again.
    let last = edge.state().await.last_sequence;
    write(&running.0, keyed(number)).await;
    assert_eq!(edge.state().await.last_sequence, last, "not by way of the spill");
    all_in_order(&far, number + 1).await;
    let js = jetstream::new(client(&server).await);
    let history = js.get_stream(super::edge("first.second").history_stream()).await.unwrap();
    let first = history.cached_info().state.first_sequence;
    let mut kept = BTreeSet::new();
    for sequence in first..=history.cached_info().state.last_sequence {
        let message = history.get_raw_message(sequence).await.unwrap();
        let id = Batch::parse(&message.payload).unwrap().header("id").unwrap().to_owned();
        assert!(kept.insert(id.clone()), "{id} is there twice");
    }
    assert!(kept.len() >= 8, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_spilled_comes_back_in_order_also_when_the_conduit_is_killed() {
    fill_kill_drain(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_partitions_spilled_comes_back_in_order_also_when_the_conduit_is_killed() {
    fill_kill_drain(Some("4")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spill_that_is_full_too_refuses_by_name_and_nothing_is_lost() {
    let server = NatsServer::start().unwrap();
    let edge = Spilled { server: &server, settings: spilling("1MiB", None) };
    let (publisher, out) = edge.publisher().await;
    let (accepted, refused) = until_refused(&publisher).await;
    assert!(accepted >= 16, "{accepted}");
    assert!(
        refused.contains("edge first.second: spill") && refused.contains("maximum bytes"),
        "{refused}"
    );
    assert_eq!(out.state(), State::Retrying);
    let more = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            for n in accepted..accepted + 30 {
                write(&publisher, keyed(n)).await;
            }
        }
    });
    sleep(Duration::from_millis(300)).await;
    assert!(!more.is_finished(), "held back");
    let far = Arc::new(Far::default());
    let (_link, _task) = edge.consumer(&far).await;
    timeout(Duration::from_secs(30), more).await.unwrap().unwrap();
    all_in_order(&far, accepted + 30).await;
    assert_eq!(repeated(&far), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_on_the_edge_and_in_the_spill_comes_once() {
    let server = NatsServer::start().unwrap();
    let edge = Spilled { server: &server, settings: spilling("64MiB", None) };
    let (publisher, out) = edge.publisher().await;
    for n in 0..20 {
        publisher.write(keyed(n)).await.unwrap();
    }
    let spilled = edge.waiting().await;
    // On the edge already; and in the spill already.
    publisher.write(keyed(0)).await.unwrap();
    publisher.write(keyed(19)).await.unwrap();
    assert_eq!(edge.waiting().await, spilled + 1, "the first is not known there");
    let far = Arc::new(Far::default());
    let (_link, _task) = edge.consumer(&far).await;
    all_in_order(&far, 20).await;
    edge.until_empty().await;
    assert_eq!(repeated(&far), 0);
    assert_eq!(out.telemetry.snapshot().duplicates, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_publishers_of_a_process_know_of_each_other_and_another_process_notices() {
    let server = NatsServer::start().unwrap();
    let edge = Spilled { server: &server, settings: spilling("64MiB", None) };
    let spills = Spills::default();
    let client = client(&server).await;
    let open = |spills: &Spills| {
        let edges = vec![(super::edge("first.second"), edge.settings.clone())];
        Publisher::open(
            &client,
            edges,
            link("out", "first", Direction::Sink),
            spills,
            &States::default(),
        )
    };
    let (old, new, other) = (open(&spills), open(&spills), open(&Spills::default()));
    for n in 0..20 {
        old.write(keyed(n)).await.unwrap();
    }
    // Longer than the other takes to notice.
    sleep(Duration::from_secs(2)).await;
    let far = Arc::new(Far::default());
    let (_link, _task) = edge.consumer(&far).await;
    for n in 20..60 {
        let publisher = [&old, &new, &other][usize::try_from(n % 3).unwrap()];
        // The version before goes, as in a roll-out.
        write(if n > 40 { &new } else { publisher }, keyed(n)).await;
    }
    drop(old);
    for n in 60..80 {
        write(&new, keyed(n)).await;
    }
    far.until(80, Duration::from_secs(30)).await;
    edge.until_empty().await;
    let numbers: BTreeSet<u64> = far.order.lock().iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, (0..80).collect());
}

/// A server that is the leaf node of another, each with a JetStream domain.
struct Plant {
    hub: NatsServer,
    leaf: NatsServer,
    _stores: [tempfile::TempDir; 2],
}

impl Plant {
    fn start() -> Self {
        let port = millrace_peers::free_port().unwrap();
        let server = |name: &str, leafnodes: String| {
            let store = tempfile::tempdir().unwrap();
            let folder = store.path().display();
            let config = format!(
                "server_name: {name}\njetstream {{ store_dir: \"{folder}\", domain: {name} }}\nleafnodes {{ \
                 {leafnodes} }}\n"
            );
            let options = millrace_peers::NatsOptions { config, ..Default::default() };
            (NatsServer::start_with(&options).unwrap(), store)
        };
        let (hub, there) = server("hub", format!("listen: \"127.0.0.1:{port}\""));
        let remote = format!("reconnect: 1, remotes: [ {{ url: \"nats://127.0.0.1:{port}\" }} ]");
        let (leaf, here) = server("edgebox", remote);
        Self { hub, leaf, _stores: [there, here] }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_spills_into_another_domain_and_waits_for_it_when_it_is_away() {
    let mut plant = Plant::start();
    let settings = spilling("64MiB", Some("hub"));
    let edge = Spilled { server: &plant.leaf, settings: settings.clone() };
    let (publisher, _) = edge.publisher().await;
    for n in 0..40 {
        write(&publisher, keyed(n)).await;
    }
    let hub = jetstream::new(client(&plant.hub).await);
    let spill = super::edge("first.second").spill_stream();
    let spilled = hub.get_stream(&spill).await.unwrap().cached_info().state.messages;
    assert!(spilled >= 25, "{spilled} at the hub");
    let here = jetstream::new(client(&plant.leaf).await);
    assert!(here.get_stream(&spill).await.is_err(), "not where the edge is");
    let stream = here.get_stream(super::edge("first.second").stream()).await.unwrap();
    let elsewhere = spill_elsewhere(&stream.cached_info().config).unwrap();
    assert_eq!(elsewhere, ("hub", spill.clone()));

    // Away, and a conduit that begins while it is: what is there comes first.
    plant.hub.kill().unwrap();
    drop(publisher);
    let far = Arc::new(Far::default());
    let edge = Spilled { server: &plant.leaf, settings: settings.clone() };
    let (_link, _task) = edge.consumer(&far).await;
    let (publisher, out) = {
        let out = link("out", "first", Direction::Sink);
        let edges = vec![(super::edge("first.second"), settings.clone())];
        let client = client(&plant.leaf).await;
        (Publisher::open(&client, edges, out.clone(), &Spills::default(), &States::default()), out)
    };
    far.until(usize::try_from(40 - spilled).unwrap(), Duration::from_secs(20)).await;
    for _ in 0..3 {
        let error = publisher.write(keyed(40)).await.unwrap_err().to_string();
        assert!(error.contains("edge first.second"), "{error}");
    }
    assert_eq!(out.state(), State::Retrying);
    assert_eq!(far.count() as u64, 40 - spilled, "nothing new overtakes what is in the spill");

    plant.hub.restart().unwrap();
    for n in 40..60 {
        write(&publisher, keyed(n)).await;
    }
    all_in_order(&far, 60).await;
    assert_eq!(repeated(&far), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_with_room_needs_no_spill() {
    let mut plant = Plant::start();
    let settings = spilling("64MiB", Some("hub"));
    plant.hub.kill().unwrap();
    let edge = Spilled { server: &plant.leaf, settings };
    let (publisher, out) = edge.publisher().await;
    let (accepted, refused) = until_refused(&publisher).await;
    assert!((8..=12).contains(&accepted), "{accepted}");
    assert!(refused.contains("spill") && refused.contains("maximum bytes"), "{refused}");
    assert!(out.telemetry.snapshot().last_error.is_some());
    // Room again, without the hub.
    let far = Arc::new(Far::default());
    let (_link, _task) = edge.consumer(&far).await;
    for n in accepted..accepted + 20 {
        write(&publisher, keyed(n)).await;
    }
    all_in_order(&far, accepted + 20).await;
}
