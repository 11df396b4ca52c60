//! What comes with a request, bounded, and refused in one shape.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Problem;

/// Largest body of a request, in bytes.
pub(crate) const BODY_MAX: usize = 64 << 10;
/// The same where a definition is sent, which has 1 MiB at most and is longer as JSON.
pub(crate) const TEXT_BODY_MAX: usize = 2 << 20;
/// How long a caller may take to send it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body of JSON of at most so many bytes. None at all is `{}`.
pub(crate) struct Sent<T, const MAX: usize = BODY_MAX>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync, const MAX: usize> FromRequest<S> for Sent<T, MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = tokio::time::timeout(PATIENCE, read(body, MAX)).await.map_err(|_| {
            let detail = format!("the body did not come within {PATIENCE:?}");
            Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                "The request took too long",
                detail,
            )
        })??;
        let kind = parts.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
        let is_json = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
        let is_nothing = bytes.is_empty() && kind.is_none();
        if !is_json && !is_nothing {
            let detail = "send JSON, with `Content-Type: application/json`".to_owned();
            let title = "The body is of a wrong kind";
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                title,
                detail,
            ));
        }
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let whole = serde_json::from_slice::<Value>(text);
        let whole = whole.map_err(|error| Problem::field("body", &error.to_string()))?;
        // Serde would take a list for an object, its values in the order of the fields.
        if has_list(&whole) || !whole.is_object() {
            return Err(Problem::field("body", "it is an object, and no list belongs in it"));
        }
        let mut reader = serde_json::Deserializer::from_slice(text);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = match error.path().to_string().as_str() {
                "." | "?" => "body".to_owned(),
                path => path.chars().take(100).collect(),
            };
            let detail: String = error.inner().to_string().chars().take(300).collect();
            Problem::field(&field, &detail)
        })?;
        Ok(Self(value))
    }
}

fn has_list(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(fields) => fields.values().any(has_list),
        _ => false,
    }
}

async fn read(body: Body, max: usize) -> Result<Vec<u8>, Problem> {
    match Limited::new(body, max).collect().await {
        Ok(whole) => Ok(whole.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("at most {max} bytes");
            Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
                detail,
            ))
        }
        Err(error) => Err(Problem::field("body", &error.to_string())),
    }
}

/// The words after the question mark.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wrong = |e: QueryRejection| Problem::field("query", &e.body_text());
        Query::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(wrong)
    }
}

/// The tenant that a path names, and what of it.
pub(crate) struct Named {
    pub(crate) tenant: String,
    pub(crate) user: String,
    pub(crate) pipeline: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let all = RawPathParams::from_request_parts(parts, state).await;
        let all = all.map_err(|e| Problem::field("path", &e.body_text()))?;
        let part = |name: &str| {
            let found = all.iter().find(|(found, _)| *found == name);
            found.map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        Ok(Self { tenant: part("name"), user: part("user"), pipeline: part("pipeline") })
    }
}
