//! Linker flags of the freestanding program; the library and its tests are ordinary.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("-Wl,-T,{dir}/micro.ld");
    let flags = ["-nostdlib", "-nostartfiles", "-static", "-no-pie"];
    let linker = ["-Wl,--build-id=none", "-Wl,--gc-sections", "-Wl,-z,noexecstack", &script];
    for flag in flags.iter().chain(&linker) {
        println!("cargo:rustc-link-arg-bins={flag}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=micro.ld");
}
