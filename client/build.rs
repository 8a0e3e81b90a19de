//! Compiles the public API without a system protoc.

use std::error::Error;

const PROTOS: [&str; 3] =
    ["quorate/v1/message.proto", "quorate/v1/log.proto", "quorate/v1/cluster.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = "../proto";
    println!("cargo:rerun-if-changed={root}");
    let descriptors = protox::compile(PROTOS, [root])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
