use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use crate::{Dial, Error, Tls, reason};

/// How calls find a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Learn the topology and go straight to the leader of each conversation's group. Needs every node's
    /// advertised client address to be reachable.
    #[default]
    Leader,
    /// Stay with one of the endpoints and let it forward; go to the next only when it cannot be used. For clients
    /// behind NAT or a load balancer.
    Proxy,
}

/// How a [`Client`](crate::Client) connects and how long it tries.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Client addresses of some nodes, `host:port`, or with the scheme: `http://`, or `https://` with
    /// [`ClientOptions::tls`]. At least one. With [`Routing::Leader`]
    /// they are where the topology is learnt; the others follow from it.
    pub endpoints: Vec<String>,
    /// How calls find a node.
    pub routing: Routing,
    /// Certificates, if the nodes' client ports have TLS; none by default, which means plain connections.
    pub tls: Option<Tls>,
    /// Opens connections in place of the operating system; none by default, which means TCP.
    pub dial: Option<Arc<dyn Dial>>,
    /// How long a call may take, all its attempts together. 10 s by default.
    pub request_timeout: Duration,
    /// How long one attempt may take before another node is tried. 3 s by default.
    pub attempt_timeout: Duration,
    /// How long making one connection may take. 1 s by default.
    pub connect_timeout: Duration,
    /// After this much silence a connection is asked whether it lives. 2 s by default.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that. 3 s by default.
    pub keepalive_timeout: Duration,
    /// The first pause between two attempts; later ones grow to `backoff_max`, with jitter. 20 ms by default.
    pub backoff_min: Duration,
    /// The longest pause between two attempts, before jitter. 1 s by default.
    pub backoff_max: Duration,
}

impl ClientOptions {
    /// The defaults, for these endpoints.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        ClientOptions {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// These options with another routing.
    #[must_use]
    pub fn routing(mut self, routing: Routing) -> Self {
        self.routing = routing;
        self
    }

    /// These options with encrypted connections.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// These options with connections opened by something else than the operating system.
    #[must_use]
    pub fn dial(mut self, dial: Arc<dyn Dial>) -> Self {
        self.dial = Some(dial);
        self
    }

    /// These options with another limit for whole calls.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let refuse =
            |message: &str| Err(Error::local(Code::InvalidArgument, reason::BAD_OPTION, message));
        if self.endpoints.is_empty() {
            return refuse("endpoints is empty");
        }
        if let Some(problem) = self.tls.as_ref().and_then(Tls::problem) {
            return refuse(problem);
        }
        let durations = [
            ("request_timeout", self.request_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("connect_timeout", self.connect_timeout),
            ("keepalive_interval", self.keepalive_interval),
            ("keepalive_timeout", self.keepalive_timeout),
            ("backoff_min", self.backoff_min),
        ];
        for (name, duration) in durations {
            if duration.is_zero() {
                return refuse(&format!("{name} is zero"));
            }
        }
        if self.backoff_max < self.backoff_min {
            return refuse("backoff_max is below backoff_min");
        }
        Ok(())
    }
}

impl Default for ClientOptions {
    /// No endpoints: they have to be given.
    fn default() -> Self {
        ClientOptions {
            endpoints: Vec::new(),
            routing: Routing::default(),
            tls: None,
            dial: None,
            request_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }
}
