//! libFuzzer's way into [`tidegate_fuzz::scenario`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::scenario::run(data));
