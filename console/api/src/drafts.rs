//! Calls about drafts of pipelines.

use axum::extract::State;
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use millrace_lattice_config::drafts::{DraftError, Drafts, Over, Saved};
use millrace_lattice_config::tokens::Access;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Api;
use crate::allow::Caller;
use crate::extract::{Named, Sent, TEXT_BODY_MAX};
use crate::problem::Problem;

/// What is known of a draft.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SavedShown {
    /// Whose token it was saved with last.
    by: String,
    /// When, in seconds since the Unix epoch.
    at: i64,
    /// Its number, which grows with each save.
    revision: u64,
    /// What to give as `If-Match`, with its quotation marks.
    etag: String,
}

impl From<&Saved> for SavedShown {
    fn from(saved: &Saved) -> Self {
        let (by, at, revision) = (saved.by.clone(), saved.at, saved.revision);
        Self { by, at, revision, etag: format!("\"{}\"", saved.tag()) }
    }
}

/// The drafts of a tenant, by name.
#[derive(Serialize, ToSchema)]
pub(crate) struct DraftList {
    /// All of them; there are 200 at most.
    drafts: Vec<DraftRow>,
}

/// A draft in a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct DraftRow {
    /// The pipeline's name.
    pipeline: String,
    /// Who saved it.
    saved: SavedShown,
}

/// A draft.
#[derive(Serialize, ToSchema)]
pub(crate) struct DraftShown {
    /// Its text, as it was saved.
    text: String,
    /// Who saved it.
    saved: SavedShown,
}

/// A text to be saved.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewText {
    /// At most 1 MiB. It need not be a definition that makes sense.
    #[schema(max_length = 1_048_576)]
    text: String,
}

impl From<DraftError> for Problem {
    fn from(error: DraftError) -> Self {
        let detail = error.to_string();
        let with = |status, kind, title| Self::new(status, kind, title, detail.clone());
        match error {
            DraftError::Name(_) => Self::field("pipeline", &detail),
            DraftError::TooLong(_) => Self::field("text", &detail),
            DraftError::TooMany => {
                with(StatusCode::CONFLICT, "too-many-drafts", "The tenant has too many drafts")
            }
            DraftError::Unknown(_) => {
                with(StatusCode::NOT_FOUND, "unknown-draft", "There is no such draft")
            }
            DraftError::Changed(saved) => {
                let title = "Somebody else has changed it";
                with(StatusCode::PRECONDITION_FAILED, "changed", title)
                    .saved(saved.as_ref().map(SavedShown::from))
            }
            DraftError::Tenant(error) => error.into(),
            error => Self::broken(&error),
        }
    }
}

/// Works on the disk, outside of the threads that answer others.
async fn on_disk<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&Drafts) -> Result<T, DraftError> + Send + 'static,
) -> Result<T, Problem> {
    let drafts = api.0.drafts.clone();
    let done = tokio::task::spawn_blocking(move || work(&drafts)).await;
    Ok(done.map_err(|error| Problem::broken(&error))??)
}

/// The tag that a header names; none for a header that is not there.
fn tag(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match inner.filter(|inner| !inner.contains('"')) {
        Some(inner) => Ok(Some(inner.to_owned())),
        None => Err(Problem::field(name.as_str(), "one ETag as it was given, in quotation marks")),
    }
}

fn no_condition(detail: &str) -> Problem {
    let (kind, title) = ("no-condition", "It is not said over what");
    Problem::new(StatusCode::PRECONDITION_REQUIRED, kind, title, detail.to_owned())
}

fn etag(saved: &SavedShown) -> Result<[(HeaderName, HeaderValue); 1], Problem> {
    let value = HeaderValue::from_str(&saved.etag).map_err(|error| Problem::broken(&error))?;
    Ok([(ETAG, value)])
}

/// All drafts of a tenant.
#[utoipa::path(get, path = "/v1/tenants/{name}/drafts", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), responses((status = 200, body = DraftList), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant, .. }: Named,
) -> Result<Json<DraftList>, Problem> {
    caller.may_look(&tenant)?;
    let all = on_disk(&api, move |drafts| drafts.list(&tenant)).await?;
    let rows = all.iter().map(|(pipeline, saved)| DraftRow {
        pipeline: pipeline.clone(),
        saved: SavedShown::from(saved),
    });
    Ok(Json(DraftList { drafts: rows.collect() }))
}

