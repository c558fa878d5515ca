// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lets a TLS connection through only when the name that its client asks for is on a list: `tls_sni_allow.c` in Rust.
#![no_std]
#![no_main]

use tidegate_sdk::{Cursor, Error, HashMap, RingBuf, Stream, Verdict, maps, stream};

/// Bytes of a name in the list, zero-padded; longer names are matched by their last 63 bytes.
const NAME: usize = 64;
const EXTENSIONS: usize = 64;

const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;

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
    // Handshake: type, length (3); ClientHello: version (2), random (32), session id (1 + n).
    let head = hello.take::<4>()?;
    if head[0] != CLIENT_HELLO || head[1] != 0 || u32::from(u16::from_be_bytes([head[2], head[3]])) + 4 > u32::from(length) {
        return Err(Error::Malformed);
    }
    hello.take::<34>()?;
    let session = hello.u8()?;
    hello.skip(u16::from(session));
    // Cipher suites (2 + n), compression methods (1 + n), length of the extensions (2).
    let suites = hello.u16()?;
    hello.skip(suites);
    let methods = hello.u8()?;
    hello.skip(u16::from(methods));
    hello.take::<2>()?;

    for _ in 0..EXTENSIONS {
        let kind = hello.u16()?;
        let size = hello.u16()?;
        if kind != EXTENSION_SERVER_NAME {
            hello.skip(size);
            continue;
        }
        // Server name list: length (2); of its one entry: type (1, 0 is a host name), length (2), the name.
        let entry = hello.take::<5>()?;
        let size = u32::from(u16::from_be_bytes([entry[3], entry[4]]));
        if entry[2] != 0 || size > 255 {
            return Err(Error::Malformed);
        }
        let kept = size.min(NAME as u32 - 1);
        load_name(stream, hello.offset() + u64::from(size - kept), name, kept)?;
        return Ok(kept == size);
    }
    Err(Error::Malformed)
}

#[inline(always)]
fn load_name(stream: &Stream, offset: u64, name: &mut Name, size: u32) -> Result<(), Error> {
    if size as usize >= NAME {
        return Err(Error::Malformed);
    }
    stream.load(offset, name, size)?;
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
