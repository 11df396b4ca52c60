//! Who may deliver: a window of places, of which there can be more or fewer as
//! time goes on.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use millrace_kit::adaptive::Ticket;
use millrace_kit::{Adaptive, Ended, Link, Watch};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The window of an edge.
pub(crate) struct Places {
    semaphore: Arc<Semaphore>,
    /// `None` where the author has said how many.
    resized: Option<Mutex<Resized>>,
    most: usize,
    link: Arc<Link>,
}

struct Resized {
    adaptive: Adaptive,
    /// Places there are to be.
    wanted: usize,
    /// Places there still are beyond that, because somebody has them.
    beyond: usize,
}

/// A place, for as long as this lives. Hears how its calls end.
pub(crate) struct Place {
    places: Arc<Places>,
    /// Taken out only at the end.
    permit: Option<OwnedSemaphorePermit>,
    ticket: Option<Ticket>,
}

/// A place, when it is one's turn.
pub(crate) type Turn = BoxFuture<'static, Option<Place>>;

impl Places {
    /// So many, always.
    pub(crate) fn fixed(count: usize, link: Arc<Link>) -> Self {
        link.telemetry.window(count);
        Self { semaphore: Arc::new(Semaphore::new(count)), resized: None, most: count, link }
    }

    /// As many as `adaptive` finds to be worth it.
    pub(crate) fn adaptive(adaptive: Adaptive, link: Arc<Link>) -> Self {
        let (wanted, most) = (adaptive.limit(), adaptive.most());
        link.telemetry.window(wanted);
        Self {
            semaphore: Arc::new(Semaphore::new(wanted)),
            resized: Some(Mutex::new(Resized { adaptive, wanted, beyond: 0 })),
            most,
            link,
        }
    }

    /// Most that there can ever be.
    pub(crate) const fn most(&self) -> usize {
        self.most
    }

    /// Stands in line for a place. The line is formed by asking, so it is asked
    /// here, in the order of the edge, and not in tasks that run in any order.
    pub(crate) fn stand_in_line(places: &Arc<Self>) -> Turn {
        let waiting = Arc::clone(&places.semaphore).acquire_owned();
        let places = Arc::clone(places);
        // Fails only when the semaphore is closed, which nobody does.
        let mut turn = Box::pin(waiting.map_ok(move |permit| Place::new(places, permit)));
        match (&mut turn).now_or_never() {
            Some(place) => std::future::ready(place.ok()).boxed(),
            None => turn.map(Result::ok).boxed(),
        }
    }

    fn ended(&self, ticket: Ticket, how: Ended) {
        let Some(resized) = &self.resized else { return };
        let mut resized = resized.lock();
        resized.adaptive.ended(ticket, how);
        let limit = resized.adaptive.limit();
        if limit == resized.wanted {
            return;
        }
        if limit > resized.wanted {
            let more = limit - resized.wanted;
            let kept = more.min(resized.beyond);
            resized.beyond -= kept;
            self.semaphore.add_permits(more - kept);
        } else {
            let fewer = resized.wanted - limit;
            resized.beyond += fewer - self.semaphore.forget_permits(fewer);
        }
        resized.wanted = limit;
        self.link.telemetry.window(limit);
    }
}

impl Place {
    fn new(places: Arc<Places>, permit: OwnedSemaphorePermit) -> Self {
        let last = places.semaphore.available_permits() == 0;
        let ticket = places.resized.as_ref().map(|resized| resized.lock().adaptive.take(last));
        Self { places, permit: Some(permit), ticket }
    }
}

impl Watch for Place {
    fn ended(&self, how: Ended) {
        if let Some(ticket) = self.ticket {
            self.places.ended(ticket, how);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        if let Some(resized) = &self.places.resized {
            let mut resized = resized.lock();
            if resized.beyond > 0 {
                resized.beyond -= 1;
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_kit::{Direction, LinkNames};

    use super::*;

    fn link() -> Arc<Link> {
        let names = LinkNames { pipeline: "p".into(), name: "a.b".into(), stage: "b".into() };
        Arc::new(Link::new(names, Direction::Source))
    }

    /// Takes all places that there are now.
    fn all(places: &Arc<Places>) -> Vec<Place> {
        std::iter::from_fn(|| Places::stand_in_line(places).now_or_never().flatten()).collect()
    }

    #[test]
    fn there_are_as_many_places_as_the_limit_says_whoever_has_them_meanwhile() {
        let link = link();
        let places = Arc::new(Places::adaptive(Adaptive::new(2, 32), link.clone()));
        let window = || usize::try_from(link.telemetry.snapshot().window.unwrap()).unwrap();
        for _ in 0..100 {
            let taken = all(&places);
            taken.iter().for_each(|place| place.ended(Ended::Answered(Duration::from_millis(5))));
            drop(taken);
        }
        assert_eq!((window(), all(&places).len()), (32, 32));
        let taken = all(&places);
        taken.iter().for_each(|place| place.ended(Ended::Refused));
        assert_eq!(window(), 16);
        let mut taken = taken.into_iter();
        // Sixteen too many are given back before there is one for anybody else.
        taken.by_ref().take(16).for_each(drop);
        assert_eq!(all(&places).len(), 0);
        taken.by_ref().take(3).for_each(drop);
        assert_eq!(all(&places).len(), 3);
        drop(taken);
        assert_eq!(all(&places).len(), 16);
    }

    #[test]
    fn a_fixed_window_stays_as_it_is() {
        let link = link();
        let places = Arc::new(Places::fixed(3, link.clone()));
        for _ in 0..100 {
            let taken = all(&places);
            assert_eq!(taken.len(), 3);
            taken.iter().for_each(|place| place.ended(Ended::Refused));
        }
        assert_eq!(link.telemetry.snapshot().window, Some(3));
    }
}