/// The draft of a pipeline.
#[utoipa::path(get, path = "/v1/tenants/{name}/pipelines/{pipeline}/draft", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), ("pipeline" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), responses((status = 200, body = DraftShown, headers(("ETag" = String))), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant, pipeline, .. }: Named,
) -> Result<Response, Problem> {
    caller.may_look(&tenant)?;
    let draft = on_disk(&api, move |drafts| drafts.get(&tenant, &pipeline)).await?;
    let saved = SavedShown::from(&draft.saved);
    Ok((etag(&saved)?, Json(DraftShown { text: draft.text, saved })).into_response())
}

/// Saves a draft over what the caller has seen: `If-Match` with its ETag, or `If-None-Match: *` for a new one.
#[utoipa::path(put, path = "/v1/tenants/{name}/pipelines/{pipeline}/draft", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), ("pipeline" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)), request_body = NewText, responses((status = 200, body = SavedShown, headers(("ETag" = String))), (status = 201, body = SavedShown, headers(("ETag" = String))), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn save(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant, pipeline, .. }: Named,
    headers: HeaderMap,
    Sent(new): Sent<NewText, TEXT_BODY_MAX>,
) -> Result<Response, Problem> {
    caller.may(&tenant, Access::Author)?;
    let over = tag(&headers, &IF_MATCH)?;
    let is_new = headers.get(IF_NONE_MATCH).map(|value| value.as_bytes() == b"*");
    let status = match (&over, is_new) {
        (Some(_), None) => StatusCode::OK,
        (None, Some(true)) => StatusCode::CREATED,
        (None, None) => {
            let detail = "send If-Match with the draft's ETag, or `If-None-Match: *` for a new one";
            return Err(no_condition(detail));
        }
        _ => return Err(Problem::field("if-none-match", "`*` alone, and not beside If-Match")),
    };
    let (who, subject) = (caller.who(), pipeline.clone());
    let (of, by) = (tenant.clone(), caller.token.name.clone());
    let (saved, note) = on_disk(&api, move |drafts| {
        let over = over.as_deref().map_or(Over::Nothing, Over::Tag);
        drafts.save(&of, &pipeline, &new.text, over, &by)
    })
    .await?;
    if note {
        audit(&api, &who, &tenant, "draft.save", subject);
    }
    let saved = SavedShown::from(&saved);
    Ok((status, etag(&saved)?, Json(saved)).into_response())
}

/// Deletes a draft that the caller has seen: `If-Match` with its ETag.
#[utoipa::path(delete, path = "/v1/tenants/{name}/pipelines/{pipeline}/draft", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), ("pipeline" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), ("If-Match" = Option<String>, Header)), responses((status = 204, description = "It is gone"), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn discard(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant, pipeline, .. }: Named,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.may(&tenant, Access::Author)?;
    let seen = tag(&headers, &IF_MATCH)?;
    let seen = seen.ok_or_else(|| no_condition("send If-Match with the draft's ETag"))?;
    let (of, subject) = (tenant.clone(), pipeline.clone());
    on_disk(&api, move |drafts| drafts.delete(&of, &pipeline, &seen)).await?;
    audit(&api, &caller.who(), &tenant, "draft.delete", subject);
    Ok(StatusCode::NO_CONTENT)
}

/// Writes into the tenant's audit log, and keeps nobody waiting for it: NATS may be away, which keeps nobody from drawing.
fn audit(api: &Api, who: &str, tenant: &str, what: &'static str, subject: String) {
    let (tenants, tenant) = (api.0.tenants.with_who(who), tenant.to_owned());
    tokio::spawn(async move {
        let Ok(record) = tenants.get(&tenant) else { return };
        if let Err(error) = tenants.audit(&record, what, &subject, "ok").await {
            eprintln!("control API: {error}");
        }
    });
}
