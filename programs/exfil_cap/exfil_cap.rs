// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lets a connection send so many bytes and no more: what is within the cap passes to the byte, then the connection is reset.
//! Traps: the cap inside a segment, connections that are many or that began before, a map that is full.
#![no_std]
#![no_main]

use tidegate_sdk::{Array, Error, FlowStorage, Stream, Verdict, maps, stream};

maps! {
    /// At 0: bytes that a connection may send. 0: any.
    static cap: Array<u32, u64, 1>;
    /// Bytes that each connection has sent. A connection that finds no room is reset: it could not be counted.
    static sent: FlowStorage<u64, 65536>;
}

stream!(exfil_cap, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    let most = cap.get(&0).copied().unwrap_or(0);
    if most == 0 || !stream.is_outbound() || stream.is_empty() {
        return Ok(Verdict::Permit);
    }
    let counted = sent.get_ptr(stream);
    if counted.is_null() {
        return Ok(Verdict::DropConnection);
    }
    // SAFETY: not null, so the value of this connection. One direction is shown by one processor at a time.
    let (before, len) = (unsafe { *counted }, u64::from(stream.len()));
    let left = most.saturating_sub(before);
    if left == 0 {
        return Ok(Verdict::DropConnection);
    }
    let passes = len.min(left);
    // SAFETY: as above.
    unsafe { *counted = before + passes };
    stream.enforce(passes as u32);
    Ok(Verdict::Permit)
}
