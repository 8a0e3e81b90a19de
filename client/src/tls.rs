use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Certificates for encrypted connections to nodes, as PEM text.
#[derive(Clone)]
pub struct Tls {
    ca: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts nodes whose certificate one of these authorities has signed, and no others: the machine's own
    /// authorities do not count.
    pub fn new(ca_pem: impl Into<Vec<u8>>) -> Self {
        Tls { ca: ca_pem.into(), identity: None, server_name: None }
    }

    /// With a certificate chain and its private key, for nodes that ask their clients for one.
    #[must_use]
    pub fn identity(mut self, cert_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((cert_pem.into(), key_pem.into()));
        self
    }

    /// With another name to look for in the nodes' certificates than the host of their address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The same for those who connect with tonic themselves.
    pub fn to_tonic(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        if let Some((cert, key)) = &self.identity {
            config = config.identity(Identity::from_pem(cert, key));
        }
        match &self.server_name {
            Some(name) => config.domain_name(name),
            None => config,
        }
    }

    /// What is wrong with it, as far as can be told without connecting.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let has = |pem: &[u8], marker: &str| String::from_utf8_lossy(pem).contains(marker);
        const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
        if !has(&self.ca, CERTIFICATE) {
            return Some("tls: the authorities' PEM text has no certificate");
        }
        match &self.identity {
            Some((cert, _)) if !has(cert, CERTIFICATE) => {
                Some("tls: the identity's PEM text has no certificate")
            }
            Some((_, key)) if !has(key, "PRIVATE KEY-----") => {
                Some("tls: the identity's PEM text has no private key")
            }
            _ => None,
        }
    }
}

/// Without the private key.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
