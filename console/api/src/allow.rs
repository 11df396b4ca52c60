//! Who may call, and how often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millrace_lattice_config::tenants::Entry;
use millrace_lattice_config::tokens::{Access, Token};

use crate::Api;
use crate::problem::Problem;

/// Calls without a good token that are answered one by one, of all callers together. Also so many are written down.
const STRANGERS: Rate = Rate { burst: 20, per_second: 5 };

/// How many calls a token may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once, after a silence.
    pub burst: u32,
    /// In the long run.
    pub per_second: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { burst: 40, per_second: 10 }
    }
}

/// What is left of the calls of all tokens.
#[derive(Debug)]
pub(crate) struct Allow {
    rate: Rate,
    /// By the token's name; `None` is for strangers. There are no more than there are tokens.
    left: Mutex<HashMap<Option<String>, (f64, Instant)>>,
}

impl Allow {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, left: Mutex::default() }
    }

    /// Takes a call, or says how long to wait for the next.
    fn take(&self, name: Option<&str>) -> Result<(), Duration> {
        let rate = if name.is_some() { self.rate } else { STRANGERS };
        let (burst, per_second) = (f64::from(rate.burst.max(1)), f64::from(rate.per_second.max(1)));
        let now = Instant::now();
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = all.entry(name.map(str::to_owned)).or_insert((burst, now));
        *left = (*left + now.duration_since(*since).as_secs_f64() * per_second).min(burst);
        *since = now;
        if *left >= 1.0 {
            *left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - *left) / per_second))
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Token);

impl Caller {
    /// As audit logs name it.
    pub(crate) fn who(&self) -> String {
        format!("api token {}", self.0.name)
    }

    /// What only looks, at one tenant.
    pub(crate) fn may_look(&self, tenant: &str) -> Result<(), Problem> {
        match &self.0.tenant {
            Some(own) if own != tenant => {
                Err(Problem::forbidden(format!("this token is for tenant {own} alone")))
            }
            _ => Ok(()),
        }
    }

    /// What changes the users of one tenant.
    pub(crate) fn may_change(&self, tenant: &str) -> Result<(), Problem> {
        self.may_look(tenant)?;
        match self.0.role {
            Access::Admin => Ok(()),
            Access::Viewer => Err(Problem::forbidden("this token may only look; `millrace api token add --role admin` makes one that may change".into())),
        }
    }

    /// What is not one tenant's own affair.
    pub(crate) fn may_manage(&self, tenant: &str) -> Result<(), Problem> {
        self.may_change(tenant)?;
        match &self.0.tenant {
            None => Ok(()),
            Some(own) => Err(Problem::forbidden(format!(
                "this token is for tenant {own} alone: it may show it, its audit log, and issue and revoke credentials"
            ))),
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.0.tenant.is_some()
    }
}

/// Lets nobody through without a token, and writes down who was refused.
pub(crate) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let call = format!("{} {}", request.method(), request.uri().path());
    let caller = match caller(&api, &request) {
        Ok(caller) => caller,
        Err(problem) => {
            // Strangers are many, and must not push everything else out of the journal.
            let problem = match api.0.allow.take(None) {
                Ok(()) => problem,
                Err(wait) => return Problem::too_many(wait).into_response(),
            };
            note(&api, "nobody", &call, &problem);
            return problem.into_response();
        }
    };
    if let Err(wait) = api.0.allow.take(Some(&caller.0.name)) {
        let problem = Problem::too_many(wait);
        // Once for each second of waiting, not for each call.
        if api.0.allow.take(None).is_ok() {
            note(&api, &caller.who(), &call, &problem);
        }
        return problem.into_response();
    }
    let who = caller.who();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    // What a tenant itself refused stands in its own log.
    if let Some(problem) = response.extensions().get::<Problem>()
        && !problem.is_in_audit_log()
    {
        note(&api, &who, &call, problem);
    }
    response
}

fn caller(api: &Api, request: &Request) -> Result<Caller, Problem> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = given.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let Some(text) = text else { return Err(Problem::unauthorized("no token was given")) };
    match api.0.tokens.find(text) {
        Ok(Some(token)) => Ok(Caller(token)),
        Ok(None) => Err(Problem::unauthorized("the token is not known, or has ended")),
        Err(error) => Err(Problem::broken(&error)),
    }
}

fn note(api: &Api, who: &str, call: &str, problem: &Problem) {
    let entry = Entry {
        time: millrace_lattice_config::now(),
        who: who.to_owned(),
        what: "api.call".to_owned(),
        subject: call.to_owned(),
        outcome: format!("refused: {problem}"),
        by_tenant: false,
    };
    // The caller is refused in any case.
    let _ = api.0.journal.add(&entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_too_often_waits_and_nobody_else_does() {
        let allow = Allow::new(Rate { burst: 3, per_second: 1 });
        for _ in 0..3 {
            allow.take(Some("a")).unwrap();
        }
        let wait = allow.take(Some("a")).unwrap_err();
        assert!(wait <= Duration::from_secs(1) && wait > Duration::from_millis(500), "{wait:?}");
        allow.take(Some("b")).unwrap();
        allow.take(None).unwrap();
    }
}
