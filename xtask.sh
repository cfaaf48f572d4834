#!/bin/sh
# Developer tasks of TwinRun. Sees that a C linker and Rust are there, then hands over to `cargo xtask`.
#   ./xtask.sh drill     set up everything and run the plug-pull drill
#   ./xtask.sh test      set up everything and run all tests
set -eu
cd "$(dirname "$0")"
if ! command -v cc >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "[setup] installing a C linker: apt-get install gcc libc6-dev" >&2
        apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev >&2
    else
        echo "A C linker is missing. Run this, then try again:  sudo apt-get install gcc libc6-dev" >&2
        exit 1
    fi
fi
if ! command -v cargo >/dev/null 2>&1; then
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
        export PATH
    else
        echo "Rust is missing. Install it with rustup (https://rustup.rs), then try again." >&2
        exit 1
    fi
fi
exec cargo xtask "$@"
