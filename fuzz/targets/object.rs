//! libFuzzer's way into [`tidegate_fuzz::object`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::object::run(data));
