//! Client library for Quorate, the replicated message log for conversations.
//!
//! ```no_run
//! # async fn example() -> Result<(), quorate_client::Error> {
//! use quorate_client::{Append, Client, ClientOptions, NewMessage, Read};
//!
//! let client = Client::connect(ClientOptions::new(["127.0.0.1:7101"])).await?;
//! let ack = client.append(Append::new("acme/room-42", "alice", NewMessage::text("hi"))).await?;
//! let page = client.read(Read::new("acme/room-42")).await?;
//! assert_eq!(page.messages.last().map(|m| m.seq), Some(ack.last_seq));
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`] learns the topology and goes straight to the leader, or stays with one address
//!   ([`Routing::Proxy`]); it retries what can be retried, always with the same ids.
//! - [`Session`] pipelines appends and keeps the order of each conversation.
//! - [`Follow`] and [`Subscription`] yield history and then live messages, without a gap or a repeat across
//!   reconnects.
//! - [`Error`] says whether a call can be retried and whether it may have taken effect.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod backoff;
mod channels;
mod client;
mod cluster;
pub mod dial;
mod encoded;
mod error;
mod feed;
mod follow;
mod gathered;
pub mod limits;
mod message;
mod options;
mod read;
pub mod reason;
mod router;
mod session;
mod subscribe;
mod tls;
mod topology;
mod topology_watch;

pub use client::Client;
pub use cluster::Replacement;
pub use dial::Dial;
pub use error::Error;
pub use feed::Delivery;
pub use follow::Follow;
pub use message::{Append, NewMessage};
pub use options::{ClientOptions, Routing};
pub use read::{Consistency, Page, Read, Start};
pub use session::{AppendHandle, Session, SessionOptions};
pub use subscribe::{Credit, Subscription};
pub use tls::Tls;
pub use topology_watch::TopologyWatch;

/// Generated from `proto/quorate/v1`.
pub mod proto {
    #![allow(missing_docs, reason = "the proto files document every message and field")]
    #![allow(unused_qualifications, reason = "generated code")]
    #![allow(clippy::allow_attributes_without_reason, reason = "generated code")]
    #![allow(clippy::all, clippy::pedantic, reason = "generated code")]
    tonic::include_proto!("quorate.v1");

    /// The descriptors of the API, for reflection and for tests that enumerate it.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
