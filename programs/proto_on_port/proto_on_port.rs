// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Holds ports to their protocols: what a connection is, is known by the first bytes of each direction, at most eight.
//!
//! An entry of `ports` is the service's port with the protocols that may be spoken there; entry 0 is for ports without one, and
//! without that they are free. Whoever speaks first is judged first, then the other side. First bytes are held back while they
//! may still become one of several protocols; a direction that ends before it is decided is of none.
#![no_std]
#![no_main]

use tidegate_sdk::{Error, FlowStorage, HashMap, RingBuf, Stream, Verdict, maps, stream};

/// Protocols, as bits of an entry of `ports`.
const OTHER: u32 = 1 << 0;
const TLS: u32 = 1 << 1;
const SSH: u32 = 1 << 2;
const HTTP: u32 = 1 << 3;
const RDP: u32 = 1 << 4;
const SMB: u32 = 1 << 5;
/// FTP, SMTP, POP3 and IMAP: greetings in plain text, and logins.
const MAIL_FTP: u32 = 1 << 6;

/// How a protocol begins: these of the first eight bytes, in these bits. No beginning is another one's.
struct Beginning {
    bytes: u64,
    mask: u64,
    protocol: u32,
}

/// In a beginning: whatever byte stands there.
const ANY: u16 = u16::MAX;

/// A beginning that is this text.
const fn text(text: &[u8], protocol: u32) -> Beginning {
    let mut first = [ANY; 8];
    let mut at = 0;
    while at < text.len() {
        first[at] = text[at] as u16;
        at += 1;
    }
    binary(first, protocol)
}

/// A beginning of these bytes.
const fn binary(first: [u16; 8], protocol: u32) -> Beginning {
    let mut mask = [0; 8];
    let mut bytes = [0; 8];
    let mut at = 0;
    while at < first.len() {
        bytes[at] = first[at] as u8;
        mask[at] = if first[at] == ANY { 0 } else { 0xff };
        at += 1;
    }
    Beginning { bytes: u64::from_be_bytes(bytes), mask: u64::from_be_bytes(mask), protocol }
}

static BEGINNINGS: [Beginning; 27] = [
    // A record of a handshake, its version and length, with a hello of a client or of a server in it; an alert.
    binary([0x16, 0x03, ANY, ANY, ANY, 0x01, ANY, ANY], TLS),
    binary([0x16, 0x03, ANY, ANY, ANY, 0x02, ANY, ANY], TLS),
    binary([0x15, 0x03, ANY, ANY, ANY, ANY, ANY, ANY], TLS),
    text(b"SSH-", SSH),
    text(b"GET ", HTTP),
    text(b"HEAD ", HTTP),
    text(b"POST ", HTTP),
    text(b"PUT ", HTTP),
    text(b"PATCH ", HTTP),
    text(b"DELETE ", HTTP),
    text(b"CONNECT ", HTTP),
    text(b"OPTIONS ", HTTP),
    text(b"TRACE ", HTTP),
    text(b"PRI * HT", HTTP),
    text(b"HTTP/1.", HTTP),
    // TPKT: version 3, length; X.224: its length, connection request or confirm.
    binary([0x03, 0x00, ANY, ANY, ANY, 0xe0, ANY, ANY], RDP),
    binary([0x03, 0x00, ANY, ANY, ANY, 0xd0, ANY, ANY], RDP),
    // NetBIOS: message, length; the protocol's id of version 1, of later ones.
    binary([0x00, ANY, ANY, ANY, 0xff, 0x53, 0x4d, 0x42], SMB),
    binary([0x00, ANY, ANY, ANY, 0xfe, 0x53, 0x4d, 0x42], SMB),
    text(b"220 ", MAIL_FTP),
    text(b"220-", MAIL_FTP),
    text(b"+OK ", MAIL_FTP),
    text(b"* OK ", MAIL_FTP),
    text(b"EHLO ", MAIL_FTP),
    text(b"HELO ", MAIL_FTP),
    text(b"USER ", MAIL_FTP),
    text(b"AUTH ", MAIL_FTP),
];

#[repr(C)]
pub struct Refusal {
    /// Bit of the protocol that was spoken.
    protocol: u32,
    port: u32,
    flow_id: u64,
}

maps! {
    static ports: HashMap<u16, u32, 1024>;
    /// Directions of each connection that were judged.
    static judged: FlowStorage<u32, 65536>;
    static refused: RingBuf<65536>;
}

stream!(proto_on_port, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    let port = if stream.is_opened_here() { stream.remote_port() } else { stream.local_port() };
    let Some(allowed) = ports.get(&port).or_else(|| ports.get(&0)).copied() else {
        return Ok(Verdict::AllowConnection);
    };
    // What began before can't be told from its middle.
    if stream.is_mid_stream() {
        return Ok(Verdict::AllowConnection);
    }
    if stream.is_empty() {
        return Ok(Verdict::Permit);
    }
    let before = judged.get_ptr(stream);
    if before.is_null() {
        return Ok(Verdict::DropConnection);
    }
    // SAFETY: not null, so the value of this connection. That two directions are judged at once costs a look at each.
    let directions = unsafe { *before };
    let this = if stream.is_outbound() { 1 } else { 2 };
    if directions & this != 0 {
        return Ok(Verdict::Permit);
    }
    let Some(protocol) = protocol(stream)? else {
        return Ok(Verdict::NeedMoreData);
    };
    if allowed & protocol == 0 {
        if let Some(mut event) = refused.reserve::<Refusal>() {
            event.protocol = protocol;
            event.port = u32::from(port);
            event.flow_id = stream.flow_id();
            event.submit();
        }
        return Ok(Verdict::DropConnection);
    }
    // SAFETY: as above.
    unsafe { *before = directions | this };
    Ok(if directions == 0 { Verdict::Permit } else { Verdict::AllowConnection })
}

/// What the first bytes are; `None` while they may become something.
#[inline(always)]
fn protocol(stream: &Stream) -> Result<Option<u32>, Error> {
    if stream.missed_bytes() != 0 {
        return Ok(Some(OTHER));
    }
    let mut first = [0; 8];
    let size = stream.len().min(8);
    stream.load(0, &mut first, size)?;
    let first = u64::from_be_bytes(first);
    let shown = u64::MAX << (64 - 8 * size);

    let mut may_become = false;
    for beginning in &BEGINNINGS {
        if (first ^ beginning.bytes) & beginning.mask & shown == 0 {
            if beginning.mask & !shown == 0 {
                return Ok(Some(beginning.protocol));
            }
            may_become = true;
        }
    }
    Ok(if may_become && !stream.is_last() { None } else { Some(OTHER) })
}
