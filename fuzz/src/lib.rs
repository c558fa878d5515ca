//! What the fuzzers run: one function a target, over bytes that may be anything. A panic is a finding.
#![forbid(unsafe_code)]

use tidegate_abi::control::Request;

/// Control messages.
pub fn control(data: &[u8]) {
    let _ = Request::parse(data);
}
