//! Further hosts of a tenant, on other machines: all that one needs is in one token.
//!
//! The token is `mr1.` and the base64url form of JSON. It has credentials in it, so it is a secret; the host's users are its
//! own, and end with it ([`Tenants::remove_host`]).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::jwt::read_credentials;
use crate::names::{self, MAX_LENGTH};
use crate::tenants::{TenantError, Tenants, UserRecord};
use crate::{Role, now};

/// What a token begins with: what it is, and the version of its content.
const PREFIX: &str = "mr1.";

/// Longest token, in bytes. One of a usual host has about 8 KiB.
pub const TOKEN_MAX: usize = 64 << 10;

/// Most labels of a host, and most characters of a label's name and value.
const LABELS_MAX: usize = 32;
const LABEL_MAX: usize = 63;

/// Longest URL, in bytes.
const URL_MAX: usize = 512;

/// The users that a host has.
pub const ROLES: [Role; 3] = [Role::HostControl, Role::HostRpc, Role::Provider];

/// Whose users those of a host are: their label is this and the host's name.
const USERS: &str = "host:";

/// What a host on another machine needs to join a tenant's lattice.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Joining {
    /// The host's name, which is also its label `host`.
    pub host: String,
    /// The lattice.
    pub lattice: String,
    /// The NATS server, as that machine reaches it.
    pub url: String,
    /// The authority of the server's certificate, in PEM.
    pub authority: String,
    /// Credentials for each of [`ROLES`], as files have them.
    pub credentials: BTreeMap<String, String>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Limits and devices.
    pub class: Class,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no token of a host: {0}. `millrace tenant host add` prints one; take all of its line"
)]
pub struct TokenError(String);

/// What a host is to be.
#[derive(Debug, Clone, Default)]
pub struct NewHost {
    /// The NATS server, as the host's machine reaches it.
    pub url: String,
    /// The authority of the server's certificate, in PEM.
    pub authority: String,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Limits and devices.
    pub class: Class,
}

/// A host of a tenant that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostRecord {
    /// Its name.
    pub host: String,
    /// Its users.
    pub users: Vec<UserRecord>,
}

impl Joining {
    /// The token.
    #[must_use]
    pub fn token(&self) -> String {
        // Strings and numbers can always be written.
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// Whether all of it can be used.
    ///
    /// # Errors
    ///
    /// Says what cannot.
    pub fn check(&self) -> Result<(), TokenError> {
        let wrong = |what: String| Err(TokenError(what));
        if let Err(error) = names::check(&self.lattice) {
            return wrong(error.to_string());
        }
        check_host(&self.host).map_err(TokenError)?;
        check_url(&self.url).map_err(TokenError)?;
        check_labels(&self.labels).map_err(TokenError)?;
        self.class.check().map_err(TokenError)?;
        if !self.authority.contains("-----BEGIN CERTIFICATE-----") {
            return wrong("it has no certificate of an authority".to_owned());
        }
        for role in ROLES {
            let Some(text) = self.credentials.get(role.as_str()) else {
                return wrong(format!("it has no credentials for {role}"));
            };
            if let Err(error) = read_credentials(text) {
                return wrong(format!("the credentials for {role}: {error}"));
            }
        }
        if self.credentials.len() != ROLES.len() {
            return wrong("it has credentials that no host needs".to_owned());
        }
        Ok(())
    }
}

impl FromStr for Joining {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let wrong = |what: &dyn fmt::Display| TokenError(what.to_string());
        let text = text.trim();
        if text.len() > TOKEN_MAX {
            return Err(wrong(&format_args!("it has more than {TOKEN_MAX} bytes")));
        }
        let body =
            text.strip_prefix(PREFIX).ok_or_else(|| wrong(&"it does not begin with `mr1.`"))?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|error| wrong(&error))?;
        let joining: Self = serde_json::from_slice(&json).map_err(|error| wrong(&error))?;
        joining.check()?;
        Ok(joining)
    }
}

impl fmt::Debug for Joining {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, lattice, url, labels, .. } = self;
        write!(
            f,
            "Joining {{ host: {host:?}, lattice: {lattice:?}, url: {url:?}, labels: {labels:?}, .. }}"
        )
    }
}

/// A host's name: `[a-z][a-z0-9-]{0,39}`.
fn check_host(name: &str) -> Result<(), String> {
    let first = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if first && rest && name.len() <= MAX_LENGTH {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(format!(
        "{name:?} cannot be a host's name: a small letter first, then small letters, digits and hyphens, at most \
         {MAX_LENGTH} in all"
    ))
}

fn check_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("tls://").or_else(|| url.strip_prefix("nats://"));
    let plain = |rest: &str| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c))
    };
    if url.len() <= URL_MAX && rest.is_some_and(plain) {
        return Ok(());
    }
    let url: String = url.chars().take(80).collect();
    Err(format!("{url:?} is no URL of a NATS server, such as tls://plant.example:4222"))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("there are more than {LABELS_MAX} labels"));
    }
    for (name, value) in labels {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let good =
            |text: &str| !text.is_empty() && text.len() <= LABEL_MAX && text.chars().all(plain);
        if !good(name) || !good(value) || name == "host" {
            let shown: String = format!("{name}={value}").chars().take(80).collect();
            return Err(format!(
                "{shown:?} cannot be a label: letters, digits, dots, hyphens and underscores, at most {LABEL_MAX} on each \
                 side, and not `host`, which is the host's name"
            ));
        }
    }
    Ok(())
}

fn users_of(host: &str) -> String {
    format!("{USERS}{host}")
}

