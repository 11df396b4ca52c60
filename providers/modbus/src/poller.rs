//! Asking the devices, request by request.
//!
//! One dead device must not slow down the others behind the same gateway: a
//! unit that does not answer is left alone for the rest of the cycle and then
//! tried again with growing pauses. Its fields have bad quality meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_kit::telemetry::now_ns;
use millrace_kit::{Backoff, ErrorKind, Link};
use tokio::time::Instant;

use crate::client::{Answer, Failure, Order};
use crate::plan::{Item, Limits, Request, plan};
use crate::port::Port;

/// Exception 2: the device has no such register.
const ILLEGAL_ADDRESS: u8 = 2;

/// Longest time a unit that does not answer is left alone.
const UNIT_PAUSE: Duration = Duration::from_secs(10);

/// What became of a step.
pub(crate) enum Step {
    /// The request at this place is done.
    Done(Outcome),
    /// It has been split: what is now at this place comes next.
    Again,
}

/// The end of one request.
pub(crate) struct Outcome {
    /// What came, or why nothing did.
    pub(crate) result: Result<Answer, Arc<str>>,
    /// When, in nanoseconds since the Unix epoch.
    pub(crate) time: u64,
}

/// Asks according to a plan.
pub(crate) struct Poller {
    pub(crate) port: Port,
    link: Arc<Link>,
    items: Vec<Item>,
    limits: Limits,
    requests: Vec<Planned>,
    units: BTreeMap<u8, Unit>,
    interval: Duration,
    /// Somebody answered in this cycle.
    answered: bool,
    /// The last failure of this cycle.
    failure: Option<Arc<str>>,
    /// The plan has been split since the connection was made.
    split: bool,
}

struct Planned {
    request: Request,
    /// The failure that was told last, so that it is told once.
    told: Option<Arc<str>>,
}

/// A unit that does not answer.
struct Unit {
    backoff: Backoff,
    until: Instant,
    why: Arc<str>,
}

impl Poller {
    pub(crate) fn new(
        port: Port,
        link: Arc<Link>,
        items: Vec<Item>,
        limits: Limits,
        interval: Duration,
    ) -> Self {
        let mut poller = Self {
            port,
            link,
            items,
            limits,
            requests: Vec::new(),
            units: BTreeMap::new(),
            interval,
            answered: false,
            failure: None,
            split: false,
        };
        poller.replan();
        poller
    }

    fn replan(&mut self) {
        self.split = false;
        self.requests = plan(&self.items, self.limits)
            .into_iter()
            .map(|request| Planned { request, told: None })
            .collect();
    }

    /// The request at a place of the plan.
    pub(crate) fn request(&self, place: usize) -> Option<&Request> {
        self.requests.get(place).map(|planned| &planned.request)
    }

    /// The fields as the planner sees them.
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Begins a cycle. What was split because a device refused it is whole
    /// again after the connection was lost: it may be another device now.
    pub(crate) fn begin(&mut self) {
        self.answered = false;
        self.failure = None;
        if self.split && self.port.retry_at().is_some() {
            self.replan();
        }
    }

    /// Ends a cycle.
    pub(crate) fn end(&mut self) {
        if let (false, Some(why)) = (self.answered, self.failure.take()) {
            self.port.is_away(&why);
        }
    }

    /// Makes the request at `place`. Nothing when there is none.
    pub(crate) async fn step(&mut self, place: usize) -> Option<Step> {
        let request = self.requests.get(place)?.request.clone();
        if let Some(unit) = self.units.get(&request.unit)
            && unit.until > Instant::now()
        {
            return Some(done(Err(Arc::clone(&unit.why))));
        }
        let failure = match self.ask(&request).await {
            Ok(answer) => {
                self.on_answer(place, request.unit);
                return Some(done(Ok(answer)));
            }
            Err(failure) => failure,
        };
        if failure == Failure::Exception(ILLEGAL_ADDRESS)
            && let Some((first, second)) = request.halves(&self.items)
        {
            self.split = true;
            let halves = [first, second].map(|request| Planned { request, told: None });
            self.requests.splice(place..=place, halves);
            return Some(Step::Again);
        }
        Some(done(Err(self.on_failure(place, &request, &failure))))
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        let wire = request.wire;
        let order = Order::Read(wire.register, wire.address, request.count);
        self.port.ask(request.unit, &order).await
    }

    fn on_answer(&mut self, place: usize, unit: u8) {
        self.answered = true;
        self.units.remove(&unit);
        self.port.is_there();
        if let Some(planned) = self.requests.get_mut(place) {
            planned.told = None;
        }
    }

    fn on_failure(&mut self, place: usize, request: &Request, failure: &Failure) -> Arc<str> {
        if let Failure::Unconnected(_) = failure {
            // The port has said so already.
            let why: Arc<str> = failure.to_string().into();
            self.failure = None;
            return why;
        }
        let why: Arc<str> = format!("{request}: {failure}").into();
        if let Some(planned) = self.requests.get_mut(place) {
            if planned.told.as_ref() == Some(&why) {
                self.link.telemetry.error(ErrorKind::Connection, &why);
            } else {
                self.link.noticed(&why);
                planned.told = Some(Arc::clone(&why));
            }
        }
        if failure.is_silence() {
            self.leave_alone(request.unit, &why);
            self.failure = Some(Arc::clone(&why));
        } else {
            self.answered = true;
            self.units.remove(&request.unit);
            self.port.is_there();
        }
        why
    }

    /// No more requests to a unit in this cycle, and after it fewer and fewer.
    fn leave_alone(&mut self, unit: u8, why: &Arc<str>) {
        let now = Instant::now();
        let (first, longest) = (self.interval / 2, self.interval.max(UNIT_PAUSE));
        let unit = self.units.entry(unit).or_insert_with(|| Unit {
            backoff: Backoff::new(first, longest),
            until: now,
            why: Arc::clone(why),
        });
        unit.until = now + unit.backoff.next_pause();
        unit.why = Arc::clone(why);
    }
}

fn done(result: Result<Answer, Arc<str>>) -> Step {
    Step::Done(Outcome { result, time: now_ns() })
}
