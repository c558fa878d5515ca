//! What went against the rules of the kernel, as Driver Verifier would see it.

use std::sync::{Mutex, PoisonError};

static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// More than anyone reads is not kept.
const MOST: usize = 1000;

/// Writes down what went wrong.
pub(crate) fn violate(text: String) {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if found.len() < MOST {
        found.push(text);
    }
}

/// Takes what was found since the last call.
pub(crate) fn take() -> Vec<String> {
    std::mem::take(&mut FOUND.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Notes a call above the IRQL that it may be made at.
pub(crate) fn at_most(level: u8, call: &str) {
    let now = fwps_sim::irql::current();
    if now > level {
        violate(format!("{call} at IRQL {now}, allowed up to {level}"));
    }
}
