//! Sessions: how a browser shows its token once and not with each call.
//!
//! A session is a cookie of 256 random bits, which scripts of the page do not see and other sites do not send, and beside it a word
//! that only who may read an answer knows: a call that changes something carries it as the header `X-CSRF-Token`. Sessions are in
//! memory, as hashes: with the platform's process they end. One ends when it rests, with its time, and with its token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_lattice_config::tokens::Token;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Name of the cookie.
const COOKIE_NAME: &str = "millrace-session";
/// The header that a call which changes something has to carry.
pub(crate) const CSRF: &str = "x-csrf-token";
/// One that rests for this long ends.
const REST: Duration = Duration::from_secs(2 * 3600);
/// None is longer than this.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Most sessions of one token: with a further one, that which rested longest ends.
const OF_ONE: usize = 20;

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<[u8; 32], Kept>>);

#[derive(Debug)]
struct Kept {
    token: Token,
    csrf: String,
    began: Instant,
    used: Instant,
}

/// A session, for who has it.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Whose it is, as the token was.
    pub(crate) token: Token,
    /// What calls that change something have to carry.
    pub(crate) csrf: String,
    /// How long it lasts if it rests from now on.
    pub(crate) rest: Duration,
    key: [u8; 32],
}

impl Kept {
    fn left(&self, now: Instant) -> Option<Duration> {
        let of_life = LIFE.checked_sub(now.duration_since(self.began))?;
        let of_rest = REST.checked_sub(now.duration_since(self.used))?;
        Some(of_life.min(of_rest)).filter(|left| !left.is_zero())
    }
}

impl Sessions {
    /// Begins one. The text of the cookie is nowhere else afterwards.
    pub(crate) fn begin(&self, token: &Token, now: Instant) -> (Session, String) {
        let (text, csrf) = (secret(), secret());
        let key = key(&text);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| kept.left(now).is_some());
        let own = |kept: &&Kept| kept.token.name == token.name;
        if all.values().filter(own).count() >= OF_ONE {
            let own = all.iter().filter(|(_, kept)| kept.token.name == token.name);
            let oldest = own.min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            oldest.map(|key| all.remove(&key));
        }
        let (token, rest) = (token.clone(), REST);
        let kept = Kept { token: token.clone(), csrf: csrf.clone(), began: now, used: now };
        all.insert(key, kept);
        (Session { token, csrf, rest, key }, text)
    }

    /// The session of a request's cookie, if it has not ended. It begins to rest anew.
    pub(crate) fn of(&self, headers: &HeaderMap, now: Instant) -> Option<Session> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A browser may send more than one, such as of another path; the name alone says nothing.
        for text in cookies(headers) {
            let key = key(text);
            let Some(kept) = all.get_mut(&key) else { continue };
            if kept.left(now).is_none() {
                all.remove(&key);
                continue;
            }
            kept.used = now;
            let rest = kept.left(now).unwrap_or_default();
            let (token, csrf) = (kept.token.clone(), kept.csrf.clone());
            return Some(Session { token, csrf, rest, key });
        }
        None
    }

    /// Ends one.
    pub(crate) fn end(&self, session: &Session) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session.key);
    }
}

impl Session {
    /// Whether a request carries the word that only who may read answers of this session knows.
    pub(crate) fn is_meant(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(CSRF).map(HeaderValue::as_bytes).unwrap_or_default();
        bool::from(given.ct_eq(self.csrf.as_bytes()))
    }
}

/// Whether a request comes from a page of this server, or from no page at all. Browsers say where a page is from, and a page cannot
/// say otherwise (Fetch standard, `Origin`; Fetch Metadata, `Sec-Fetch-Site`, where other ports of a host are others too).
pub(crate) fn is_own(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return false;
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match headers.get(ORIGIN) {
        None => true,
        Some(_) => {
            let from = text(ORIGIN).and_then(|origin| origin.split_once("://"));
            from.is_some_and(|(_, from)| text(HOST) == Some(from))
        }
    }
}

/// The header that gives a browser its cookie, or takes it back.
pub(crate) fn cookie(text: Option<&str>, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    match text {
        Some(text) => {
            format!("{COOKIE_NAME}={text}; Path=/v1; HttpOnly; SameSite=Strict{secure}")
        }
        None => {
            format!("{COOKIE_NAME}=; Path=/v1; HttpOnly; SameSite=Strict; Max-Age=0{secure}")
        }
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| name.trim() == COOKIE_NAME).map(|(_, text)| text.trim()).take(4)
}

fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>())
}

fn key(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use millrace_lattice_config::Home;
    use millrace_lattice_config::tokens::{Access, Tokens};

    use super::*;

    fn token(name: &str) -> Token {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::create(&folder.path().join("lattices"), None).unwrap();
        Tokens::new(&home).add(name, Access::Author, None, None).unwrap().0
    }

    fn with(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, cookie.parse().unwrap());
        headers
    }

    #[test]
    fn it_ends_when_it_rests_and_with_its_time() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (_, text) = sessions.begin(&token("a"), now);
        let cookie = with(&format!("other=1; {COOKIE_NAME}=x; {COOKIE_NAME}={text}"));
        let hour = Duration::from_secs(3600);
        for at in 1..24 {
            let session = sessions.of(&cookie, now + at * hour).unwrap();
            assert_eq!(session.rest, REST.min((24 - at) * hour));
        }
        assert!(sessions.of(&cookie, now + LIFE).is_none());
        let (_, text) = sessions.begin(&token("a"), now);
        let cookie = with(&format!("{COOKIE_NAME}={text}"));
        let session = sessions.of(&cookie, now + REST - Duration::from_secs(1)).unwrap();
        assert!(sessions.of(&cookie, now + 2 * REST).is_none());
        let (session, text) = (session, sessions.begin(&token("a"), now).1);
        assert!(sessions.of(&with(&format!("{COOKIE_NAME}={text}")), now).is_some());
        sessions.end(&session);
        assert!(sessions.of(&cookie, now).is_none());
        assert!(sessions.of(&with("millrace-session="), now).is_none());
        assert!(sessions.of(&HeaderMap::new(), now).is_none());
    }

    #[test]
    fn nobody_has_more_than_some_and_others_keep_theirs() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (one, two) = (token("one"), token("two"));
        let (_, of_two) = sessions.begin(&two, now);
        let begin = |at| sessions.begin(&one, now + Duration::from_secs(at)).1;
        let all: Vec<String> = (0..=OF_ONE as u64).map(begin).collect();
        let is_there =
            |text: &str| sessions.of(&with(&format!("{COOKIE_NAME}={text}")), now).is_some();
        assert!(!is_there(&all[0]) && is_there(&of_two));
        assert!(all[1..].iter().all(|text| is_there(text)));
    }

    #[test]
    fn pages_of_others_are_told_from_own_ones() {
        let with = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            is_own(&headers)
        };
        let host = ("host", "plant.example:4280");
        assert!(with(&[host]));
        assert!(with(&[host, ("origin", "https://plant.example:4280")]));
        assert!(with(&[host, ("sec-fetch-site", "same-origin")]));
        for origin in ["https://plant.example", "https://evil.example", "null", "", "https://"] {
            assert!(!with(&[host, ("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(!with(&[host, ("sec-fetch-site", site)]), "{site}");
        }
        assert!(!with(&[("origin", "https://plant.example")]));
    }
}