impl Tenants {
    /// Adds a host to a tenant: users of its own, and all that it needs to join, which is given this one time.
    ///
    /// # Errors
    ///
    /// When there is a host of that name, something cannot be used, or the tenant is not active. Then it has no users.
    pub async fn add_host(
        &self,
        tenant: &str,
        host: &str,
        new: NewHost,
    ) -> Result<Joining, TenantError> {
        let refuse =
            |reason: String| TenantError::Host { host: host.chars().take(80).collect(), reason };
        check_host(host).map_err(refuse)?;
        let record = self.get(tenant)?;
        let label = users_of(host);
        if record.users.iter().any(|user| user.label == label) {
            return Err(refuse(format!(
                "it is there already, and its token was printed when it was added. `millrace tenant host remove {tenant} \
                 {host}` ends that, then add it again"
            )));
        }
        let NewHost { url, authority, labels, class } = new;
        let mut joining = Joining {
            host: host.to_owned(),
            lattice: record.lattice,
            url,
            authority,
            credentials: BTreeMap::new(),
            labels,
            class,
        };
        check_url(&joining.url).map_err(refuse)?;
        check_labels(&joining.labels).map_err(refuse)?;
        joining.class.check().map_err(refuse)?;
        let mut issue = async || {
            for role in ROLES {
                let issued = self.creds_of_host(tenant, role, &label).await?;
                joining.credentials.insert(role.to_string(), issued.credentials);
            }
            joining.check().map_err(|error| refuse(error.to_string()))
        };
        if let Err(error) = issue().await {
            // Half of a host is none.
            let _ = self.revoke(tenant, &label).await;
            return Err(error);
        }
        Ok(joining)
    }

    /// Ends a host's users: its connections are cut, and its token counts no more.
    ///
    /// # Errors
    ///
    /// When there is no such host, or no server answers.
    pub async fn remove_host(&self, tenant: &str, host: &str) -> Result<(), TenantError> {
        let label = users_of(host);
        if !self.get(tenant)?.users.iter().any(|user| user.label == label) {
            return Err(TenantError::Host {
                host: host.chars().take(80).collect(),
                reason: format!(
                    "{tenant} has no such host; `millrace tenant host list {tenant}` names all"
                ),
            });
        }
        self.revoke(tenant, &label).await.map(drop)
    }

    /// The hosts that were added to a tenant, by name.
    ///
    /// # Errors
    ///
    /// When there is no such tenant.
    pub fn hosts(&self, tenant: &str) -> Result<Vec<HostRecord>, TenantError> {
        let mut hosts: BTreeMap<String, Vec<UserRecord>> = BTreeMap::new();
        for user in self.get(tenant)?.users {
            if user.expires != 0 && user.expires <= now() {
                continue;
            }
            if let Some(host) = user.label.strip_prefix(USERS).map(str::to_owned) {
                hosts.entry(host).or_default().push(user);
            }
        }
        Ok(hosts.into_iter().map(|(host, users)| HostRecord { host, users }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joining() -> Joining {
        let user = nkeys::KeyPair::new_user();
        let account = nkeys::KeyPair::new_account();
        let claims = crate::jwt::Claims::new("u", &user.public_key(), crate::jwt::User::default());
        let text = crate::jwt::credentials(&claims.sign(&account).unwrap(), &user.seed().unwrap());
        Joining {
            host: "hall-3".to_owned(),
            lattice: "acme".to_owned(),
            url: "tls://10.0.0.5:4222".to_owned(),
            authority: "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n".to_owned(),
            credentials: ROLES.iter().map(|role| (role.to_string(), text.clone())).collect(),
            labels: BTreeMap::from([("site".to_owned(), "hall-3".to_owned())]),
            class: Class { max_memory_mib: Some(64), ..Class::default() },
        }
    }

    #[test]
    fn a_token_has_all_of_it() {
        let joining = joining();
        let token = joining.token();
        assert_eq!(format!("  {token}\n").parse::<Joining>().unwrap(), joining);
        assert!(!format!("{joining:?}").contains("SEED"));
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_reason() {
        let token = joining().token();
        let reason = |text: &str| text.parse::<Joining>().unwrap_err().to_string();
        assert!(reason("").contains("does not begin"));
        assert!(reason(&token[..token.len() / 2]).contains("no token"));
        assert!(reason(&"x".repeat(TOKEN_MAX + 1)).contains("more than"));
        let changed = |change: fn(&mut Joining)| {
            let mut other = joining();
            change(&mut other);
            reason(&other.token())
        };
        assert!(changed(|j| j.host = "../x".to_owned()).contains("host's name"));
        assert!(changed(|j| j.lattice = "a.b".to_owned()).contains("name"));
        assert!(changed(|j| j.url = "tls://a b".to_owned()).contains("URL"));
        assert!(changed(|j| j.url = "http://a".to_owned()).contains("URL"));
        assert!(changed(|j| j.authority.clear()).contains("authority"));
        assert!(changed(|j| drop(j.labels.insert("a=b".into(), "c".into()))).contains("label"));
        assert!(changed(|j| drop(j.labels.insert("host".into(), "c".into()))).contains("label"));
        assert!(changed(|j| drop(j.credentials.remove("provider"))).contains("provider"));
        assert!(
            changed(|j| drop(j.credentials.insert("wadm".into(), "x".into())))
                .contains("no host needs")
        );
        assert!(
            changed(|j| drop(j.credentials.insert("provider".into(), "x".into())))
                .contains("provider")
        );
        assert!(changed(|j| j.class.devices.push("/etc/shadow".into())).contains("/dev"));
    }
}
