use std::path::{Path, PathBuf};

use quorate_client::Tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority of its own, and one certificate that it signed for nodes on loopback and for their clients.
pub struct Authority {
    folder: TempDir,
    ca: String,
    cert: String,
    key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority { folder, ca, cert, key: key.serialize_pem() };
        for (name, text) in
            [("ca", &authority.ca), ("cert", &authority.cert), ("key", &authority.key)]
        {
            std::fs::write(authority.file(name), text).unwrap();
        }
        authority
    }

    /// A PEM file: `ca`, `cert` or `key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.pem"))
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Trusts the authority.
    pub fn trusted(&self) -> Tls {
        Tls::new(self.ca.clone())
    }

    /// Shows the certificate of this authority, and trusts another one.
    pub fn known_and_trusting(&self, other: &Authority) -> Tls {
        other.trusted().identity(self.cert.clone(), self.key.clone())
    }
}
