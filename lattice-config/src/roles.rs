//! What each kind of user may do in its tenant's account: least privilege for one lattice.
//!
//! An account bounds everything: no permission here reaches another tenant. Within the account these rules keep apart
//! what the platform does, what the tenant's engineers do, and who only looks.
//!
//! Two things about NATS shape them. A wildcard stands for whole words, so "every stream whose name begins with
//! `MILLRACE_<lattice>_`" cannot be said: who makes streams may make any, except those that are denied by name. And a
//! consumer can deliver to any subject, whatever its maker may publish: who may make consumers is trusted with the
//! account's subjects, so a viewer may not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::jwt::{Permissions, Subjects};

/// The stream of a tenant's audit log.
pub const AUDIT_STREAM: &str = "MILLRACE_AUDIT";

/// The stream of what a tenant's own engineers did: one of its own, so that they cannot push the other's entries out.
pub const AUDIT_USER_STREAM: &str = "MILLRACE_AUDIT_USER";

/// What a viewer's inboxes begin with.
const VIEWER_INBOX: &str = "_INBOX_viewer";

/// Inboxes of all roles.
const INBOXES: [&str; 2] = ["_INBOX.>", "_INBOX_viewer.>"];

/// What a user is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The host, towards the control interface: its commands, events, and the lattice's buckets.
    HostControl,
    /// The host, towards components and providers: calls, and what it tells providers.
    HostRpc,
    /// A provider: calls, and the streams of its edges.
    Provider,
    /// wadm: its API, its streams, and the control interface.
    Wadm,
    /// The platform's own tools, which also write the audit log.
    Control,
    /// An engineer of the tenant: everything that the command line does.
    Operator,
    /// Somebody who only looks: status, lists, taps.
    Viewer,
}

/// A role of another name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no role {0:?}: one of host-control, host-rpc, provider, wadm, control, operator, viewer")]
pub struct UnknownRole(String);

impl Role {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::HostControl,
        Self::HostRpc,
        Self::Provider,
        Self::Wadm,
        Self::Control,
        Self::Operator,
        Self::Viewer,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostControl => "host-control",
            Self::HostRpc => "host-rpc",
            Self::Provider => "provider",
            Self::Wadm => "wadm",
            Self::Control => "control",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let same = |role: &Self| role.as_str() == text;
        Self::ALL.into_iter().find(same).ok_or_else(|| UnknownRole(text.chars().take(80).collect()))
    }
}

/// What the inboxes of a role begin with: where answers to its requests go. A viewer has its own, and cannot listen to those
/// of others, whose answers have more in them than it may ask for.
#[must_use]
pub fn inbox(role: Role) -> &'static str {
    match role {
        Role::Viewer => VIEWER_INBOX,
        _ => "_INBOX",
    }
}

/// Subject of a tenant's audit log for what the platform's tools did.
#[must_use]
pub fn audit_subject(lattice: &str) -> String {
    format!("millrace-audit.{lattice}.platform")
}

/// Subject of a tenant's audit log for what its own engineers did.
#[must_use]
pub fn audit_user_subject(lattice: &str) -> String {
    format!("millrace-audit.{lattice}.user")
}

