//! Connections to nodes.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use crate::dial::connect_lazy;
use crate::proto::cluster_client::ClusterClient;
use crate::proto::message_log_client::MessageLogClient;
use crate::{ClientOptions, Error, reason};

/// Encoded bytes of one response at most. Servers stay near 4 MiB; a BatchRead of long tails may not.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Flow-control window of one stream: how much a node may send ahead of the reader.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// One frame of a response at most: each costs a system call on both sides, and 16 KiB are what HTTP/2 starts with.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// Flow-control window of a connection: eight streams can lie unread before the ninth stalls.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// One shared connection for each node, made when it is first used and again when it broke.
///
/// Streams that a slow reader may leave unread do not belong on it: they take a [`Channels::dedicated`] one.
pub(crate) struct Channels {
    options: ClientOptions,
    /// One entry for each address that the topology or an endpoint or a leader hint ever named.
    shared: Mutex<HashMap<Arc<str>, Channel>>,
}

impl Channels {
    pub fn new(options: ClientOptions) -> Self {
        Channels { options, shared: Mutex::default() }
    }

    /// The connection for short calls and for streams that are always read.
    pub fn shared(&self, address: &Arc<str>) -> Result<Channel, Error> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = shared.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.dedicated(address)?;
        shared.insert(address.clone(), channel.clone());
        Ok(channel)
    }

    /// A connection of one's own, closed when it is dropped.
    pub fn dedicated(&self, address: &str) -> Result<Channel, Error> {
        Ok(connect_lazy(&self.endpoint(address)?, self.options.dial.clone()))
    }

    /// Checks that an address can be one.
    pub fn check(&self, address: &str) -> Result<(), Error> {
        self.endpoint(address).map(|_| ())
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        let refuse = |message| Error::local(Code::InvalidArgument, reason::BAD_OPTION, message);
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        let uri = match address.split_once("://") {
            None => format!("{scheme}://{address}"),
            Some((given, _)) if given == scheme => address.to_owned(),
            Some(("https", _)) => {
                let message = format!("{address} needs certificates: the option tls is not set");
                return Err(refuse(message));
            }
            Some(_) => {
                let message = format!("{address} is not encrypted, and the option tls is set");
                return Err(refuse(message));
            }
        };
        let mut endpoint = Endpoint::from_shared(uri).map_err(|source| {
            refuse(format!("{address:?} is not an address of a node: {source}"))
        })?;
        if let Some(tls) = &self.options.tls {
            endpoint = endpoint.tls_config(tls.to_tonic()).map_err(|error| {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                refuse(format!("tls: the certificates cannot be used: {cause}"))
            })?;
        }
        Ok(endpoint
            .connect_timeout(self.options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.options.keepalive_interval)
            .keep_alive_timeout(self.options.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX))
    }
}

/// The message log service over a connection.
pub(crate) fn message_log(channel: Channel) -> MessageLogClient<Channel> {
    MessageLogClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// Any service over a connection.
pub(crate) fn grpc(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// The cluster service over a connection.
pub(crate) fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}
