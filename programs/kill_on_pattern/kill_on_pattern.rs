// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ends a connection when one of the operator's byte patterns occurs in it: `kill_on_pattern.c` in Rust.
#![no_std]
#![no_main]

use tidegate_sdk::{Array, Error, RingBuf, Stream, Verdict, maps, stream};

/// Entries of the map.
const PATTERNS: usize = 8;
/// Bytes of one pattern.
const PATTERN: usize = 32;

/// Where a pattern is looked for; bits.
const SENT: u32 = 1;
const RECEIVED: u32 = 2;

#[repr(C)]
pub struct Pattern {
    /// 0: the entry is free.
    r#where: u32,
    /// Bytes of it, up to `PATTERN`.
    size: u32,
    bytes: [u8; PATTERN],
}

#[repr(C)]
pub struct Kill {
    /// Its index.
    pattern: u32,
    direction: u32,
    flow_id: u64,
}

maps! {
    static patterns: Array<u32, Pattern, PATTERNS>;
    static kills: RingBuf<65536>;
}

/// A pattern that was found.
struct Match {
    at: u64,
    end: u64,
    pattern: u32,
}

stream!(kill_on_pattern, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    let shown = u64::from(stream.len());
    if stream.is_empty() {
        return Ok(Verdict::Permit);
    }
    let direction = if stream.is_outbound() { SENT } else { RECEIVED };
    let mut first: Option<Match> = None;
    let mut held = 0;
    for index in 0..PATTERNS as u32 {
        let Some(pattern) = patterns.get(&index) else { continue };
        let size = pattern.size;
        if pattern.r#where & direction == 0 || size == 0 || size as usize > PATTERN {
            continue;
        }
        if let Some(at) = stream.find_start(0, &pattern.bytes, size) {
            let end = at + u64::from(size);
            if first.as_ref().is_none_or(|first| end < first.end) {
                first = Some(Match { at, end, pattern: index });
            }
        }
        held = held.max(begun(stream, shown, &pattern.bytes, size));
    }
    match first {
        Some(Match { at: 0, pattern, .. }) => return Ok(kill(stream, pattern)),
        Some(Match { at, .. }) => stream.enforce(at as u32),
        None if held == 0 || stream.is_last() => {}
        None if u64::from(held) == shown => return Ok(Verdict::NeedMoreData),
        None => stream.enforce((shown - u64::from(held)) as u32),
    }
    Ok(Verdict::Permit)
}

/// Bytes at the end of those shown with which `pattern` begins, the most; 0 when it begins with none.
#[inline(always)]
fn begun(stream: &Stream, shown: u64, pattern: &[u8; PATTERN], size: u32) -> u32 {
    for count in (1..PATTERN as u32).rev() {
        let begins = || stream.find_start(shown - u64::from(count), pattern, count).is_some();
        if count < size && u64::from(count) <= shown && begins() {
            return count;
        }
    }
    0
}

#[inline(always)]
fn kill(stream: &Stream, pattern: u32) -> Verdict {
    if let Some(mut event) = kills.reserve::<Kill>() {
        event.pattern = pattern;
        event.direction = u32::from(!stream.is_outbound());
        event.flow_id = stream.flow_id();
        event.submit();
    }
    Verdict::DropConnection
}
