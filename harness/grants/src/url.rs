//! As much of URLs as is needed to say which server one is for (RFC 3986, section 3.2). Strict: what is not plain is refused
//! here, before a client reads it in another way.

use std::fmt;
use std::str::FromStr;

/// Longest name of a host (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 253;

/// Longest URL, in bytes.
const URL_MAX: usize = 8 * 1024;

/// A server: the name of a host or its address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    /// Name or address, in lower case; an address of IPv6 in brackets.
    pub host: String,
    /// Port.
    pub port: Option<u16>,
}

/// Why a text names no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither `http://` nor `https://` in front.
    #[error("a URL begins with http:// or https://")]
    Scheme,
    /// Empty, too long, or with characters that no name has.
    #[error(
        "the host is not a name of lower-case letters, digits, dots and hyphens, nor an address"
    )]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A name or password in front of the host.
    #[error("a URL with a user in it is not taken; send a header instead")]
    User,
    /// Longer than [`URL_MAX`], or with blanks, control characters or backslashes.
    #[error("a URL is at most 8 KiB of printable ASCII without blanks and backslashes")]
    Text,
}

impl Authority {
    /// The server of a URL, with the port that it has or its scheme implies.
    ///
    /// # Errors
    ///
    /// It is not a plain `http` or `https` URL.
    pub fn of_url(url: &str) -> Result<Self, UrlError> {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'\\';
        if url.len() > URL_MAX || !url.bytes().all(plain) {
            return Err(UrlError::Text);
        }
        let (rest, port) = if let Some(rest) = url.strip_prefix("http://") {
            (rest, 80)
        } else if let Some(rest) = url.strip_prefix("https://") {
            (rest, 443)
        } else {
            return Err(UrlError::Scheme);
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        let authority: Self = authority.parse()?;
        Ok(Self { port: authority.port.or(Some(port)), ..authority })
    }

    /// Whether this server, which a grant names, is the one of a URL: the same port, or where the grant has none the one
    /// that the URL's scheme implies.
    #[must_use]
    pub fn allows(&self, server: &Self, url: &str) -> bool {
        let implied = if url.starts_with("https:") { 443 } else { 80 };
        self.host == server.host && server.port == Some(self.port.unwrap_or(implied))
    }
}

impl FromStr for Authority {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
                let parsed: std::net::Ipv6Addr = address.parse().map_err(|_| UrlError::Host)?;
                let port = match rest {
                    "" => None,
                    _ => Some(rest.strip_prefix(':').ok_or(UrlError::Port)?),
                };
                // One way to write it, or a grant would not be found again.
                (format!("[{parsed}]"), port)
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                let character = |b: u8| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
                };
                let edges = |c: char| c == '.' || c == '-';
                let whole =
                    !host.is_empty() && host.len() <= HOST_MAX && host.bytes().all(character);
                if !whole || host.starts_with(edges) || host.ends_with(edges) || host.contains("..")
                {
                    return Err(UrlError::Host);
                }
                // `10.1` and `0x0a000001` are addresses to some readers and names to others.
                let last = host.rsplit('.').next().unwrap_or_default();
                let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
                if number && host.parse::<std::net::Ipv4Addr>().is_err() {
                    return Err(UrlError::Host);
                }
                (host.to_owned(), port)
            }
        };
        let port = match port {
            None => None,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                let port: u16 = port.parse().map_err(|_| UrlError::Port)?;
                Some(std::num::NonZeroU16::new(port).ok_or(UrlError::Port)?.get())
            }
            Some(_) => return Err(UrlError::Port),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_url() {
        for (url, server) in [
            ("http://a.example/x?y#z", "a.example:80"),
            ("https://a.example", "a.example:443"),
            ("https://a.example?x=@b", "a.example:443"),
            ("http://a.example:8080/@b", "a.example:8080"),
            ("http://10.0.0.7/", "10.0.0.7:80"),
            ("http://[0:0::1]:81/", "[::1]:81"),
        ] {
            assert_eq!(Authority::of_url(url).unwrap().to_string(), server, "{url}");
        }
    }

    /// Each of these is one server to one reader and another to the next.
    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (url, error) in [
            ("ftp://a", UrlError::Scheme),
            ("HTTP://a", UrlError::Scheme),
            ("//a", UrlError::Scheme),
            ("http://good@evil/", UrlError::User),
            ("http://good:80@evil/", UrlError::User),
            ("http://good\\@evil/", UrlError::Text),
            ("http://good /", UrlError::Text),
            ("http://good\r\nHost: evil/", UrlError::Text),
            ("http://gööd/", UrlError::Text),
            ("http://", UrlError::Host),
            ("http://Good/", UrlError::Host),
            ("http://good./", UrlError::Host),
            ("http://good%2eevil/", UrlError::Host),
            ("http://2130706433/", UrlError::Host),
            ("http://0x7f000001/", UrlError::Host),
            ("http://127.1/", UrlError::Host),
            ("http://[::1/", UrlError::Host),
            ("http://good:/", UrlError::Port),
            ("http://good:0/", UrlError::Port),
            ("http://good:65536/", UrlError::Port),
            ("http://good:+80/", UrlError::Port),
        ] {
            assert_eq!(Authority::of_url(url), Err(error), "{url}");
        }
        let long = format!("http://a/{}", "x".repeat(URL_MAX));
        assert_eq!(Authority::of_url(&long), Err(UrlError::Text));
    }

    #[test]
    fn a_grant_without_a_port_is_for_the_one_of_the_scheme() {
        let allows = |grant: &str, url: &str| {
            grant.parse::<Authority>().unwrap().allows(&Authority::of_url(url).unwrap(), url)
        };
        assert!(allows("a", "http://a/"));
        assert!(allows("a", "https://a/"));
        assert!(allows("a", "https://a:443/"));
        assert!(!allows("a", "https://a:80/"));
        assert!(!allows("a", "http://a:8080/"));
        assert!(allows("a:8080", "http://a:8080/"));
        assert!(!allows("a:8080", "http://a/"));
        assert!(!allows("a", "http://b.a/"));
    }
}
