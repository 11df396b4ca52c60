//! Customers, apart: a tenant is a NATS account with a lattice of its own.
//!
//! NATS runs in operator mode: what an account may do, and who its users are, stands in JWTs that the operator and the
//! account have signed, not in the server's configuration. So tenants come and go without a restart.
//!
//! - [`jwt`]: the claims of operators, accounts and users, signed and verified.
//! - [`keys`]: the private keys on disk, encrypted if wanted.
//! - [`roles`]: what each kind of user may publish and subscribe to.
//! - [`home`]: the folder of an installation, which holds all of this.
//! - [`server`] and [`ca`]: the configuration of nats-server, and certificates.
//! - [`resolver`]: accounts pushed to a running server, and taken from it.
//! - [`tenants`]: records and provisioning.
//! - [`audit`]: a tenant's audit log in pages; [`journal`]: what was refused before it came to a tenant.
//! - [`tokens`]: who may use the control API; [`drafts`]: what they are at work on.
//! - [`class`] and [`join`]: what a host may use, and further hosts on other machines.
//!
//! docs/tenants.md describes it for those who operate it.

pub mod audit;
pub mod ca;
pub mod class;
pub mod drafts;
mod files;
pub mod home;
pub mod join;
pub mod journal;
pub mod jwt;
pub mod keys;
pub mod names;
pub mod resolver;
pub mod roles;
pub mod server;
pub mod tenants;
pub mod tokens;

pub use files::{FileError, Lock};
pub use home::{Home, HomeError};
pub use roles::Role;

/// The time as JWTs have it: seconds since the Unix epoch.
#[must_use]
pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}
