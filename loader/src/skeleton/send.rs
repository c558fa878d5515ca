//! NAME: does not send UDP packets to a port on a list.
#![no_std]
#![no_main]

use tidegate_sdk::{Error, HashMap, Send, Verdict, maps, send};

const UDP: u32 = 17;

maps! {
    /// Ports that nobody may send to; the value is yours to use.
    static ports: HashMap<u32, u32, 256>;
}

send!(NAME, judge);

fn judge(packet: &Send) -> Result<Verdict, Error> {
    let listed = ports.get(&packet.remote_port().into()).is_some();
    Ok(if packet.protocol() == UDP && listed { Verdict::Block } else { Verdict::Continue })
}
