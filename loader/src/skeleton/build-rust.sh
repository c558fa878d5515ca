#!/bin/sh
# Compiles NAME for the machine that runs it. Needs a Rust compiler that has a `core` for BPF, and the llc of its LLVM:
# Debian's rustc-web, libstd-rust-web-dev-bpf and llvm-22.
set -eu
cd "$(dirname "$0")"
rustc() {
    "${RUSTC:-/usr/bin/rustc}" --edition 2024 --target bpfel-unknown-none -C opt-level=3 -C panic=abort \
        -C codegen-units=1 -C target-cpu=v3 -C debuginfo=2 "$@"
}
rustc --crate-type rlib --crate-name tidegate_sdk -o libtidegate_sdk.rlib tidegate-sdk/lib.rs
# For this target an "object" of rustc's is LLVM bitcode.
rustc --crate-type lib --emit=obj --extern tidegate_sdk=libtidegate_sdk.rlib -o NAME.bc NAME.rs
"${LLC:-llc-22}" -mcpu=v3 -filetype=obj NAME.bc -o NAME-rs.o
