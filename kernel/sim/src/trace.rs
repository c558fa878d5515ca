//! What the engine did, kept for the moment a test fails.

use std::fmt;

use fwps_sys::{FWP_ACTION, FWPS_STREAM_ACTION, FWPS_STREAM_FLAG, NTSTATUS};

use crate::flow::Direction;

/// One step of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Indicate {
        flow: u64,
        callout: u32,
        flags: FWPS_STREAM_FLAG,
        length: usize,
        missed: usize,
    },
    Decide {
        flow: u64,
        callout: u32,
        action: FWP_ACTION,
        stream: FWPS_STREAM_ACTION,
        count: usize,
        required: u32,
    },
    Deliver {
        flow: u64,
        direction: Direction,
        length: usize,
    },
    Ended {
        flow: u64,
        what: &'static str,
    },
    InjectStream {
        flow: u64,
        callout: u32,
        flags: FWPS_STREAM_FLAG,
        length: usize,
        status: NTSTATUS,
    },
    Send {
        packet: u64,
        callout: u32,
        action: FWP_ACTION,
        absorbed: bool,
    },
    InjectSend {
        endpoint: u64,
        length: usize,
        status: NTSTATUS,
    },
    Wire {
        length: usize,
        injected: bool,
    },
    Complete {
        injection: u64,
        status: NTSTATUS,
    },
    Work,
    Failed {
        call: &'static str,
        status: NTSTATUS,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Indicate { flow, callout, flags, length, missed } => {
                write!(f, "flow {flow}: show callout {callout} {length} bytes, {flags:?}, missed {missed}")
            }
            Self::Decide { flow, callout, action, stream, count, required } => write!(
                f,
                "flow {flow}: callout {callout} says {action:?}, stream action {stream:?}, {count} bytes, wants {required}"
            ),
            Self::Deliver { flow, direction, length } => {
                write!(f, "flow {flow}: {length} bytes out, {direction:?}")
            }
            Self::Ended { flow, what } => write!(f, "flow {flow}: {what}"),
            Self::InjectStream { flow, callout, flags, length, status } => {
                write!(f, "flow {flow}: callout {callout} injects {length} bytes, {flags:?}: {status}")
            }
            Self::Send { packet, callout, action, absorbed } => {
                let how = if absorbed { " and absorbs it" } else { "" };
                write!(f, "list {packet}: callout {callout} says {action:?}{how}")
            }
            Self::InjectSend { endpoint, length, status } => {
                write!(f, "inject {length} bytes at endpoint {endpoint:#x}: {status}")
            }
            Self::Wire { length, injected } => {
                write!(f, "wire: {length} bytes{}", if injected { ", injected" } else { "" })
            }
            Self::Complete { injection, status } => write!(f, "complete injection {injection}: {status}"),
            Self::Work => f.write_str("run a work item"),
            Self::Failed { call, status } => write!(f, "{call} fails as requested: {status}"),
        }
    }
}
