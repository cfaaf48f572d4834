//! Tells the programs' build scripts where the linker script is.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:script={dir}/guest.ld");
    println!("cargo:rerun-if-changed=build.rs");
}
