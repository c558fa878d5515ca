//! libFuzzer's way into [`tidegate_fuzz::bytecode`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tidegate_fuzz::bytecode::run(data);
});
