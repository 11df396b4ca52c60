//! What is known of a server that steps were granted requests to, and is not theirs to know.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Settings;

/// A server that steps were granted requests to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Server {
    /// File with the value of the header `Authorization`, such as `Bearer` and a token, on the machine where the conduit runs.
    /// Read at each request; a final line break is not part of it. The step does not see it, and cannot send another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_file: Option<String>,
    /// File with the authorities that may have signed the server's certificate, in PEM, on the machine where the conduit runs,
    /// read at each request. Without it, those of that machine's operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<String>,
    /// Whether it may be asked over `http://`, where everybody on the way can read and change what is sent. Without it only
    /// over `https://`.
    pub allow_plain: bool,
}

impl Settings for Server {}
