//! libFuzzer's way into [`tidegate_fuzz::control`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::control::run(data));
