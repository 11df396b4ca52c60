//! The calls.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::{Extension, Json, Router, middleware};
use millrace_lattice_config::Role;
use millrace_lattice_config::audit::{Log, Logged, PAGE_MAX};
use millrace_lattice_config::resolver::Usage;
use millrace_lattice_config::tenants::{
    Limits, Record, State as TenantState, TenantError, Tenants, UserRecord,
};
use millrace_lattice_config::tokens::Access;
use serde::{Deserialize, Serialize};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use crate::Api;
use crate::allow::{Caller, guard};
use crate::extract::{Asked, Named, Sent};
use crate::problem::Problem;
use crate::{drafts, sign_in};

/// How long a change waits for those before it.
const TURN: Duration = Duration::from_secs(10);
/// A change that takes longer goes on, and its caller is told so.
const ANSWER: Duration = Duration::from_secs(30);
/// Time of grace of a tenant that is removed, in seconds: a week.
const GRACE: u64 = 7 * 86_400;
/// Entries or tenants of a page, where the caller does not say.
const PAGE: usize = 100;

pub(crate) fn router(api: &Api, tls: bool) -> Router {
    let guarded = Router::new()
        .route("/v1/tenants", get(list))
        .route("/v1/tenants/{name}", get(show).put(put).delete(remove))
        .route("/v1/tenants/{name}/limits", patch(limits))
        .route("/v1/tenants/{name}/suspend", post(suspend))
        .route("/v1/tenants/{name}/resume", post(resume))
        .route("/v1/tenants/{name}/rotate", post(rotate))
        .route("/v1/tenants/{name}/users", post(issue))
        .route("/v1/tenants/{name}/users/{user}", delete(revoke))
        .route("/v1/tenants/{name}/audit", get(audit))
        .route("/v1/tenants/{name}/drafts", get(drafts::list))
        .route(
            "/v1/tenants/{name}/pipelines/{pipeline}/draft",
            get(drafts::show).put(drafts::save).delete(drafts::discard),
        )
        .route("/v1/session", get(sign_in::show).delete(sign_in::end))
        .route("/v1/refused", get(refused))
        .fallback(nothing)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard));
    Router::new()
        .route("/v1/openapi.json", get(described))
        .route("/v1/session", post(sign_in::begin))
        .merge(guarded)
        .method_not_allowed_fallback(no_method)
        .layer(Extension(Secure(tls)))
        .layer(middleware::map_response(unkept))
        .with_state(api.clone())
}

/// Whether callers come over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secure(pub(crate) bool);

/// Answers have secrets in them.
async fn unkept(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn nothing() -> Problem {
    let detail = "/v1/openapi.json says what there is".to_owned();
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", "There is nothing here", detail)
}

async fn no_method() -> Problem {
    let (title, detail) = ("This is not done here", "/v1/openapi.json says what there is");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no-such-method", title, detail.to_owned())
}

/// A tenant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct Tenant {
    /// Its name.
    name: String,
    /// Its lattice's name.
    lattice: String,
    /// `provisioning`, `active`, `suspended` or `removing`.
    #[schema(value_type = StateName)]
    state: TenantState,
    /// What it may use; -1 is no limit.
    limits: LimitsShown,
    /// Free words, for placement and for people.
    labels: BTreeMap<String, String>,
    /// Who may connect.
    users: Vec<UserShown>,
    /// When it was added, in seconds since the Unix epoch.
    created: i64,
    /// When it is deleted, in seconds since the Unix epoch.
    purge_after: Option<i64>,
}

/// A user of a tenant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct UserShown {
    /// Public key.
    id: String,
    /// What it may do.
    #[schema(value_type = RoleName)]
    role: Role,
    /// Whose it is.
    label: String,
    /// Whether it is one of the platform's own parts.
    platform: bool,
    /// In seconds since the Unix epoch.
    issued: i64,
    /// In seconds since the Unix epoch; 0 for never.
    expires: i64,
}