/// What a role may in a lattice.
#[must_use]
pub fn permissions(role: Role, lattice: &str) -> Permissions {
    let l = lattice;
    // The buckets that the host keeps its lattice in.
    let lattice_buckets = [format!("KV_LATTICEDATA_{l}"), format!("KV_CONFIGDATA_{l}")];
    let mut p = Permissions::default();
    // Answers to one's own requests, and questions about oneself.
    allow(&mut p.subscribe, [format!("{}.>", inbox(role))]);
    allow(&mut p.publish, ["$SYS.REQ.USER.INFO", "$JS.API.INFO"]);
    match role {
        Role::HostControl => {
            allow(&mut p.subscribe, [format!("wasmbus.ctl.v1.{l}.>")]);
            allow(
                &mut p.publish,
                [
                    format!("wasmbus.evt.{l}.>"),
                    format!("wasmbus.cfg.{l}.req"),
                    // What the host checks before it starts, and flow control of its watches.
                    "$JS.FC.>".to_owned(),
                ],
            );
            allow(&mut p.publish, INBOXES);
            for bucket in lattice_buckets {
                allow(&mut p.publish, stream_use(&bucket));
                deny(
                    &mut p.publish,
                    ["DELETE", "PURGE"].map(|verb| format!("$JS.API.STREAM.{verb}.{bucket}")),
                );
                allow(&mut p.publish, [format!("$KV.{}.>", bucket.trim_start_matches("KV_"))]);
            }
            // It takes the stages that it runs from here, and writes nothing.
            let artifacts = format!("KV_MILLRACE_{l}_artifacts");
            allow(
                &mut p.publish,
                [
                    format!("$JS.API.STREAM.INFO.{artifacts}"),
                    format!("$JS.API.DIRECT.GET.{artifacts}.>"),
                ],
            );
        }
        Role::HostRpc | Role::Provider => {
            let calls = [format!("{l}.>"), format!("wasmbus.rpc.{l}.>")];
            allow(&mut p.publish, calls.clone());
            allow(&mut p.subscribe, calls);
            allow(&mut p.publish, INBOXES);
            // Providers have a user of their own, so that the host's has nothing of JetStream.
            if role == Role::Provider {
                provider(&mut p, l);
                deny_streams(&mut p, lattice_buckets.iter().map(String::as_str));
            }
        }
        Role::Wadm => {
            // It subscribes with a wildcard in the lattice's place, and a narrower rule refuses that.
            allow(&mut p.subscribe, ["wadm.>", "wasmbus.evt.*.>"]);
            allow(
                &mut p.publish,
                [
                    "wadm.>".to_owned(),
                    format!("wasmbus.ctl.v1.{l}.>"),
                    format!("wasmbus.evt.{l}.>"),
                    "$JS.API.>".to_owned(),
                    "$JS.ACK.>".to_owned(),
                    "$JS.FC.>".to_owned(),
                    "$KV.wadm_state.>".to_owned(),
                    "$KV.wadm_manifests.>".to_owned(),
                    // What works beside it judges new versions by the links' counters, and keeps what it found.
                    format!("millrace.{l}.status"),
                    format!("millrace.{l}.status.*"),
                    format!("$KV.MILLRACE_{l}_rollouts.>"),
                ],
            );
            allow(&mut p.publish, INBOXES);
            deny_streams(&mut p, lattice_buckets.iter().map(String::as_str));
        }
        Role::Control | Role::Operator => {
            allow(
                &mut p.subscribe,
                [
                    format!("wasmbus.evt.{l}.>"),
                    format!("wadm.evt.{l}.>"),
                    format!("wadm.status.{l}.>"),
                    format!("millrace.{l}.>"),
                ],
            );
            allow(
                &mut p.publish,
                [
                    format!("wasmbus.ctl.v1.{l}.>"),
                    format!("wadm.api.{l}.>"),
                    format!("millrace.{l}.>"),
                    // A dead letter that is tried again is a call of its stage.
                    format!("{l}.>"),
                    "_INBOX.>".to_owned(),
                    "$JS.API.>".to_owned(),
                    "$JS.ACK.>".to_owned(),
                    "$JS.FC.>".to_owned(),
                    "$KV.>".to_owned(),
                    audit_user_subject(l),
                ],
            );
            if role == Role::Control {
                allow(&mut p.publish, [audit_subject(l)]);
            } else {
                deny_streams(&mut p, lattice_buckets.iter().map(String::as_str));
            }
        }
        Role::Viewer => {
            allow(
                &mut p.subscribe,
                [
                    format!("wasmbus.evt.{l}.>"),
                    format!("wadm.evt.{l}.>"),
                    format!("millrace.{l}.>"),
                ],
            );
            allow(
                &mut p.publish,
                [
                    format!("wasmbus.ctl.v1.{l}.host.ping"),
                    format!("wasmbus.ctl.v1.{l}.host.get.*"),
                    format!("wasmbus.ctl.v1.{l}.link.get"),
                    format!("wasmbus.ctl.v1.{l}.claims.get"),
                    format!("wadm.api.{l}.model.list"),
                    format!("wadm.api.{l}.model.get"),
                    format!("wadm.api.{l}.model.get.*"),
                    format!("wadm.api.{l}.model.status.*"),
                    format!("wadm.api.{l}.model.versions.*"),
                    format!("millrace.{l}.status"),
                    format!("millrace.{l}.status.*"),
                    "$JS.API.STREAM.NAMES".to_owned(),
                    "$JS.API.STREAM.LIST".to_owned(),
                    "$JS.API.STREAM.INFO.*".to_owned(),
                    "$JS.API.STREAM.MSG.GET.*".to_owned(),
                    "$JS.API.DIRECT.GET.>".to_owned(),
                    "$JS.API.CONSUMER.NAMES.*".to_owned(),
                    "$JS.API.CONSUMER.LIST.*".to_owned(),
                    "$JS.API.CONSUMER.INFO.*.*".to_owned(),
                ],
            );
            // Configurations may have what a broker is reached with.
            for bucket in &lattice_buckets {
                deny(
                    &mut p.publish,
                    [
                        format!("$JS.API.STREAM.MSG.GET.{bucket}"),
                        format!("$JS.API.DIRECT.GET.{bucket}"),
                        format!("$JS.API.DIRECT.GET.{bucket}.>"),
                    ],
                );
            }
        }
    }
    // Nobody's but the platform's, and never rewritten.
    if p.publish.allow.iter().any(|subject| subject == "$JS.API.>") {
        deny_streams(&mut p, [AUDIT_STREAM, AUDIT_USER_STREAM]);
    }
    p
}

