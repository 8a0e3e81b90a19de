//! Compiles the protocol between nodes, and the servers of the public API, without a system protoc.

use std::error::Error;

const PUBLIC: [&str; 2] = ["quorate/v1/log.proto", "quorate/v1/cluster.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let between_nodes = protox::compile(["quorate/peer/v1/peer.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(between_nodes)?;
    // Messages and clients are the client library's.
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".quorate.v1", "::quorate_client::proto")
        // Their messages may be encoded before.
        .extern_path(".quorate.v1.FollowResponse", "crate::service::delivery::Followed")
        .extern_path(".quorate.v1.SubscribeResponse", "crate::service::delivery::Subscribed")
        .codec_path("crate::service::codec::CountedCodec")
        .compile_fds(protox::compile(PUBLIC, ["proto"])?)?;
    Ok(())
}
