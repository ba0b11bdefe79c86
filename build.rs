//! Compiles the protos with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "taugate/v1/payload.proto",
    "taugate/v1/inference.proto",
    "taugate/v1/miner.proto",
    "taugate/v1/capacity.proto",
    "taugate/v1/consumption.proto",
];

/// What reflection shows to clients: the peer services stay out.
const PUBLIC: [&str; 1] = ["taugate/v1/inference.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let public = protox::compile(PUBLIC, ["proto"])?;
    std::fs::write(out.join("public_descriptor.bin"), public.encode_to_vec())?;

    let all = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .bytes("taugate.v1.ImageChunk")
        .bytes("taugate.v1.GeneratedImage")
        .compile_fds(all)?;
    Ok(())
}
