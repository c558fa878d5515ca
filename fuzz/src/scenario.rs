//! Scenario files and captures: whatever a policy author hands over is used, or refused in words.

use std::path::Path;

use tidegate::capture::Capture;
use tidegate::flows;
use tidegate::scenario::Policy;

/// Runs one input: see the head of the module. Captures are known by their first bytes; all else is a scenario file.
pub fn run(data: &[u8]) {
    if let Ok(capture) = Capture::parse(data) {
        assert!(capture.packets.len() as u64 <= capture.notes.frames, "a frame is one packet at most");
        let _ = capture.notes.to_string();
        for connection in flows::connections(&capture, &[]) {
            for direction in [flows::Direction::Outbound, flows::Direction::Inbound] {
                let _ = connection.bytes(direction);
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        match Policy::parse(text, Path::new("fuzz/policy.toml"), None) {
            Ok(policy) => assert!(!policy.scenarios.is_empty(), "a file has a scenario"),
            Err(error) => assert!(!error.to_string().is_empty(), "an error says what is wrong"),
        }
    }
}
