//! How a browser signs in and out.

use std::time::Instant;

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use millrace_lattice_config::now;
use millrace_lattice_config::tokens::Access;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Api;
use crate::allow::{Caller, by_token, note, stranger, too_many};
use crate::extract::Sent;
use crate::problem::Problem;
use crate::routes::Secure;
use crate::session::{cookie, is_own};

/// Whose token it is, and for how long.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SessionShown {
    /// The token's name.
    name: String,
    /// What it may do.
    #[schema(value_type = AccessName)]
    role: Access,
    /// The one tenant that it is for; without, it is for all.
    tenant: Option<String>,
    /// To be sent as the header `X-CSRF-Token` with each call of this session that changes something. There is none with a token.
    csrf: Option<String>,
    /// When the session ends if no further call is made, or the token, in seconds since the Unix epoch; 0 for never.
    expires: i64,
    /// The platform's version.
    version: &'static str,
}

/// [`Access`] in the description.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only described")]
pub(crate) enum AccessName {
    Viewer,
    Operator,
    Author,
    Admin,
}

impl From<Caller> for SessionShown {
    fn from(Caller { token, session }: Caller) -> Self {
        let rest = session.as_ref().map(|session| session.rest.as_secs());
        let rest = rest.map(|rest| now().saturating_add(i64::try_from(rest).unwrap_or(i64::MAX)));
        let expires = match (token.expires, rest) {
            (0, rest) => rest.unwrap_or(0),
            (token, rest) => rest.map_or(token, |rest| rest.min(token)),
        };
        Self {
            name: token.name,
            role: token.role,
            tenant: token.tenant,
            csrf: session.map(|session| session.csrf),
            expires,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Who wants to sign in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    /// The token's text.
    token: String,
}

/// Begins a session of a browser, and sets its cookie.
#[utoipa::path(post, path = "/v1/session", security(()), request_body = SignIn, responses((status = 200, body = SessionShown), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn begin(
    State(api): State<Api>,
    Extension(Secure(tls)): Extension<Secure>,
    headers: HeaderMap,
    sent: Result<Sent<SignIn>, Problem>,
) -> Response {
    const CALL: &str = "POST /v1/session";
    let caller = match sent {
        _ if !is_own(&headers) => Err(Problem::forgery()),
        Ok(Sent(sent)) => by_token(&api, sent.token.trim()),
        Err(problem) => Err(problem),
    };
    let mut caller = match caller {
        Ok(caller) => caller,
        Err(problem) => return stranger(&api, CALL, problem),
    };
    if let Some(refused) = too_many(&api, &caller, CALL) {
        return refused;
    }
    let (session, text) = api.0.sessions.begin(&caller.token, Instant::now());
    note(&api, &caller.who(), "session.begin", &caller.token.name, "ok");
    caller.session = Some(session);
    ([(SET_COOKIE, cookie(Some(&text), tls))], Json(SessionShown::from(caller))).into_response()
}

/// Whose session, or token, it is.
#[utoipa::path(get, path = "/v1/session", responses((status = 200, body = SessionShown), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(Extension(caller): Extension<Caller>) -> Json<SessionShown> {
    Json(caller.into())
}

/// Ends the session.
#[utoipa::path(delete, path = "/v1/session", responses((status = 204, description = "It has ended"), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn end(
    State(api): State<Api>,
    Extension(Secure(tls)): Extension<Secure>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let Some(session) = &caller.session else {
        let (title, detail) = (
            "There is no session",
            "this call came with a token; `millrace api token revoke` ends that",
        );
        return Err(Problem::new(StatusCode::CONFLICT, "no-session", title, detail.to_owned()));
    };
    api.0.sessions.end(session);
    note(&api, &caller.who(), "session.end", &caller.token.name, "ok");
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie(None, tls))]).into_response())
}
