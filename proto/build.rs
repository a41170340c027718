//! Compiles the schema with protox: no protoc is needed on the machine.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["chappe/v1/room.proto", "chappe/node/v1/node.proto"];
    println!("cargo:rerun-if-changed=schema");
    let descriptors = protox::compile(files, ["schema"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Kept for gRPC reflection.
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
