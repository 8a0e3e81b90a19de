//! Client library for Quorate.

/// Generated from `proto/quorate/v1`.
pub mod proto {
    #![allow(missing_docs, reason = "the proto files document every message and field")]
    #![allow(clippy::all, clippy::pedantic, reason = "generated code")]
    tonic::include_proto!("quorate.v1");

    /// The descriptors of the API, for reflection and for tests that enumerate it.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
