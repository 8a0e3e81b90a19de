//! Floor 4: messages between nodes. Many groups share one connection for entries, one for heartbeats, one for snapshots
//! and one for one-shot messages. Calls of clients that are handed on have two others.

mod append_client;
mod append_server;
mod frames;
mod hello;
mod introduced;
mod parking;
mod peers;
mod pulse;
mod server;
mod snapshots;
mod standing;
pub mod wire;

pub use hello::{FEATURE_LEVEL, HelloError, Introduction};
pub use introduced::{HandedOn, IntroducedChannel, IntroducedOnly};
pub use peers::{PeerError, Peers, root_cause};
pub use server::{Adoption, NodeOperations, OperationError, PeerServer};
pub use standing::Standing;
pub use wire::cluster_from_wire;

/// Generated from `proto/quorate/peer/v1`.
pub mod proto {
    #![allow(missing_docs, reason = "the proto file documents every message and field")]
    #![allow(unused_qualifications, reason = "generated code")]
    #![allow(clippy::allow_attributes_without_reason, reason = "generated code")]
    #![allow(clippy::all, clippy::pedantic, reason = "generated code")]
    tonic::include_proto!("quorate.peer.v1");
}

/// The call that sends a snapshot.
pub const SEND_SNAPSHOT_PATH: &str = "/quorate.peer.v1.Peer/SendSnapshot";

/// Bytes of one message between nodes at most: a read of entries holds up to 1 MiB and one entry more, which may
/// have 8 MiB; a message gathers frames up to 1 MiB and one frame more.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
