//! The token for OAUTHBEARER, read from a file that somebody else keeps fresh.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_kit::telemetry::now_ms;
use rdkafka::client::OAuthToken;

use crate::client::secret;

/// After how long a token is read again that does not say when it expires, in
/// milliseconds.
const LIFETIME_MS: i64 = 5 * 60_000;

/// The token as it is in `file` now.
///
/// # Errors
///
/// When the file cannot be read. The text names the setting.
pub(crate) fn read(file: &Path) -> Result<OAuthToken, String> {
    let token = secret(file).map_err(|e| format!("token-file {}: {e}", file.display()))?;
    let claims = claims(&token).unwrap_or_default();
    let principal = claims.get("sub").and_then(|sub| sub.as_str()).unwrap_or_default();
    let expires = claims.get("exp").and_then(serde_json::Value::as_f64);
    let now = i64::try_from(now_ms()).unwrap_or(i64::MAX);
    // librdkafka refuses a token that has expired and asks again in ten
    // seconds: the words for that are its own.
    #[allow(clippy::cast_possible_truncation)]
    let lifetime_ms = expires.map_or(now.saturating_add(LIFETIME_MS), |exp| (exp * 1_000.0) as i64);
    Ok(OAuthToken { principal_name: principal.to_owned(), lifetime_ms, token })
}

/// The claims of a JSON web token (RFC 7519, section 3). Other tokens have
/// none that we can read, which is no error.
fn claims(token: &str) -> Option<serde_json::Value> {
    let payload = token.split('.').nth(1)?;
    let json = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_expiry_and_subject() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let payload = URL_SAFE_NO_PAD.encode(br#"{"sub":"press","exp":1900000000}"#);
        std::fs::write(file.path(), format!("e30.{payload}.sig\n")).unwrap();
        let token = read(file.path()).unwrap();
        assert_eq!(
            (token.principal_name.as_str(), token.lifetime_ms),
            ("press", 1_900_000_000_000)
        );
        assert!(!token.token.ends_with('\n'));
        std::fs::write(file.path(), "opaque").unwrap();
        let token = read(file.path()).unwrap();
        assert!(token.lifetime_ms > i64::try_from(now_ms()).unwrap() + LIFETIME_MS - 10_000);
        assert!(read(Path::new("/nowhere/token")).err().unwrap().contains("token-file /nowhere"));
    }
}