/// Limits; -1 is none.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct LimitsShown {
    connections: i64,
    leaf_nodes: i64,
    subscriptions: i64,
    payload: i64,
    disk: i64,
    memory: i64,
    streams: i64,
    consumers: i64,
}

/// What is used of the limits.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct UsageShown {
    connections: i64,
    leaf_nodes: i64,
    subscriptions: i64,
    disk: i64,
    memory: i64,
    streams: i64,
    consumers: i64,
}

/// Limits that are to be others; -1 is none.
// It is written where the description says what stands for nothing.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsSent {
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Connections at once.
    connections: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Leaf nodes at once.
    leaf_nodes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Subscriptions of one connection.
    subscriptions: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Bytes of one message.
    payload: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Bytes of streams on disk.
    disk: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Bytes of streams in memory.
    memory: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Streams.
    streams: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Consumers of one stream.
    consumers: Option<i64>,
}

impl LimitsSent {
    fn over(&self, limits: &Limits) -> Limits {
        Limits {
            connections: self.connections.unwrap_or(limits.connections),
            leaf_nodes: self.leaf_nodes.unwrap_or(limits.leaf_nodes),
            subscriptions: self.subscriptions.unwrap_or(limits.subscriptions),
            payload: self.payload.unwrap_or(limits.payload),
            disk: self.disk.unwrap_or(limits.disk),
            memory: self.memory.unwrap_or(limits.memory),
            streams: self.streams.unwrap_or(limits.streams),
            consumers: self.consumers.unwrap_or(limits.consumers),
        }
    }
}

impl From<Record> for Tenant {
    fn from(record: Record) -> Self {
        let limits = record.limits;
        Self {
            name: record.name,
            lattice: record.lattice,
            state: record.state,
            limits: LimitsShown {
                connections: limits.connections,
                leaf_nodes: limits.leaf_nodes,
                subscriptions: limits.subscriptions,
                payload: limits.payload,
                disk: limits.disk,
                memory: limits.memory,
                streams: limits.streams,
                consumers: limits.consumers,
            },
            labels: record.labels,
            users: record.users.into_iter().map(UserShown::from).collect(),
            created: record.created,
            purge_after: record.purge_after,
        }
    }
}

/// [`TenantState`] in the description.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only described")]
enum StateName {
    Provisioning,
    Active,
    Suspended,
    Removing,
}

/// [`Role`] in the description.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only described")]
enum RoleName {
    HostControl,
    HostRpc,
    Provider,
    Wadm,
    Control,
    Operator,
    Viewer,
}

/// [`Log`] in the description.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only described")]
enum LogName {
    Platform,
    Tenant,
    Journal,
}

impl From<UserRecord> for UserShown {
    fn from(user: UserRecord) -> Self {
        let UserRecord { id, role, label, platform, issued, expires, .. } = user;
        Self { id, role, label, platform, issued, expires }
    }
}

impl From<Usage> for UsageShown {
    fn from(usage: Usage) -> Self {
        Self {
            connections: usage.connections,
            leaf_nodes: usage.leaf_nodes,
            subscriptions: usage.subscriptions,
            disk: usage.disk,
            memory: usage.memory,
            streams: usage.streams,
            consumers: usage.consumers,
        }
    }
}

