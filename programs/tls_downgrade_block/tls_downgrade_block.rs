// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ends a TLS connection when its server chose a version that is too old, or a cipher suite on the operator's list.
//!
//! A client offers, the server chooses: what counts is the ServerHello, and nothing of a client's data leaves in TLS before it.
//! The version is that of the extension "supported versions" where there is one (RFC 8446 section 4.2.1), as the other field says
//! 1.2 for ever. A HelloRetryRequest looks like a ServerHello; it is judged as one, and so is the ServerHello that follows.
#![no_std]
#![no_main]

use tidegate_sdk::{Array, Cursor, Error, HashMap, RingBuf, Stream, Verdict, maps, stream};

/// Types of records.
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;
/// The random bytes of a HelloRetryRequest.
const RETRY: [u64; 4] = [0xcf21_ad74_e59a_6111, 0xbe1d_8c02_1e65_b891, 0xc2a2_1116_7abb_8c5e, 0x079e_09e2_c8a8_339c];

const TLS_1_2: u16 = 0x0303;
/// Extensions of a ServerHello that are looked at; one with more is refused.
const EXTENSIONS: usize = 16;

#[repr(C)]
pub struct Refusal {
    /// 0: it could not be judged.
    version: u16,
    suite: u16,
    flow_id: u64,
}

maps! {
    /// At 0: the oldest version that may be chosen. 0: TLS 1.2.
    static oldest: Array<u32, u16, 1>;
    /// Cipher suites that may not be chosen.
    static weak: HashMap<u16, u32, 512>;
    static refused: RingBuf<65536>;
}

/// What a server chose.
struct Choice {
    version: u16,
    suite: u16,
    /// It asks the client to begin anew.
    is_retry: bool,
}

stream!(tls_downgrade_block, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    if stream.is_mid_stream() {
        return Ok(Verdict::AllowConnection);
    }
    // Who opened the connection is the client.
    if stream.is_outbound() == stream.is_opened_here() || stream.is_empty() {
        return Ok(Verdict::Permit);
    }
    if stream.missed_bytes() != 0 {
        return Ok(refuse(stream, 0, 0));
    }
    let mut record = stream.bytes();
    let kind = record.u8()?;
    if kind != HANDSHAKE && kind != ALERT && kind != CHANGE_CIPHER_SPEC {
        return Ok(Verdict::AllowConnection);
    }
    let Some(size) = record_size(&mut record) else {
        return Ok(more(stream));
    };
    if kind == HANDSHAKE {
        let mut hello = record;
        let Ok(head) = hello.take::<4>() else {
            return Ok(more(stream));
        };
        let hello_size = u16::from_be_bytes([head[2], head[3]]);
        if head[0] != SERVER_HELLO || head[1] != 0 || u32::from(hello_size) + 4 > u32::from(size) {
            return Ok(refuse(stream, 0, 0));
        }
        // The certificate may be in the same record: it is not waited for.
        if !hello.has(hello_size) {
            return Ok(more(stream));
        }
        let Ok(choice) = choice(hello, hello_size) else {
            return Ok(refuse(stream, 0, 0));
        };
        if choice.version < least() || weak.get(&choice.suite).is_some() {
            return Ok(refuse(stream, choice.version, choice.suite));
        }
        if !choice.is_retry {
            return Ok(Verdict::AllowConnection);
        }
    }
    // This record passes when all of it is there, and the next one is judged.
    if !record.has(size) {
        return Ok(more(stream));
    }
    stream.enforce(record.offset() as u32 + u32::from(size));
    Ok(Verdict::Permit)
}

/// Size of the record whose type was read.
#[inline(always)]
fn record_size(record: &mut Cursor<'_>) -> Option<u16> {
    record.take::<2>().ok()?;
    record.u16().ok()
}

/// What the ServerHello of this size chose.
#[inline(always)]
fn choice(mut hello: Cursor<'_>, size: u16) -> Result<Choice, Error> {
    let mut version = hello.u16()?;
    let mut is_retry = true;
    for part in RETRY {
        is_retry &= u64::from_be_bytes(*hello.take()?) == part;
    }
    let session = hello.u8()?;
    hello.skip(u16::from(session));
    let suite = hello.u16()?;
    // No compression.
    hello.u8()?;
    // All this has 38 bytes and those of the session; without extensions that is all.
    let (size, fixed) = (u32::from(size), 38 + u32::from(session));
    if size != fixed {
        let mut left = u32::from(hello.u16()?);
        if size != fixed + 2 + left {
            return Err(Error::Malformed);
        }
        for _ in 0..EXTENSIONS {
            if left == 0 {
                break;
            }
            let (kind, size) = (hello.u16()?, hello.u16()?);
            left = left.checked_sub(4 + u32::from(size)).ok_or(Error::Malformed)?;
            let mut value = hello;
            hello.skip(size);
            if kind == SUPPORTED_VERSIONS {
                version = value.u16()?;
            }
        }
        if left != 0 {
            return Err(Error::Malformed);
        }
    }
    Ok(Choice { version, suite, is_retry })
}

#[inline(always)]
fn least() -> u16 {
    oldest.get(&0).copied().filter(|version| *version != 0).unwrap_or(TLS_1_2)
}

/// There is not enough to judge: more is waited for, unless none can come.
#[inline(always)]
fn more(stream: &Stream) -> Verdict {
    if stream.is_last() { refuse(stream, 0, 0) } else { Verdict::NeedMoreData }
}

#[inline(always)]
fn refuse(stream: &Stream, version: u16, suite: u16) -> Verdict {
    if let Some(mut event) = refused.reserve::<Refusal>() {
        event.version = version;
        event.suite = suite;
        event.flow_id = stream.flow_id();
        event.submit();
    }
    Verdict::DropConnection
}
