//! Turns `proto/externalscaler.proto` into Rust, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    let compiled = protox::compile(["externalscaler.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .btree_map(".") // the same content gives the same bytes
        .build_client(true) // for the tests
        .build_transport(false)
        .compile_fds(compiled)?;
    Ok(())
}