/// Does a change in a task of its own: a caller that goes away does not leave it half done.
async fn change<T, F>(
    api: &Api,
    caller: &Caller,
    name: &str,
    work: impl FnOnce(Tenants, String) -> F,
) -> Result<T, Problem>
where
    F: Future<Output = Result<T, TenantError>> + Send + 'static,
    T: Send + 'static,
{
    let tenants = api.0.tenants.with_who(&caller.who());
    let work = work(tenants.clone(), name.to_owned());
    let changing = Arc::clone(&api.0.changing);
    let task = tokio::spawn(async move {
        // Nobody else waits for so long: what is under way has a limit too.
        let _alone = tokio::time::timeout(TURN, changing.lock_owned()).await.ok()?;
        Some(work.await)
    });
    match tokio::time::timeout(ANSWER, task).await {
        Ok(Ok(Some(done))) => done.map_err(|error| {
            // A tenant that is there has written down what it refused.
            Problem::from(error).audited(tenants.keeps_refusals(name))
        }),
        Ok(Ok(None)) => {
            Err(TenantError::Busy { holder: "other calls of this API".to_owned() }.into())
        }
        Ok(Err(error)) => Err(Problem::broken(&error)),
        Err(_) => {
            let (title, detail) =
                ("It takes longer", "it goes on; look at the tenant to see when it is done");
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "takes-longer", title, detail.to_owned()))
        }
    }
}

/// Which part of all tenants.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListAsked {
    /// The `next` of the page before.
    after: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

/// Some of all tenants, by name.
#[derive(Serialize, ToSchema)]
struct TenantPage {
    /// The tenants.
    tenants: Vec<Tenant>,
    /// What to give as `after` for the next page, if there is more.
    next: Option<String>,
    /// Records that cannot be read; the platform's operator sees which by `millrace tenant list`.
    damaged: usize,
}

fn page(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        _ => Err(Problem::field("limit", &format!("1 to {PAGE_MAX}"))),
    }
}

/// All tenants, in pages. A token for one tenant sees that one.
#[utoipa::path(get, path = "/v1/tenants", params(ListAsked), responses((status = 200, body = TenantPage), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Asked(asked): Asked<ListAsked>,
) -> Result<Json<TenantPage>, Problem> {
    let limit = page(asked.limit)?;
    let after = asked.after.unwrap_or_default();
    let (records, errors) = api.0.tenants.scan()?;
    let seen = |record: &Record| record.name > after && caller.may_look(&record.name).is_ok();
    let mut tenants: Vec<Tenant> =
        records.into_iter().filter(seen).take(limit + 1).map(Tenant::from).collect();
    let more = tenants.len() > limit;
    tenants.truncate(limit);
    let next = tenants.last().filter(|_| more).map(|last| last.name.clone());
    let damaged = if caller.is_limited() { 0 } else { errors.len() };
    Ok(Json(TenantPage { tenants, next, damaged }))
}

/// A tenant beside what it uses.
#[derive(Serialize, ToSchema)]
struct TenantShown {
    /// The tenant.
    tenant: Tenant,
    /// What it uses now.
    usage: UsageShown,
}

/// A tenant, its limits and what it uses.
#[utoipa::path(get, path = "/v1/tenants/{name}", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), responses((status = 200, body = TenantShown), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
) -> Result<Json<TenantShown>, Problem> {
    caller.may_look(&name)?;
    let shown = api.0.tenants.show(&name).await?;
    Ok(Json(TenantShown { tenant: shown.record.into(), usage: shown.usage.into() }))
}

/// A tenant as it is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Declared {
    /// Limits that are others than by default.
    limits: LimitsSent,
    /// All its labels.
    labels: BTreeMap<String, String>,
}

/// Adds a tenant, or gives one that is there these limits and labels. It can be called again, also after an interruption.
#[utoipa::path(put, path = "/v1/tenants/{name}", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), request_body = Option<Declared>, responses((status = 200, body = Tenant, description = "It was there"), (status = 201, body = Tenant, description = "It was added"), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn put(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Sent(declared): Sent<Declared>,
) -> Result<(StatusCode, Json<Tenant>), Problem> {
    caller.may_manage(&name)?;
    let limits = declared.limits.over(&Limits::default());
    let labels = declared.labels;
    let (status, record) = change(&api, &caller, &name, |tenants, name| async move {
        let mut record = match tenants.get(&name) {
            Ok(record) if record.state != TenantState::Provisioning => record,
            Ok(_) | Err(TenantError::Unknown(_)) => {
                let go = &mut |_| ControlFlow::Continue(());
                let record = tenants.add(&name, &limits, &labels, go).await?;
                return Ok((StatusCode::CREATED, record));
            }
            Err(error) => return Err(error),
        };
        // Both or none.
        Tenants::check(&limits, &labels)?;
        if record.limits != limits {
            record = tenants.limits(&name, |_| limits, false).await?;
        }
        if record.labels != labels {
            record = tenants.labels(&name, &labels).await?;
        }
        Ok((StatusCode::OK, record))
    })
    .await?;
    Ok((status, Json(record.into())))
}

