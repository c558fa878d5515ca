// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keeps QUIC connections from being opened: `quic_block.c` in Rust.
#![no_std]
#![no_main]

use tidegate_sdk::{Error, HashMap, Send, Verdict, maps, send};

const IPPROTO_UDP: u32 = 17;
const UDP_HEADER: usize = 8;
/// Of the flags: the header is a long one.
const FORM: u8 = 0x80;

maps! {
    /// Remote ports at which QUIC is blocked, and how many packets were.
    static ports: HashMap<u16, u64, 64>;
}

send!(quic_block, judge);

fn judge(packet: &Send) -> Result<Verdict, Error> {
    if packet.protocol() != IPPROTO_UDP || packet.is_raw() {
        return Ok(Verdict::Continue);
    }
    let blocked = ports.get_ptr(&packet.remote_port());
    if blocked.is_null() || !opens(packet).unwrap_or(false) {
        return Ok(Verdict::Continue);
    }
    // Rust has no atomic addition for this target: of two processors that count at once, one may not be seen.
    // SAFETY: not null, so the value of this port.
    unsafe { *blocked += 1 };
    Ok(Verdict::Block)
}

/// Whether a packet has the long header by which every version opens its connections.
///
/// # Errors
/// It is too short for one.
#[inline(always)]
fn opens(packet: &Send) -> Result<bool, Error> {
    let mut quic = packet.bytes();
    quic.take::<UDP_HEADER>()?;
    // What packets with a long header share in all versions: flags and the version.
    let [flags, version @ ..] = *quic.take::<5>()?;
    // Version 0: a server's answer to a version that it does not know (version negotiation).
    Ok(flags & FORM != 0 && u32::from_be_bytes(version) != 0)
}
