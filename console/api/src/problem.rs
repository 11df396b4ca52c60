//! What goes wrong, in one shape: `application/problem+json` of RFC 9457.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use millrace_lattice_config::tenants::TenantError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::drafts::SavedShown;

/// Why a call was refused, or failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Which kind: `urn:millrace:problem:` and a word that stays the same.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// This case in words, and what to do.
    detail: String,
    /// The fields of the request that were wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Field>,
    /// Who has saved a draft since, of `changed`; nobody when it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<Box<SavedShown>>,
    #[serde(skip)]
    retry: Option<Duration>,
    #[serde(skip)]
    audited: bool,
}

/// A field that was wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Field {
    /// Which, as a path.
    field: String,
    /// What is wrong with it, and what it should be.
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, title: &'static str, detail: String) -> Self {
        Self {
            kind: format!("urn:millrace:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail,
            errors: Vec::new(),
            saved: None,
            retry: None,
            audited: false,
        }
    }

    pub(crate) fn field(field: &str, detail: &str) -> Self {
        let whole = format!("{field}: {detail}");
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "The request is not valid",
            whole,
        );
        problem.errors = vec![Field { field: field.to_owned(), detail: detail.to_owned() }];
        problem
    }

    pub(crate) fn unauthorized(why: &str) -> Self {
        let detail = format!(
            "{why}: send `Authorization: Bearer TOKEN`; `millrace api token add` makes one"
        );
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "No good token", detail)
    }

    pub(crate) fn forbidden(detail: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The token may not do this", detail)
    }

    /// A call by a session that its page did not make.
    pub(crate) fn forgery() -> Self {
        let detail = "a session's call comes from a page of this server, and carries X-CSRF-Token if it changes something; a \
                      program sends its token instead";
        Self::new(
            StatusCode::FORBIDDEN,
            "forgery",
            "The call is not this page's",
            detail.to_owned(),
        )
    }

    pub(crate) fn too_many(wait: Duration) -> Self {
        let detail = "wait as long as Retry-After says".to_owned();
        let title = "Too many calls";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-calls", title, detail);
        Self { retry: Some(wait), ..problem }
    }

    /// A fault of the installation. Its paths are nothing for callers.
    pub(crate) fn broken(error: &dyn fmt::Display) -> Self {
        eprintln!("control API: {error}");
        let detail = "the platform's own log says why".to_owned();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", "The platform has a fault", detail)
    }

    /// Whether it stands in the audit log of a tenant already.
    pub(crate) fn is_in_audit_log(&self) -> bool {
        self.audited
    }

    /// Who has saved since.
    pub(crate) fn saved(self, saved: Option<SavedShown>) -> Self {
        Self { saved: saved.map(Box::new), ..self }
    }

    /// Of something that changes a tenant which is there: it has written it down.
    pub(crate) fn audited(self, audited: bool) -> Self {
        Self { audited, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.detail)
    }
}

impl From<TenantError> for Problem {
    fn from(error: TenantError) -> Self {
        // What went wrong is said; that nothing is left of it is seen by asking.
        let error = match error {
            TenantError::RolledBack { source, .. } => *source,
            error => error,
        };
        let detail = error.to_string();
        let with = |status, kind, title| Self::new(status, kind, title, detail.clone());
        match &error {
            TenantError::Name(_) => Self::field("name", &detail),
            TenantError::Cursor(_) => Self::field("cursor", &detail),
            TenantError::Label(_) => Self::field("labels", &detail),
            TenantError::UserLabel => Self::field("label", &detail),
            TenantError::NotAPerson => Self::forbidden(format!(
                "{detail}; a token for one tenant ends its engineers and viewers"
            )),
            TenantError::JetStream { .. } => {
                eprintln!("control API: {error}");
                let title = "The tenant's account does not take it";
                with(StatusCode::SERVICE_UNAVAILABLE, "account", title)
            }
            TenantError::LimitTooSmall { what, .. } => {
                Self::field(&format!("limits.{what}"), &detail)
            }
            TenantError::Unknown(_) => {
                with(StatusCode::NOT_FOUND, "unknown-tenant", "There is no such tenant")
            }
            TenantError::UnknownUser { .. } => {
                with(StatusCode::NOT_FOUND, "unknown-user", "There is no such user")
            }
            TenantError::Taken { .. } | TenantError::State { .. } | TenantError::Purged(_) => {
                with(StatusCode::CONFLICT, "state", "The tenant is in another state")
            }
            TenantError::BelowUse(_) => {
                with(StatusCode::CONFLICT, "below-use", "More is in use than the limits allow")
            }
            TenantError::TooManyUsers { .. } => {
                with(StatusCode::CONFLICT, "too-many-users", "The tenant has too many users")
            }
            TenantError::Busy { .. } => {
                let title = "Somebody else changes tenants";
                let detail = "try again when Retry-After says".to_owned();
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", title, detail);
                Self { retry: Some(Duration::from_secs(1)), ..problem }
            }
            TenantError::Resolver(_) => {
                eprintln!("control API: {error}");
                let title = "The NATS servers do not answer";
                let detail = "try again later; the platform's own log says more".to_owned();
                let problem =
                    Self::new(StatusCode::SERVICE_UNAVAILABLE, "no-servers", title, detail);
                Self { retry: Some(Duration::from_secs(5)), ..problem }
            }
            _ => Self::broken(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry {
            headers
                .insert(RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
        }
        response.extensions_mut().insert(self);
        response
    }
}
