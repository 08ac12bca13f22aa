//! Turns `protos/*.proto` into Rust and into one descriptor set, without protoc. Services only with the feature
//! `service`.

use std::{env, error::Error, fs, path::Path};

use prost::Message;

const FILES: [&str; 3] = ["model_config.proto", "grpc_service.proto", "health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=protos");

    let mut compiled = protox::compile(FILES, ["protos"])?;
    let with_service = env::var_os("CARGO_FEATURE_SERVICE").is_some();
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .build_client(with_service)
        .build_server(with_service)
        .bytes(".") // raw tensors stay slices of the received message
        .btree_map(".") // the same content gives the same bytes
        .compile_fds(compiled.clone())?;

    for file in &mut compiled.file {
        file.source_code_info = None; // comments: half the size, and nobody reads them at run time
    }
    let out_dir = env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?;
    fs::write(Path::new(&out_dir).join("descriptors.bin"), compiled.encode_to_vec())?;
    Ok(())
}