fn provider(p: &mut Permissions, l: &str) {
    let own = [format!("millrace.{l}.>")];
    allow(&mut p.publish, own.clone());
    allow(&mut p.subscribe, own);
    allow(&mut p.publish, ["$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>"]);
    // The lattice's list of links, which a provider compares itself with, and its events.
    let lists =
        [format!("wasmbus.ctl.v1.{l}.link.get"), format!("wasmbus.ctl.v1.{l}.config.get.*")];
    allow(&mut p.publish, lists);
}

/// What the use of one stream takes, but for deleting and purging it.
fn stream_use(stream: &str) -> [String; 6] {
    [
        format!("$JS.API.STREAM.*.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.*.{stream}.>"),
        format!("$JS.ACK.{stream}.>"),
    ]
}

/// Nothing that changes these streams, also not by way of their subjects. Three short rules for each: a token goes to
/// the server as one line, of which it takes 4096 bytes.
fn deny_streams<'a>(p: &mut Permissions, streams: impl IntoIterator<Item = &'a str>) {
    for stream in streams {
        deny(&mut p.publish, [format!("$JS.API.STREAM.*.{stream}")]);
        deny(&mut p.publish, [format!("$JS.API.STREAM.MSG.DELETE.{stream}")]);
        if let Some(bucket) = stream.strip_prefix("KV_") {
            deny(&mut p.publish, [format!("$KV.{bucket}.>")]);
        }
    }
}

fn allow<S: Into<String>>(subjects: &mut Subjects, more: impl IntoIterator<Item = S>) {
    add(&mut subjects.allow, more);
}

fn deny<S: Into<String>>(subjects: &mut Subjects, more: impl IntoIterator<Item = S>) {
    add(&mut subjects.deny, more);
}

fn add<S: Into<String>>(list: &mut Vec<String>, more: impl IntoIterator<Item = S>) {
    for subject in more.into_iter().map(Into::into) {
        if !list.contains(&subject) {
            list.push(subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_roles() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
        }
        assert!("root".parse::<Role>().is_err());
    }

    /// An empty list of what is allowed would mean everything.
    #[test]
    fn no_role_is_without_rules_and_none_may_rewrite_the_audit_log() {
        for role in Role::ALL {
            let p = permissions(role, "acme");
            assert!(!p.publish.allow.is_empty() && !p.subscribe.allow.is_empty(), "{role}");
            assert!(!p.publish.allow.iter().chain(&p.subscribe.allow).any(|s| s == ">"), "{role}");
            let at_large = p.publish.allow.contains(&"$JS.API.>".to_owned());
            let denied = p.publish.deny.contains(&"$JS.API.STREAM.*.MILLRACE_AUDIT".to_owned());
            assert_eq!(at_large, denied, "{role}");
        }
    }

    /// A server takes 4096 bytes for the line with token, signature, and what a client says of itself.
    #[test]
    fn a_token_fits_into_a_servers_line() {
        use crate::jwt::{Claims, User};
        let (account, user) = (nkeys::KeyPair::new_account(), nkeys::KeyPair::new_user());
        let lattice = "l".repeat(crate::names::MAX_LENGTH);
        for role in Role::ALL {
            let permissions = permissions(role, &lattice);
            let issuer_account = account.public_key();
            let claims = User { permissions, issuer_account, ..User::default() };
            let mut claims = Claims::new(&format!("{lattice} {role}"), &user.public_key(), claims);
            claims.exp = 2_000_000_000;
            claims.nats.tags = vec![format!("lattice:{lattice}"), format!("role:{role}")];
            let length = claims.sign(&account).unwrap().len();
            assert!(length < 3500, "{role}: {length}");
        }
    }
}
