//! Checks that settings of several connectors share.

use crate::FieldError;

/// Whether a file can have this path.
fn is_path(path: &str) -> bool {
    !path.is_empty() && !path.contains('\0')
}

/// Checks that a setting, where it is given, is the path of a file.
pub(crate) fn path(field: &str, path: Option<&str>) -> Result<(), FieldError> {
    match path {
        Some(path) if !is_path(path) => Err(FieldError::invalid(field, path, "must be a path")),
        _ => Ok(()),
    }
}

/// Checks an identifier that may be left out; `most` is in bytes.
pub(crate) fn id(field: &str, id: Option<&str>, most: usize) -> Result<(), FieldError> {
    match id {
        Some(id) if id.is_empty() || id.len() > most || id.contains('\0') => {
            let message = format!("must be 1 to {most} bytes; leave it out to have one made");
            Err(FieldError::invalid(field, id, message))
        }
        _ => Ok(()),
    }
}

/// The files of a TLS connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlsFiles<'a> {
    pub(crate) ca: Option<&'a str>,
    pub(crate) cert: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
}

impl TlsFiles<'_> {
    /// Checks them. `missing` says what they need, where the connection does
    /// not use TLS.
    pub(crate) fn check(&self, missing: Option<&str>) -> Result<(), FieldError> {
        let files =
            [("tls-ca-file", self.ca), ("tls-cert-file", self.cert), ("tls-key-file", self.key)];
        for (field, file) in files {
            path(field, file)?;
            if let (Some(file), Some(needs)) = (file, missing) {
                return Err(FieldError::invalid(field, file, needs));
            }
        }
        match (self.cert, self.key) {
            (Some(path), None) => {
                Err(FieldError::invalid("tls-cert-file", path, "needs a tls-key-file"))
            }
            (None, Some(path)) => {
                Err(FieldError::invalid("tls-key-file", path, "needs a tls-cert-file"))
            }
            _ => Ok(()),
        }
    }
}
