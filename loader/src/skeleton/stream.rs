//! NAME: resets connections that this machine opens to a port on a list.
#![no_std]
#![no_main]

use tidegate_sdk::{Error, HashMap, Stream, Verdict, maps, stream};

maps! {
    /// Ports that nobody may connect to; the value is yours to use.
    static ports: HashMap<u32, u32, 256>;
}

stream!(NAME, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    let listed = ports.get(&stream.remote_port().into()).is_some();
    Ok(if stream.is_opened_here() && listed { Verdict::DropConnection } else { Verdict::Continue })
}
