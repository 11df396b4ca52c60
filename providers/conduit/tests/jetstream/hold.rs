//! One conduit at a time hands an edge on.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A link to the server that can stand still, both ways, without being closed.
struct Way {
    address: SocketAddr,
    still: Arc<AtomicBool>,
}

impl Way {
    async fn to(server: &NatsServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = server.url().replace("nats://", "");
        let still = Arc::new(AtomicBool::new(false));
        let stands = Arc::clone(&still);
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let there = TcpStream::connect(&server).await.unwrap();
                let ((from_here, to_here), (from_there, to_there)) =
                    (here.into_split(), there.into_split());
                tokio::spawn(carry(from_here, to_there, Arc::clone(&stands)));
                tokio::spawn(carry(from_there, to_here, Arc::clone(&stands)));
            }
        });
        Self { address, still }
    }

    async fn client(&self) -> async_nats::Client {
        async_nats::connect(format!("nats://{}", self.address)).await.unwrap()
    }
}

async fn carry(
    from: tokio::net::tcp::OwnedReadHalf,
    to: tokio::net::tcp::OwnedWriteHalf,
    still: Arc<AtomicBool>,
) {
    let mut piece = vec![0; 16 << 10];
    loop {
        from.readable().await.unwrap();
        while still.load(SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        let read = match from.try_read(&mut piece) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut rest = &piece[..read];
        while !rest.is_empty() {
            to.writable().await.unwrap();
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

async fn consumer_by(
    client: async_nats::Client,
    far: &Arc<Far>,
    in_flight: usize,
) -> (Arc<Link>, JoinHandle<()>) {
    let link = link("first.second", "second", Direction::Source);
    let policy = Policy { in_flight, ..policy() };
    let delivery = Arc::new(Delivery::new(far.clone(), far.clone(), link.clone(), policy));
    let source =
        Box::new(Consumer::new(client, edge("first.second"), EdgeSettings::default(), LIMITS));
    let task = tokio::spawn(source.run(link.clone(), delivery));
    (link, task)
}

/// Publishes numbered messages, one a batch, at a steady rate.
fn numbers(publisher: Arc<Publisher>, range: std::ops::Range<u64>) -> JoinHandle<()> {
    tokio::spawn(async move {
        for n in range {
            publisher.write(batch(&format!("b{n}"), n, 1, 20)).await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
    })
}

fn both(one: &Far, other: &Far) -> usize {
    let mut seen: BTreeSet<u64> = one.seen.lock().keys().copied().collect();
    seen.extend(other.seen.lock().keys());
    seen.len()
}

fn times(one: &Far, other: &Far) -> usize {
    [one, other].iter().map(|far| far.seen.lock().values().sum::<usize>()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_conduits_one_hands_on_and_the_other_when_it_has_gone() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    for in_flight in [1, 4] {
        let (one, other) = (Arc::new(Far::default()), Arc::new(Far::default()));
        let (_link, first) = consumer_by(client(&server).await, &one, in_flight).await;
        let base = u64::try_from(in_flight).unwrap() * 10_000;
        let sent = numbers(publisher.clone(), base..base + 400);
        one.until(20, Duration::from_secs(10)).await;
        let (_link, second) = consumer_by(client(&server).await, &other, in_flight).await;
        sleep(Duration::from_millis(700)).await;
        assert_eq!(other.count(), 0, "the first is there");
        first.abort();
        let gone = Instant::now();
        other.until(1, Duration::from_secs(5)).await;
        println!("taken over after {:?}", gone.elapsed());
        assert!(gone.elapsed() < Duration::from_secs(2), "nobody is there, which shows at once");
        sent.await.unwrap();
        let start = Instant::now();
        while both(&one, &other) < 400 {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", both(&one, &other));
            sleep(Duration::from_millis(20)).await;
        }
        // Only what was in work when the first was killed comes twice.
        assert!(times(&one, &other) <= 400 + 2 * in_flight, "{}", times(&one, &other));
        second.abort();
        let _ = second.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conduit_that_is_cut_off_is_taken_over_from_and_steps_back() {
    let server = NatsServer::start().unwrap();
    let way = Way::to(&server).await;
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let (one, other) = (Arc::new(Far::default()), Arc::new(Far::default()));
    let (_link, _first) = consumer_by(way.client().await, &one, 1).await;
    let sent = numbers(publisher.clone(), 0..4_000);
    one.until(20, Duration::from_secs(10)).await;
    let (_link, _second) = consumer_by(client(&server).await, &other, 1).await;
    way.still.store(true, SeqCst);
    let cut = Instant::now();
    other.until(1, Duration::from_secs(20)).await;
    println!("taken over after {:?}", cut.elapsed());
    way.still.store(false, SeqCst);
    sleep(Duration::from_secs(2)).await;
    let had = one.count();
    sent.await.unwrap();
    let start = Instant::now();
    while both(&one, &other) < 4_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", both(&one, &other));
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(one.count(), had, "it has stepped back");
    assert!(times(&one, &other) < 4_000 + 600, "{}", times(&one, &other));
    // And takes it when the other is gone.
    _second.abort();
    publisher.write(batch("last", 9_999, 1, 20)).await.unwrap();
    one.until(had + 1, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_begin_at_once_agree() {
    let server = NatsServer::start().unwrap();
    let (publisher, _) = publisher(&server, &[("first.second", EdgeSettings::default())]).await;
    let fars: Vec<Arc<Far>> = (0..5).map(|_| Arc::default()).collect();
    for far in &fars {
        let client = client(&server).await;
        let far = far.clone();
        tokio::spawn(async move {
            let (_link, task) = consumer_by(client, &far, 4).await;
            task.await.unwrap();
        });
    }
    numbers(publisher, 0..300).await.unwrap();
    let start = Instant::now();
    let seen = || fars.iter().map(|far| far.count()).sum::<usize>();
    while seen() < 300 {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", seen());
        sleep(Duration::from_millis(20)).await;
    }
    let who: Vec<usize> = fars.iter().map(|far| far.count()).collect();
    assert_eq!(who.iter().filter(|count| **count > 0).count(), 1, "{who:?}");
}
