//! Encrypted ports: who is served and who is not.

use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{AppendRequest, NewMessage as WireMessage};
use quorate_client::{Append, Client, ClientOptions, NewMessage, Read, Routing, Start, Tls};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, RootCertStore};
use tonic::transport::Endpoint;

use super::certificates::Authority;
use super::{cluster, eventually, get_over};

fn quorate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// One node whose client and HTTP ports have TLS, and ask callers for certificates if `ca` is given.
struct Node {
    _child: Child,
    _folder: TempDir,
    client: String,
    peer: String,
    http: String,
}

impl Node {
    async fn start(authority: &Authority, ca: Option<&Path>) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = Vec::new();
        let mut held = Vec::new();
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap().to_string());
            held.push(listener);
        }
        let [client, peer, http] = <[String; 3]>::try_from(addresses).unwrap();
        let mut command = quorate();
        command
            .arg("serve")
            .env("QUORATE_NODE_ID", "1")
            .env("QUORATE_DATA_DIR", folder.path().join("data"))
            .env("QUORATE_CLIENT__LISTEN", &client)
            .env("QUORATE_CLIENT__TLS__CERT", authority.file("cert"))
            .env("QUORATE_CLIENT__TLS__KEY", authority.file("key"))
            .env("QUORATE_PEER__LISTEN", &peer)
            .env("QUORATE_HTTP__LISTEN", &http)
            .env("QUORATE_HTTP__TLS__CERT", authority.file("cert"))
            .env("QUORATE_HTTP__TLS__KEY", authority.file("key"))
            .env("QUORATE_STORAGE__BALLAST_BYTES", "0")
            .env("QUORATE_STORAGE__DISK_SOFT_FREE_BYTES", "67108864")
            .env("QUORATE_STORAGE__DISK_HARD_FREE_BYTES", "33554432")
            .stderr(Stdio::null());
        if let Some(ca) = ca {
            command.env("QUORATE_CLIENT__TLS__CA", ca).env("QUORATE_HTTP__TLS__CA", ca);
        }
        drop(held);
        let child = command.spawn().unwrap();
        Node { _child: child, _folder: folder, client, peer, http }
    }

    /// A subcommand against this node.
    async fn run(&self, arguments: &[&str], files: &[(&str, &Path)]) -> Output {
        let mut command = quorate();
        command.args(arguments).args(["--endpoints", &self.client, "--timeout", "30s"]);
        for (option, file) in files {
            command.arg(option).arg(file);
        }
        command.output().await.unwrap()
    }

    async fn init(&self, files: &[(&str, &Path)]) {
        let node = format!("1={}", self.peer);
        eventually("the cluster is made", async || {
            let made = self.run(&["init", "--node", &node], files).await;
            if made.status.success() { Ok(()) } else { Err(text(&made)) }
        })
        .await;
    }

    /// Asks the HTTP port whether the process lives, trusting an authority, with its certificate if `known`.
    async fn livez(&self, authority: &Authority, known: bool) -> io::Result<(u16, String)> {
        let pem = |name: &str| std::fs::read(authority.file(name)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("ca")).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = if known {
            let cert = CertificateDer::from_pem_slice(&pem("cert")).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&pem("key")).unwrap();
            config.with_client_auth_cert(vec![cert], key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        let stream = TcpStream::connect(&self.http).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        get_over(stream, "/livez").await
    }

    async fn connect(&self, tls: Option<Tls>) -> Result<Client, quorate_client::Error> {
        let mut options = ClientOptions::new([self.client.clone()]);
        options.request_timeout = std::time::Duration::from_secs(2);
        options.tls = tls;
        Client::connect(options).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_port_with_tls_serves_who_trusts_it() {
    let (ours, other) = (Authority::new(), Authority::new());
    let node = Node::start(&ours, None).await;
    let ca = ours.file("ca");
    node.init(&[("--ca-file", &ca)]).await;

    let client = node.connect(Some(ours.trusted())).await.unwrap();
    client.append(Append::new("room", "ann", NewMessage::text("secret"))).await.unwrap();
    let page = client.read(Read::new("room").start(Start::Seq(1))).await.unwrap();
    assert_eq!(page.messages[0].payload, "secret");

    assert_eq!(node.livez(&ours, false).await.unwrap().0, 200);
    node.livez(&other, false).await.expect_err("a prober that trusts others goes away");
    let plain = TcpStream::connect(&node.http).await.unwrap();
    get_over(plain, "/livez").await.expect_err("a plain prober is not answered");

    node.connect(None).await.expect_err("a plain client is not served");
    node.connect(Some(other.trusted())).await.expect_err("a client that trusts others goes away");

    let healthy = node.run(&["status"], &[("--ca-file", &ca)]).await;
    assert!(healthy.status.success(), "{}", text(&healthy));
    let plain = node.run(&["status"], &[]).await;
    assert_eq!(plain.status.code(), Some(1), "{}", text(&plain));
    let wrong = node.run(&["status"], &[("--ca-file", &other.file("ca"))]).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong).contains("invalid peer certificate"), "{}", text(&wrong));
    let missing = node.run(&["status"], &[("--ca-file", Path::new("no-such-file"))]).await;
    assert!(text(&missing).contains("--ca-file no-such-file"), "{}", text(&missing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_port_with_authorities_serves_who_shows_a_certificate_of_theirs() {
    let (ours, other) = (Authority::new(), Authority::new());
    let ca = ours.file("ca");
    let node = Node::start(&ours, Some(&ca)).await;
    let (cert, key) = (ours.file("cert"), ours.file("key"));
    node.init(&[("--ca-file", &ca), ("--cert-file", &cert), ("--key-file", &key)]).await;

    let client = node.connect(Some(ours.known_and_trusting(&ours))).await.unwrap();
    client.append(Append::new("room", "ann", NewMessage::text("secret"))).await.unwrap();
    assert_eq!(node.livez(&ours, true).await.unwrap().0, 200);
    node.livez(&ours, false).await.expect_err("a prober without a certificate");
    node.connect(Some(ours.trusted())).await.expect_err("no certificate");
    node.connect(Some(other.known_and_trusting(&ours))).await.expect_err("a stranger's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_check_each_others_certificates_are_a_cluster() {
    let (ours, other) = (Authority::new(), Authority::new());
    let file = |name| ours.file(name).display().to_string();
    let settings = format!(
        "\n[peer.tls]\ncert = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n",
        file("cert"),
        file("key"),
        file("ca")
    );
    let cluster = cluster(3, &settings).await;
    for (node, endpoint) in cluster.endpoints().into_iter().enumerate() {
        // Through each node: most appends are forwarded, over the peer ports too.
        let options = ClientOptions::new([endpoint]).routing(Routing::Proxy);
        let client = Client::connect(options).await.unwrap();
        for room in 0..6 {
            let conversation = format!("room-{room}");
            let message = NewMessage::text(format!("from node {node}"));
            client.append(Append::new(&conversation, "ann", message)).await.unwrap();
            let page = client.read(Read::new(&conversation).start(Start::Seq(1))).await.unwrap();
            assert_eq!(page.messages.len(), node + 1, "{conversation}");
        }
    }

    let client = Client::connect(ClientOptions::new(cluster.endpoints())).await.unwrap();
    let peer = client.topology().unwrap().nodes[0].peer_address.clone();
    let call = async |tls: Option<Tls>| {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{peer}")).unwrap();
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls.to_tonic()).unwrap();
        }
        let request = AppendRequest {
            conversation: "room-0".to_owned(),
            sender: "eve".to_owned(),
            messages: vec![WireMessage::default()],
            ..AppendRequest::default()
        };
        MessageLogClient::new(endpoint.connect_lazy()).append(request).await.unwrap_err()
    };
    // Whoever gets through TLS is told that a hello is missing; nobody else is told anything.
    let known = call(Some(ours.known_and_trusting(&ours))).await;
    assert!(known.message().contains("did not say hello"), "{known}");
    for stranger in [None, Some(ours.trusted()), Some(other.known_and_trusting(&ours))] {
        let refused = call(stranger).await;
        assert!(!refused.message().contains("hello"), "{refused}");
    }
    cluster.stop().await.unwrap();
}