/// Limits that are to be others.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct NewLimits {
    /// Those that are not named stay.
    limits: LimitsSent,
    /// Also below what is in use.
    force: bool,
}

/// Changes limits.
#[utoipa::path(patch, path = "/v1/tenants/{name}/limits", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), request_body = Option<NewLimits>, responses((status = 200, body = Tenant), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn limits(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Sent(new): Sent<NewLimits>,
) -> Result<Json<Tenant>, Problem> {
    caller.may_manage(&name)?;
    let record = change(&api, &caller, &name, |tenants, name| async move {
        tenants.limits(&name, |limits| new.limits.over(limits), new.force).await
    })
    .await?;
    Ok(Json(record.into()))
}

/// Nothing needs to be said.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Empty {}

/// What came of a suspension.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct Suspended {
    /// After how many milliseconds its last connection was gone; null when one was still there after five seconds.
    cut_ms: Option<u64>,
}

/// Cuts all connections of a tenant and refuses new ones. Its data stays.
#[utoipa::path(post, path = "/v1/tenants/{name}/suspend", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), request_body = Option<Empty>, responses((status = 200, body = Suspended), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn suspend(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Sent(Empty {}): Sent<Empty>,
) -> Result<Json<Suspended>, Problem> {
    caller.may_manage(&name)?;
    let cut =
        change(&api, &caller, &name, |tenants, name| async move { tenants.suspend(&name).await })
            .await?;
    let cut_ms = cut.map(|cut| u64::try_from(cut.as_millis()).unwrap_or(u64::MAX));
    Ok(Json(Suspended { cut_ms }))
}

/// Lets a suspended tenant work again, also one that is being removed.
#[utoipa::path(post, path = "/v1/tenants/{name}/resume", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), request_body = Option<Empty>, responses((status = 200, body = Tenant), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn resume(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Sent(Empty {}): Sent<Empty>,
) -> Result<Json<Tenant>, Problem> {
    caller.may_manage(&name)?;
    let work = |tenants: Tenants, name: String| async move { tenants.resume(&name).await };
    let record = change(&api, &caller, &name, work).await?;
    Ok(Json(record.into()))
}

/// How a tenant is removed.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
struct RemoveAsked {
    /// It is suspended, and deleted after so many seconds: by default a week.
    grace_seconds: Option<u64>,
    /// Delete it now, with all its data.
    purge: Option<bool>,
}

