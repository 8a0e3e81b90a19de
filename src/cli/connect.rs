use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::{Client, ClientOptions, Routing, Tls};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Longest wait for one connection; a node that is there answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a subcommand reaches the cluster.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Client addresses of some nodes, host:port; the first that answers is used
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        env = "QUORATE_ENDPOINTS",
        default_value = "127.0.0.1:7101"
    )]
    pub endpoints: Vec<String>,

    /// Authorities that may have signed the nodes' certificates, as PEM: connections are then encrypted
    #[arg(long, value_name = "FILE", env = "QUORATE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// This caller's certificate, as PEM, for nodes that ask for one
    #[arg(long, value_name = "FILE", env = "QUORATE_CERT_FILE", requires_all = ["ca_file", "key_file"])]
    pub cert_file: Option<PathBuf>,

    /// The private key of that certificate, as PEM
    #[arg(long, value_name = "FILE", env = "QUORATE_KEY_FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,

    /// How long a call may take, such as 500ms, 10s or 1m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    pub timeout: Duration,
}

impl ConnectArgs {
    /// Without encryption, and the endpoints still to be named.
    pub(super) fn with_timeout(timeout: Duration) -> ConnectArgs {
        ConnectArgs {
            endpoints: Vec::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            timeout,
        }
    }

    /// The `Cluster` service of the first endpoint that answers.
    pub async fn cluster(&self) -> anyhow::Result<ClusterClient<Channel>> {
        let tls = self.tls()?;
        let mut failures = Vec::new();
        for address in &self.endpoints {
            match connect(address, tls.as_ref()).await {
                Ok(client) => return Ok(client),
                Err(error) => failures.push(format!("{address}: {}", root_cause(&error))),
            }
        }
        bail!(
            "no node could be reached ({}); is it running, and is --endpoints right?",
            failures.join("; ")
        )
    }

    /// A client that goes to the leaders itself, whose calls take no longer than `--timeout`.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.client_routed(Routing::Leader).await
    }

    /// As [`ConnectArgs::client`], with a choice of who finds the leader.
    pub async fn client_routed(&self, routing: Routing) -> anyhow::Result<Client> {
        let mut options =
            ClientOptions::new(&self.endpoints).routing(routing).request_timeout(self.timeout);
        options.tls = self.tls()?;
        Client::connect(options).await.context("no node could be reached")
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        let read = |option: &str, file: &Path| {
            std::fs::read(file).with_context(|| format!("{option} {}", file.display()))
        };
        let Some(ca) = &self.ca_file else { return Ok(None) };
        let tls = Tls::new(read("--ca-file", ca)?);
        Ok(Some(match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                tls.identity(read("--cert-file", cert)?, read("--key-file", key)?)
            }
            _ => tls,
        }))
    }

    /// Waits for a call, no longer than `--timeout`.
    pub async fn within<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result.map(tonic::Response::into_inner).map_err(|s| refusal(&s)),
            Err(_) => bail!("no answer within {:?} (--timeout)", self.timeout),
        }
    }
}

/// The `Cluster` service of one node.
pub(super) async fn connect(
    address: &str,
    tls: Option<&Tls>,
) -> anyhow::Result<ClusterClient<Channel>> {
    let uri = match (address.contains("://"), tls) {
        (true, _) => address.to_owned(),
        (false, None) => format!("http://{address}"),
        (false, Some(_)) => format!("https://{address}"),
    };
    let endpoint =
        Endpoint::from_shared(uri).with_context(|| format!("{address:?} is not host:port"))?;
    let endpoint = match tls {
        Some(tls) => endpoint.tls_config(tls.to_tonic()).context("the certificates")?,
        None => endpoint,
    };
    Ok(ClusterClient::new(endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await?))
}

/// What a node said when it refused, as an error for people.
pub(super) fn refusal(status: &Status) -> anyhow::Error {
    let code = status.code();
    match status.message() {
        "" => anyhow!("{}", code.description()),
        message if code == Code::Unknown => anyhow!("{message}"),
        message => anyhow!("{message} ({code:?})"),
    }
}

/// tonic's "transport error" says nothing; what the operating system said does.
fn root_cause(error: &anyhow::Error) -> String {
    error.root_cause().to_string()
}

/// A time that something may take.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is not a duration such as 500ms or 10s"))?;
    Duration::try_from(parsed).map_err(|_| "it must not be negative".to_owned())
}

/// As [`parse_duration`], above zero.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        duration if duration.is_zero() => Err("it must be above zero".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for wrong in ["10", "", "0s", "-1s", "soon"] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_does_not_answer_is_named_with_its_reason() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let args = ConnectArgs {
            endpoints: vec![unused.to_string(), "not an address".to_owned()],
            ca_file: None,
            cert_file: None,
            key_file: None,
            timeout: Duration::from_secs(1),
        };
        let error = args.cluster().await.unwrap_err().to_string();
        assert!(error.contains(&format!("{unused}: Connection refused")), "{error}");
        assert!(error.contains("not an address: "), "{error}");
    }
}
