//! What is answered: 202, or a problem (RFC 9457) of one line.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER,
    WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

/// Who answers: a dry run knows its own server by it.
pub(crate) const NAME: &str = "millrace-http";

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// For people. Never anything of the request.
    text: Cow<'static, str>,
    /// Seconds after which it may be tried again.
    after: Option<u64>,
    /// Methods that are taken, or how to show who sends.
    hint: Option<String>,
    /// Whether the connection is of no more use.
    close: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into(), after: None, hint: None, close: false }
    }

    /// It is the request's fault.
    pub(crate) fn bad(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn too_large(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    /// Nobody may say more to whom is not let in.
    pub(crate) fn unauthorized(scheme: &str) -> Self {
        let refusal = Self::new(StatusCode::UNAUTHORIZED, "not let in");
        Self { hint: Some(scheme.to_owned()), ..refusal }
    }

    pub(crate) fn method(allowed: &[&str]) -> Self {
        let refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not taken here");
        Self { hint: Some(allowed.join(", ")), ..refusal }
    }

    /// Not now: nothing says that the request was wrong.
    pub(crate) fn unavailable(text: impl Into<Cow<'static, str>>) -> Self {
        Self { after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, text) }
    }

    pub(crate) fn too_many() -> Self {
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "more requests than are let in");
        Self { after: Some(1), ..refusal }
    }

    /// The same, and the connection ends with it.
    pub(crate) fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    pub(crate) fn response(&self) -> Response<Full<Bytes>> {
        let text = &self.text;
        let body = format!("{{\"title\":\"{text}\",\"status\":{}}}\n", self.status.as_u16());
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(SERVER, HeaderValue::from_static(NAME));
        if let Some(after) = self.after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after));
        }
        let hint = self.hint.as_deref().and_then(|hint| HeaderValue::from_str(hint).ok());
        match (self.status, hint) {
            (StatusCode::UNAUTHORIZED, Some(hint)) => {
                headers.insert(WWW_AUTHENTICATE, hint);
            }
            (StatusCode::METHOD_NOT_ALLOWED, Some(hint)) => {
                headers.insert(ALLOW, hint);
            }
            _ => {}
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Everything of the request is safe.
pub(crate) fn accepted() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(SERVER, HeaderValue::from_static(NAME));
    response
}
