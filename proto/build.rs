//! Compiles the .proto files without an installed protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        ["proto/consortium.proto", "proto/identity.proto"],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        // A view into the received message instead of a copy: servers hold one for every site in flight.
        .bytes(".consilium.v1.GroupChunk.values")
        .compile_fds(files)?;
    Ok(())
}
