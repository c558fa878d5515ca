//! Tells of each remote port that this machine connects to when it does so for the first time.
#![no_std]
#![no_main]

use tidegate_sdk::{Error, LruHashMap, RingBuf, Stream, Verdict, maps, stream};

/// A record of `told`.
#[repr(C)]
pub struct New {
    flow_id: u64,
    process_id: u64,
    port: u64,
}

maps! {
    /// Ports that were told of. When there are more, the one that was not seen for longest is told of anew.
    static known: LruHashMap<u16, u32, 4096>;
    /// For user space: `tidegate event` shows them.
    static told: RingBuf<4096>;
}

stream!(new_ports, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    let port = stream.remote_port();
    if stream.is_opened_here() && known.get(&port).is_none() {
        known.insert(&port, &1)?;
        // A full ring is no reason to refuse a connection; what is lost is counted.
        if let Some(mut record) = told.reserve::<New>() {
            record.flow_id = stream.flow_id();
            record.process_id = stream.process_id();
            record.port = port.into();
            record.submit();
        }
    }
    Ok(Verdict::AllowConnection)
}
