//! The file formats: pcap (either byte order, micro- or nanoseconds) and pcapng, as one sequence of records.

use std::time::Duration;

use pcap_parser::nom::Err as Stop;
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, PcapError};

/// One captured packet.
pub(super) struct Record<'a> {
    /// LINKTYPE number.
    pub link: i32,
    /// Time since 1970.
    pub time: Duration,
    /// Whether the capture kept less than the packet had.
    pub cut: bool,
    /// From the link header on.
    pub bytes: &'a [u8],
}

/// Hands every record of the capture `file` to `take`. Returns what is wrong behind the last one, if anything is.
///
/// # Errors
/// The file is no capture, in words.
pub(super) fn records<'a>(file: &'a [u8], take: impl FnMut(Record<'a>)) -> Result<Option<String>, String> {
    match file.first_chunk() {
        Some(b"\x0a\x0d\x0d\x0a") => pcapng(file, take),
        Some(_) => pcap(file, take),
        None => Err(format!("{} bytes are no capture", file.len())),
    }
}

fn pcap<'a>(file: &'a [u8], mut take: impl FnMut(Record<'a>)) -> Result<Option<String>, String> {
    let (mut rest, header) = pcap_parser::parse_pcap_header(file).map_err(|stop| match stop {
        Stop::Incomplete(_) => {
            format!("the file ends within the header of a capture, after {} bytes", file.len())
        }
        _ => "not a pcap or pcapng file".to_string(),
    })?;
    let parse = match (header.is_bigendian(), header.is_modified_format()) {
        (true, _) => pcap_parser::parse_pcap_frame_be,
        (false, true) => pcap_parser::parse_pcap_frame_modified,
        (false, false) => pcap_parser::parse_pcap_frame,
    };
    let unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
    // The upper bits of the field tell of frame check sequences.
    let link = header.network.0 & 0xffff;
    let mut frames = 0u64;
    while !rest.is_empty() {
        match parse(rest) {
            Ok((behind, frame)) => {
                take(Record {
                    link,
                    time: Duration::from_secs(frame.ts_sec.into())
                        + Duration::from_nanos(u64::from(frame.ts_usec) * unit),
                    cut: frame.caplen < frame.origlen,
                    bytes: frame.data,
                });
                frames += 1;
                rest = behind;
            }
            Err(stop) => return Ok(Some(damage(&stop, frames, file.len() - rest.len(), rest.len()))),
        }
    }
    Ok(None)
}

/// What the packets of an interface of a pcapng section have in common.
struct Interface {
    link: i32,
    /// Units of the timestamps in one second.
    units: u64,
    /// Seconds to add to them.
    offset: i64,
    /// Most bytes that were kept of a packet; 0: all.
    snap: u32,
}

impl Interface {
    fn time(&self, stamp: u64) -> Duration {
        let seconds = (stamp / self.units).saturating_add_signed(self.offset);
        let part = u128::from(stamp % self.units) * 1_000_000_000 / u128::from(self.units);
        Duration::new(seconds, u32::try_from(part).unwrap_or(0))
    }
}

fn pcapng<'a>(file: &'a [u8], mut take: impl FnMut(Record<'a>)) -> Result<Option<String>, String> {
    let mut rest = file;
    let mut big_endian = false;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut frames = 0u64;
    while !rest.is_empty() {
        let parse = if big_endian { pcap_parser::parse_block_be } else { pcap_parser::parse_block_le };
        let at = file.len() - rest.len();
        let (behind, block) = match parse(rest) {
            Ok(parsed) => parsed,
            Err(_) if at == 0 => return Err("the first block of the pcapng file can't be read".into()),
            Err(stop) => return Ok(Some(damage(&stop, frames, at, rest.len()))),
        };
        if behind.len() >= rest.len() {
            return Ok(Some(format!("the block at byte {at} has no length")));
        }
        rest = behind;
        match block {
            Block::SectionHeader(section) => {
                big_endian = section.big_endian();
                interfaces.clear();
            }
            Block::InterfaceDescription(interface) => interfaces.push(Interface {
                link: interface.linktype.0,
                units: interface.ts_resolution().filter(|units| *units > 0).unwrap_or(1_000_000),
                offset: interface.ts_offset(),
                snap: interface.snaplen,
            }),
            Block::EnhancedPacket(packet) => {
                let Some(interface) = interfaces.get(packet.if_id as usize) else {
                    return Ok(Some(format!(
                        "the packet at byte {at} is of an interface that is not described"
                    )));
                };
                let stamp = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let bytes = packet.data.get(..packet.caplen as usize).unwrap_or(packet.data);
                take(Record {
                    link: interface.link,
                    time: interface.time(stamp),
                    cut: packet.truncated(),
                    bytes,
                });
                frames += 1;
            }
            Block::SimplePacket(packet) => {
                let Some(interface) = interfaces.first() else {
                    return Ok(Some(format!(
                        "the packet at byte {at} is of an interface that is not described"
                    )));
                };
                let snap = if interface.snap == 0 { u32::MAX } else { interface.snap };
                let kept = packet.origlen.min(snap) as usize;
                take(Record {
                    link: interface.link,
                    time: Duration::ZERO,
                    cut: kept < packet.origlen as usize,
                    bytes: packet.data.get(..kept).unwrap_or(packet.data),
                });
                frames += 1;
            }
            _ => {}
        }
    }
    Ok(None)
}

fn damage(stop: &Stop<PcapError<&[u8]>>, frames: u64, at: usize, left: usize) -> String {
    let how = match stop {
        Stop::Incomplete(_) => "it ends within a record",
        _ => "a record can't be read",
    };
    format!("{how} after packet {frames}; the last {left} bytes, from byte {at} on, are not used")
}
