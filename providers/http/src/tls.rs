//! The server's certificate, read again when it is renewed.

use std::path::PathBuf;
use std::sync::Arc;

use millrace_settings::http::SourceSettings;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::watched::File;

/// Largest file of certificates, in bytes.
const PEM_MAX: u64 = 1 << 20;

/// The files, certificate and key; none without TLS.
pub(crate) fn files(settings: &SourceSettings) -> Vec<File> {
    let file = |setting, path: &Option<String>| {
        path.as_ref().map(|path| File { setting, path: PathBuf::from(path), most: PEM_MAX })
    };
    let cert = file("tls-cert-file", &settings.tls_cert_file);
    cert.into_iter().chain(file("tls-key-file", &settings.tls_key_file)).collect()
}

/// A server with this certificate and key; none without files.
///
/// # Errors
///
/// Names the setting and the file that cannot be used.
pub(crate) fn config(files: &[File]) -> Result<Option<Arc<ServerConfig>>, String> {
    let [cert, key] = files else { return Ok(None) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert.read()?).collect();
    let chain = chain.map_err(|e| cert.error(e))?;
    if chain.is_empty() {
        return Err(cert.error("has no certificate in PEM"));
    }
    let secret = PrivateKeyDer::from_pem_slice(&key.read()?)
        .map_err(|_| key.error("has no private key in PEM that is not encrypted"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| cert.error(format_args!("and {}: {e}", key.path.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}
