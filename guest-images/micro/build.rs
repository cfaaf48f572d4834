//! Linker flags of a freestanding program; libraries and their tests are ordinary.

fn main() {
    let script = std::env::var("DEP_MACHINE_SCRIPT").expect("the machine's build script tells the path");
    let place = format!("-Wl,-T,{script}");
    let flags = ["-nostdlib", "-nostartfiles", "-static", "-no-pie"];
    let linker = ["-Wl,--build-id=none", "-Wl,--gc-sections", "-Wl,-z,noexecstack", &place];
    for flag in flags.iter().chain(&linker) {
        println!("cargo:rustc-link-arg-bins={flag}");
    }
    println!("cargo:rerun-if-changed={script}");
}
