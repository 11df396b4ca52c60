//! Who may call, and how often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millrace_lattice_config::tenants::Entry;
use millrace_lattice_config::tokens::{Access, Token};

use crate::Api;
use crate::problem::Problem;
use crate::session::{self, Session};

/// How many calls a token may make. Of calls without a good token, of all callers together, half as many are answered one by one,
/// and written down.
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
        let share = if name.is_some() { 1.0 } else { 0.5 };
        let of = |number: u32| (f64::from(number) * share).max(1.0);
        let (burst, per_second) = (of(self.rate.burst), of(self.rate.per_second));
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
pub(crate) struct Caller {
    /// Whose token it is.
    pub(crate) token: Token,
    /// Where it was shown before, by a browser.
    pub(crate) session: Option<Session>,
}

impl Caller {
    /// As audit logs name it.
    pub(crate) fn who(&self) -> String {
        format!("api token {}", self.token.name)
    }

    /// What only looks, at one tenant.
    pub(crate) fn may_look(&self, tenant: &str) -> Result<(), Problem> {
        match &self.token.tenant {
            Some(own) if own != tenant => {
                Err(Problem::forbidden(format!("this token is for tenant {own} alone")))
            }
            _ => Ok(()),
        }
    }

    /// What takes at least a role, in one tenant.
    pub(crate) fn may(&self, tenant: &str, least: Access) -> Result<(), Problem> {
        self.may_look(tenant)?;
        if self.token.role >= least {
            return Ok(());
        }
        let (has, least) = (self.token.role.as_str(), least.as_str());
        Err(Problem::forbidden(format!(
            "this token has the role {has}, and this takes {least}; `millrace api token add --role {least}` makes one"
        )))
    }

    /// What is not one tenant's own affair.
    pub(crate) fn may_manage(&self, tenant: &str) -> Result<(), Problem> {
        self.may(tenant, Access::Admin)?;
        match &self.token.tenant {
            None => Ok(()),
            Some(own) => Err(Problem::forbidden(format!(
                "this token is for tenant {own} alone: it may show it, its audit log, and issue and revoke credentials"
            ))),
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.token.tenant.is_some()
    }
}

/// Lets nobody through without a token, and writes down who was refused.
pub(crate) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let call = format!("{} {}", request.method(), request.uri().path());
    let caller = match caller(&api, &request) {
        Ok(caller) => caller,
        Err(problem) => return stranger(&api, &call, problem),
    };
    if let Some(refused) = too_many(&api, &caller, &call) {
        return refused;
    }
    let who = caller.who();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    // What a tenant itself refused stands in its own log.
    if let Some(problem) = response.extensions().get::<Problem>()
        && !problem.is_in_audit_log()
    {
        note(&api, &who, "api.call", &call, &format!("refused: {problem}"));
    }
    response
}

/// The answer to somebody who is not known.
pub(crate) fn stranger(api: &Api, call: &str, problem: Problem) -> Response {
    // Strangers are many, and must not push everything else out of the journal.
    let problem = match api.0.allow.take(None) {
        Ok(()) => problem,
        Err(wait) => return closed(Problem::too_many(wait)),
    };
    note(api, "nobody", "api.call", call, &format!("refused: {problem}"));
    closed(problem)
}

/// The last answer on its connection: there are not so many that strangers could keep them.
fn closed(problem: Problem) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Takes one of a caller's calls, or answers that there are too many.
pub(crate) fn too_many(api: &Api, caller: &Caller, call: &str) -> Option<Response> {
    let wait = api.0.allow.take(Some(&caller.token.name)).err()?;
    let problem = Problem::too_many(wait);
    // Once for each second of waiting, not for each call.
    if api.0.allow.take(None).is_ok() {
        note(api, &caller.who(), "api.call", call, &format!("refused: {problem}"));
    }
    Some(problem.into_response())
}

fn caller(api: &Api, request: &Request) -> Result<Caller, Problem> {
    let headers = request.headers();
    if headers.contains_key(AUTHORIZATION) {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = given.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let text = text.ok_or_else(|| Problem::unauthorized("no token was given"))?;
        return by_token(api, text);
    }
    let Some(session) = api.0.sessions.of(headers, Instant::now()) else {
        return Err(Problem::unauthorized("no token was given, and there is no session"));
    };
    let is_good = api.0.tokens.is_good(&session.token).map_err(|error| Problem::broken(&error))?;
    if !is_good || !has_its_tenant(api, &session.token) {
        api.0.sessions.end(&session);
        return Err(Problem::unauthorized("the session has ended with its token"));
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if !session::is_own(headers) || (changes && !session.is_meant(headers)) {
        return Err(Problem::forgery());
    }
    Ok(Caller { token: session.token.clone(), session: Some(session) })
}

/// Whose token a text is.
pub(crate) fn by_token(api: &Api, text: &str) -> Result<Caller, Problem> {
    match api.0.tokens.find(text) {
        Ok(Some(token)) if has_its_tenant(api, &token) => Ok(Caller { token, session: None }),
        Ok(Some(_)) => Err(Problem::unauthorized("the tenant that the token was for is gone")),
        Ok(None) => Err(Problem::unauthorized("the token is not known, or has ended")),
        Err(error) => Err(Problem::broken(&error)),
    }
}

/// Whether the tenant that a token is for is the one there is: one that was added later under its name is another.
fn has_its_tenant(api: &Api, token: &Token) -> bool {
    let Some(tenant) = &token.tenant else { return true };
    let record = api.0.tenants.get(tenant);
    record.is_ok_and(|record| token.account.as_ref() == Some(&record.account))
}

/// Writes into the journal of calls.
pub(crate) fn note(api: &Api, who: &str, what: &str, subject: &str, outcome: &str) {
    let entry = Entry {
        time: millrace_lattice_config::now(),
        who: who.to_owned(),
        what: what.to_owned(),
        subject: subject.to_owned(),
        outcome: outcome.to_owned(),
        by_tenant: false,
    };
    // The caller is answered in any case.
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