/// Suspends a tenant, and deletes it after a time of grace or at once.
#[utoipa::path(delete, path = "/v1/tenants/{name}", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), RemoveAsked), responses((status = 200, body = Tenant, description = "It is suspended, until its grace is over"), (status = 204, description = "It is gone"), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Asked(asked): Asked<RemoveAsked>,
) -> Result<Response, Problem> {
    caller.may_manage(&name)?;
    let purge = asked.purge == Some(true);
    let grace = Duration::from_secs(asked.grace_seconds.unwrap_or(GRACE));
    let record = change(&api, &caller, &name, move |tenants, name| async move {
        if !purge {
            return tenants.remove(&name, grace).await.map(Some);
        }
        // One that was left in the middle of being added has no connections to cut.
        if tenants.get(&name)?.state != TenantState::Provisioning {
            tenants.remove(&name, Duration::ZERO).await?;
        }
        tenants.purge(&name).await.map(|()| None)
    })
    .await?;
    Ok(match record {
        Some(record) => Json(Tenant::from(record)).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Which keys are exchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct RotateAsked {
    /// The key that signs users as well. All that was given to people ends with it.
    signing: bool,
}

/// Users that ended.
#[derive(Serialize, ToSchema)]
struct Ended {
    /// Who needs new credentials.
    ended: Vec<UserShown>,
}

/// Exchanges the users of the platform's parts, or the key that signs users.
#[utoipa::path(post, path = "/v1/tenants/{name}/rotate", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), request_body = Option<RotateAsked>, responses((status = 200, body = Ended), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn rotate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Sent(asked): Sent<RotateAsked>,
) -> Result<Json<Ended>, Problem> {
    caller.may_manage(&name)?;
    let rotated = change(&api, &caller, &name, move |tenants, name| async move {
        match asked.signing {
            true => tenants.rotate_signing(&name).await,
            false => tenants.rotate_users(&name).await,
        }
    })
    .await?;
    Ok(Json(Ended { ended: rotated.ended.into_iter().map(UserShown::from).collect() }))
}

/// A user that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NewUser {
    /// What it may do: `operator` (an engineer) or `viewer`; with a token for all tenants also one of the platform's parts.
    #[schema(value_type = RoleName)]
    role: Role,
    /// Whose it is; credentials are revoked by it.
    #[serde(default)]
    label: String,
    /// It ends after so many seconds.
    ttl_seconds: Option<u64>,
}

/// New credentials, which are kept nowhere else.
#[derive(Serialize, ToSchema)]
struct Issued {
    /// The user.
    user: UserShown,
    /// The text of a credentials file for `millrace --creds`, `wash` and NATS' clients.
    credentials: String,
}

/// Issues credentials of a new user.
#[utoipa::path(post, path = "/v1/tenants/{name}/users", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$")), request_body = NewUser, responses((status = 201, body = Issued), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn issue(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Sent(new): Sent<NewUser>,
) -> Result<(StatusCode, Json<Issued>), Problem> {
    caller.may(&name, Access::Admin)?;
    if caller.is_limited() && !matches!(new.role, Role::Operator | Role::Viewer) {
        let detail = "a token for one tenant issues operators and viewers; the others are the platform's own parts";
        return Err(Problem::forbidden(detail.to_owned()));
    }
    let issued = change(&api, &caller, &name, move |tenants, name| async move {
        let ttl = new.ttl_seconds.map(Duration::from_secs);
        tenants.creds(&name, new.role, &new.label, ttl).await
    })
    .await?;
    let shown = Issued { user: issued.user.into(), credentials: issued.credentials };
    Ok((StatusCode::CREATED, Json(shown)))
}

/// Ends a user, by its label or public key: its connections are cut, and it cannot return.
#[utoipa::path(delete, path = "/v1/tenants/{name}/users/{user}", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), ("user" = String, Path)), responses((status = 200, body = Ended), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, user, .. }: Named,
) -> Result<Json<Ended>, Problem> {
    caller.may(&name, Access::Admin)?;
    let limited = caller.is_limited();
    let ended = change(&api, &caller, &name, move |tenants, name| async move {
        match limited {
            true => tenants.revoke_person(&name, &user).await,
            false => tenants.revoke(&name, &user).await,
        }
    })
    .await?;
    Ok(Json(Ended { ended: ended.into_iter().map(UserShown::from).collect() }))
}

/// Which part of an audit log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditAsked {
    /// The `next` of the page before.
    cursor: Option<String>,
    /// At most so many entries, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

/// Who did what.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct EntryShown {
    /// `platform` (signed), `tenant` (its engineers can write anything) or `journal` (on the platform's disk).
    #[schema(value_type = LogName)]
    log: Log,
    /// Its number in that log.
    sequence: u64,
    /// In seconds since the Unix epoch.
    time: i64,
    /// Who.
    who: String,
    /// Did what, such as `tenant.suspend`.
    what: String,
    /// To what.
    subject: String,
    /// `ok`, or why not.
    outcome: String,
}

