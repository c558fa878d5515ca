//! Marks what looks like RTP (RFC 3550) for the routers on its way: expedited forwarding, DSCP 46.
#![no_std]
#![no_main]

use tidegate_sdk::{Error, Send, Verdict, send};

const UDP: u32 = 17;
const UDP_HEADER: u16 = 8;
/// Ports that media are sent to where nothing else was agreed on.
const PORTS: core::ops::RangeInclusive<u16> = 16384..=32767;
/// Upper two bits of RTP's first byte.
const VERSION: u8 = 2;
/// Type of service: DSCP 46, above the two bits of ECN.
const EXPEDITED: u8 = 46 << 2;

send!(mark_rtp, judge);

fn judge(packet: &Send) -> Result<Verdict, Error> {
    if packet.protocol() != UDP || packet.is_raw() || !PORTS.contains(&packet.remote_port()) {
        return Ok(Verdict::Continue);
    }
    let mut payload = packet.bytes();
    payload.skip(UDP_HEADER);
    // Too short for the header of RTP is no reason to drop it, as `?` would.
    let Ok(header) = payload.take::<12>() else {
        return Ok(Verdict::Continue);
    };
    if header[0] >> 6 == VERSION {
        packet.set_tos(EXPEDITED)?;
    }
    Ok(Verdict::Continue)
}
