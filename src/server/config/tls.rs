//! The PEM files of a port, read and checked before the port is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// PEM files of a listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain, the listener's own certificate first.
    pub cert: PathBuf,
    /// Private key of that certificate.
    pub key: PathBuf,
    /// Who may sign the other side's certificate. With it, whoever connects needs one.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// Why the files cannot be used: which key of the table leads to the file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("tls.{key}: {reason}")]
pub struct TlsFileError {
    /// `cert`, `key` or `ca`.
    pub key: &'static str,
    /// Names the file.
    pub reason: String,
}

impl TlsConfig {
    /// What the port needs to accept connections that agree on one of `protocols`, the preferred one first.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should; the key is not the certificate's.
    pub fn for_server(&self, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsFileError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider knows the default versions");
        let builder = match &self.ca {
            Some(ca) => builder.with_client_cert_verifier(client_verifier(ca, provider)?),
            None => builder.with_no_client_auth(),
        };
        let chain = certificates("cert", &self.cert)?;
        let key = read("key", &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| match error {
            PemError::NoItemsFound => wrong("key", &self.key, "has no private key"),
            error => wrong("key", &self.key, error),
        })?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| wrong("key", &self.key, format!("does not fit `cert`: {error}")))?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// What this node needs to connect to the same port of other nodes, which check its certificate too.
    ///
    /// # Errors
    /// As [`TlsConfig::for_server`]; there is no `ca`.
    pub fn for_peers(&self) -> Result<ClientTlsConfig, TlsFileError> {
        self.for_server(&[])?;
        let ca = self.ca.as_ref().ok_or_else(|| TlsFileError {
            key: "ca",
            reason: "it is missing: nodes check each other's certificates against it".to_owned(),
        })?;
        let identity = Identity::from_pem(read("cert", &self.cert)?, read("key", &self.key)?);
        let ca = Certificate::from_pem(read("ca", ca)?);
        Ok(ClientTlsConfig::new().ca_certificate(ca).identity(identity))
    }
}

fn client_verifier(
    ca: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn tokio_rustls::rustls::server::danger::ClientCertVerifier>, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", ca)? {
        roots.add(certificate).map_err(|error| wrong("ca", ca, error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier.build().map_err(|error| wrong("ca", ca, error))
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let pem = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(key, path, "has no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(key, path, error)),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsFileError> {
    std::fs::read(path).map_err(|error| wrong(key, path, error))
}

fn wrong(key: &'static str, path: &Path, what: impl std::fmt::Display) -> TlsFileError {
    TlsFileError { key, reason: format!("{}: {what}", path.display()) }
}