impl From<Logged> for EntryShown {
    fn from(Logged { entry, log, sequence }: Logged) -> Self {
        let (time, who, what) = (entry.time, entry.who, entry.what);
        Self { log, sequence, time, who, what, subject: entry.subject, outcome: entry.outcome }
    }
}

/// Some of an audit log, oldest first.
#[derive(Serialize, ToSchema)]
struct AuditPage {
    /// The entries.
    entries: Vec<EntryShown>,
    /// What to give as `cursor` for the next page; later also for what is new.
    next: String,
    /// Whether there is more now.
    more: bool,
    /// Entries since the page before that had to make room for newer ones, and are lost.
    missed: u64,
}

/// A tenant's audit log, in pages. Of a tenant that is suspended it is the platform's own journal.
#[utoipa::path(get, path = "/v1/tenants/{name}/audit", params(("name" = String, Path, pattern = "^[a-z][a-z0-9-]{0,39}$"), AuditAsked), responses((status = 200, body = AuditPage), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn audit(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named { tenant: name, .. }: Named,
    Asked(asked): Asked<AuditAsked>,
) -> Result<Json<AuditPage>, Problem> {
    caller.may_look(&name)?;
    let limit = page(asked.limit)?;
    let from = asked.cursor.as_deref().map(str::parse).transpose()?;
    let page = api.0.tenants.audit_page(&name, from, limit).await?;
    Ok(Json(AuditPage {
        entries: page.entries.into_iter().map(EntryShown::from).collect(),
        next: page.next.to_string(),
        more: page.more,
        missed: page.missed,
    }))
}

/// Calls that were refused before they came to a tenant.
#[derive(Serialize, ToSchema)]
struct Refused {
    /// The newest, oldest first.
    entries: Vec<RefusedCall>,
}

/// A call that was refused.
#[derive(Serialize, ToSchema)]
struct RefusedCall {
    /// In seconds since the Unix epoch.
    time: i64,
    /// Whose token it was, or `nobody`.
    who: String,
    /// Method and path.
    call: String,
    /// Status and reason.
    outcome: String,
}

/// The newest calls that were refused before they came to a tenant: without a good token, not allowed, too many, not valid.
#[utoipa::path(get, path = "/v1/refused", responses((status = 200, body = Refused), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = "5XX", body = Problem, content_type = "application/problem+json")))]
async fn refused(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Refused>, Problem> {
    if caller.is_limited() {
        let detail = "a token for one tenant sees nothing of the others";
        return Err(Problem::forbidden(detail.to_owned()));
    }
    let mut all = api.0.journal.tail().map_err(|error| Problem::broken(&error))?;
    // Sessions that began and ended stand there too.
    all.retain(|entry| entry.what == "api.call");
    let skipped = all.len().saturating_sub(PAGE_MAX);
    let entries = all.into_iter().skip(skipped).map(|entry| RefusedCall {
        time: entry.time,
        who: entry.who,
        call: entry.subject,
        outcome: entry.outcome,
    });
    Ok(Json(Refused { entries: entries.collect() }))
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", security(()), responses((status = 200, description = "OpenAPI 3.1")))]
async fn described() -> Response {
    // Anybody may ask for it.
    static TEXT: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&openapi()).unwrap_or_default().into());
    ([(CONTENT_TYPE, "application/json")], TEXT.clone()).into_response()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Millrace control API", version = "1", description = "Tenants of a platform, and their pipelines.", license(name = "Apache-2.0")),
    paths(
        list, show, put, remove, limits, suspend, resume, rotate, issue, revoke, audit, drafts::list, drafts::show, drafts::save,
        drafts::discard, sign_in::begin, sign_in::show, sign_in::end, refused, described
    ),
    components(schemas(Problem)),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = &mut openapi.components {
            let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
            components.add_security_scheme("token", scheme);
        }
    }
}

/// The description of all calls, as OpenAPI 3.1.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    Description::openapi()
}
