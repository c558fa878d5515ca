// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lets a TLS connection through only when the name that its client asks for is on a list: `tls_sni_allow.c` in Rust.
#![no_std]
#![no_main]

use tidegate_sdk::{Cursor, Error, HashMap, RingBuf, Stream, Verdict, maps, stream};

/// Bytes of a name in the list, zero-padded.
const NAME: usize = 64;
/// Bytes of a name that are compared: the last ones of a longer name.
const KEPT: usize = NAME - 1;
const LONGEST: usize = 255;
const EXTENSIONS: usize = 64;

const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

#[repr(C)]
pub struct Refusal {
    name: [u8; NAME],
    flow_id: u64,
}

maps! {
    static allowed: HashMap<[u8; NAME], u32, 4096>;
    static refused: RingBuf<65536>;
}

/// Room for a name and a key's worth of zeros behind it, so that every suffix of it is a zero-padded key as it lies.
type Name = [u8; 2 * NAME];

stream!(tls_sni_allow, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    // The client speaks first, and only what this machine asks for is judged.
    if !stream.is_opened_here() {
        return Ok(Verdict::AllowConnection);
    }
    if !stream.is_outbound() || stream.is_empty() {
        return Ok(Verdict::Permit);
    }
    let mut name = [0; 2 * NAME];
    if stream.missed_bytes() != 0 {
        return Ok(drop_connection(stream, &name));
    }

    let mut record = stream.bytes();
    if record.u8()? != RECORD_HANDSHAKE {
        return Ok(Verdict::AllowConnection);
    }
    let Some(length) = record_length(&mut record) else {
        return Ok(if stream.is_last() { drop_connection(stream, &name) } else { Verdict::NeedMoreData });
    };
    match server_name(stream, record, length, &mut name) {
        Ok(whole) if is_allowed(&name, whole) => Ok(Verdict::AllowConnection),
        _ => Ok(drop_connection(stream, &name)),
    }
}

/// Length of the record whose type was read, once it is all there.
#[inline(always)]
fn record_length(record: &mut Cursor<'_>) -> Option<u16> {
    record.take::<2>().ok()?;
    let length = record.u16().ok()?;
    record.has(length).then_some(length)
}

/// Puts the server name of the ClientHello at `hello` into `name`, in lower case. Whether it is all of the name.
#[inline(always)]
fn server_name(stream: &Stream, mut hello: Cursor<'_>, length: u16, name: &mut Name) -> Result<bool, Error> {
    let end = hello.offset() + u64::from(length);
    // Handshake: type, length (3). The ClientHello is all of the record.
    let kind = hello.u8()?;
    let high = hello.u8()?;
    let length = hello.u16()?;
    if kind != CLIENT_HELLO || high != 0 || hello.offset() + u64::from(length) != end {
        return Err(Error::Malformed);
    }
    // Version (2), random (32), session id (1 + n), cipher suites (2 + n), compression methods (1 + n).
    hello.take::<34>()?;
    let session = hello.u8()?;
    hello.skip(u16::from(session));
    let suites = hello.u16()?;
    hello.skip(suites);
    let methods = hello.u8()?;
    hello.skip(u16::from(methods));
    // Extensions: length (2). They are all that is left of it.
    let extensions = hello.u16()?;
    if hello.offset() + u64::from(extensions) != end {
        return Err(Error::Malformed);
    }

    for _ in 0..EXTENSIONS {
        let kind = hello.u16()?;
        let length = hello.u16()?;
        if kind != EXTENSION_SERVER_NAME {
            hello.skip(length);
            continue;
        }
        // Server name list: length (2); of its one entry: type (1), length (2), the name.
        let behind = hello.offset() + u64::from(length);
        hello.take::<2>()?;
        let kind = hello.u8()?;
        let size = usize::from(hello.u16()?);
        if kind != HOST_NAME || hello.offset() + size as u64 != behind || behind > end || size > LONGEST {
            return Err(Error::Malformed);
        }
        let kept = size.min(KEPT);
        load_name(stream, hello.offset() + (size - kept) as u64, name, kept)?;
        return Ok(kept == size);
    }
    Err(Error::Malformed)
}

#[inline(always)]
fn load_name(stream: &Stream, offset: u64, name: &mut Name, size: usize) -> Result<(), Error> {
    stream.load(offset, name, size as u32)?;
    // Names in DNS know no case (RFC 4343); the list is in lower case.
    for c in name.iter_mut().take(NAME) {
        *c = c.to_ascii_lowercase();
    }
    Ok(())
}

#[inline(always)]
fn is_allowed(name: &Name, whole: bool) -> bool {
    if whole && lookup(name, 0) {
        return true;
    }
    for at in 1..NAME {
        if name[at - 1] == b'.' && lookup(name, at) {
            return true;
        }
    }
    false
}

/// Whether the name from `at` on, at most `NAME`, is on the list.
#[inline(always)]
fn lookup(name: &Name, at: usize) -> bool {
    name[at..].first_chunk::<NAME>().is_some_and(|key| allowed.get(key).is_some())
}

#[inline(always)]
fn drop_connection(stream: &Stream, name: &Name) -> Verdict {
    if let Some(mut event) = refused.reserve::<Refusal>() {
        event.flow_id = stream.flow_id();
        for (to, from) in event.name.iter_mut().zip(name) {
            *to = *from;
        }
        event.submit();
    }
    Verdict::DropConnection
}
