//! Resets connections that this machine makes to the telnet port.
#![no_std]
#![no_main]

use tidegate_sdk::{Error, Stream, Verdict, stream};

const TELNET: u16 = 23;

stream!(no_telnet, judge);

fn judge(stream: &Stream) -> Result<Verdict, Error> {
    let refused = stream.is_opened_here() && stream.remote_port() == TELNET;
    // What passes here is not shown again: all of the connection is of the same port.
    Ok(if refused { Verdict::DropConnection } else { Verdict::AllowConnection })
}
