//! What a simulator does where the contract leaves it free.

use fwps_sys::NTSTATUS;

/// How indicated bytes lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// One NBL, one MDL that is exactly the data.
    Contiguous,
    /// One NBL whose MDLs hold this many bytes each (at least 1).
    Every(usize),
    /// Several NBLs, MDLs of any length and of none, data that begins and ends inside the chain.
    Random,
}

/// When an accepted injection completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Before the inject call returns.
    Inside,
    /// In order, when the call that drives the simulator is about to return.
    Fifo,
    /// In any order, any time later; at the latest in `settle`.
    Random,
    /// Only in `settle` and `complete_all`.
    Manual,
}

/// How `countBytesRequired` is read; the documents do not agree, so a callout must work with all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedMore {
    /// So many bytes more than were shown.
    Additional,
    /// So many bytes in total, counted from the first one shown.
    Total,
    /// Whatever it says, one byte more is enough.
    Any,
}

/// Which filters may drop a connection from classify; the documents do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropConnection {
    /// Terminating ones and those of an unknown action.
    Terminating,
    /// Only those of an unknown action.
    Unknown,
}

/// The choices of one simulator. The default is the plainest: contiguous data, completions in order.
#[derive(Clone, Debug)]
pub struct Config {
    /// Source of every random choice.
    pub seed: u64,
    /// How data lies in memory.
    pub split: Split,
    /// When injections complete.
    pub completion: Completion,
    /// How a request for more data is read.
    pub need_more: NeedMore,
    /// Bytes that the engine keeps for a callout that wants more, 8 MiB on Windows.
    pub buffer_limit: usize,
    /// A FIN is indicated with an empty NBL; otherwise with no NBL at all.
    pub fin_has_nbl: bool,
    /// MDLs arrive unmapped, so that their address has to be asked for.
    pub unmapped: bool,
    /// Clones inherit the checksum and segmentation slots. No document promises it.
    pub clones_inherit_offload: bool,
    /// Whose DROP_CONNECTION is honoured.
    pub drop_connection: DropConnection,
    /// A packet that no raw socket sends says that the size of its IP header is 0, instead of nothing.
    pub zero_header_size: bool,
    /// Senders change their bytes behind every classify: what was shown by reference goes out changed.
    pub sender_changes: bool,
    /// Bytes of transport header and payload that go out in one packet; an injected one that has more completes with
    /// `INVALID_BUFFER_SIZE` unless hardware cuts it.
    pub mtu: usize,
    /// How many engine events are remembered for failure messages.
    pub trace_length: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            split: Split::Contiguous,
            completion: Completion::Fifo,
            need_more: NeedMore::Additional,
            buffer_limit: 8 << 20,
            fin_has_nbl: true,
            unmapped: false,
            clones_inherit_offload: false,
            drop_connection: DropConnection::Terminating,
            zero_header_size: false,
            sender_changes: false,
            mtu: usize::MAX,
            trace_length: 256,
        }
    }
}

impl Config {
    /// Every choice made by `seed`: what a property test runs over.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut rng = crate::rng::Rng::new(seed ^ 0x5eed);
        Self {
            seed,
            split: match rng.below(4) {
                0 => Split::Contiguous,
                1 => Split::Every(1 + rng.below(9)),
                _ => Split::Random,
            },
            completion: match rng.below(4) {
                0 => Completion::Inside,
                1 => Completion::Fifo,
                2 => Completion::Random,
                _ => Completion::Manual,
            },
            need_more: match rng.below(3) {
                0 => NeedMore::Additional,
                1 => NeedMore::Total,
                _ => NeedMore::Any,
            },
            drop_connection: if rng.one_in(2) {
                DropConnection::Terminating
            } else {
                DropConnection::Unknown
            },
            fin_has_nbl: rng.one_in(2),
            unmapped: rng.one_in(2),
            clones_inherit_offload: rng.one_in(2),
            zero_header_size: rng.one_in(2),
            ..Self::default()
        }
    }
}

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Any of the others, but for completions and aborts.
    Any,
    /// `FwpsCalloutRegister*`.
    CalloutRegister,
    /// `FwpsInjectionHandleCreate0`.
    InjectionHandleCreate,
    /// `NdisAllocateNetBufferListPool`, `NdisAllocateNetBufferPool` and `NdisAllocateGenericObject`.
    PoolAllocate,
    /// `FwpsAllocateNetBufferAndNetBufferList0`.
    NblAllocate,
    /// `FwpsAllocateCloneNetBufferList0`.
    NblClone,
    /// `FwpsCloneStreamData0`.
    StreamClone,
    /// `FwpsStreamInjectAsync0`.
    StreamInject,
    /// `FwpsInjectTransportSendAsync1`.
    SendInject,
    /// `IoAllocateMdl`.
    MdlAllocate,
    /// `MmMapLockedPagesSpecifyCache` (happens with [`Config::unmapped`]).
    MdlMap,
    /// `NdisGetDataBuffer`.
    DataBuffer,
    /// `IoAllocateWorkItem`.
    WorkItemAllocate,
    /// `FwpsFlowAssociateContext0`.
    FlowAssociate,
    /// `FwpsFlowAbort0`.
    FlowAbort,
    /// `FwpsStreamContinue0`.
    StreamContinue,
    /// `Fwpm*`, those that undo excepted.
    Management,
    /// Completions: they end with the status instead of success.
    Complete,
}

/// Which of the calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The nth from now on, counted from 1, and no other.
    Nth(u64),
    /// Every one.
    Always,
    /// So many in a thousand, by the seed.
    PerMille(u32),
    /// The nth call stack that was not seen before, the first time that it comes.
    NthStack(usize),
}

#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) when: When,
    pub(crate) status: NTSTATUS,
    pub(crate) seen: u64,
    /// Call stacks that were seen, by their hash.
    pub(crate) stacks: std::collections::HashSet<u64>,
}

/// The running call stack, from the callout's call up to where the engine called it, as a number.
pub(crate) fn call_stack() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let stack = std::backtrace::Backtrace::force_capture().to_string();
    let mut hash = DefaultHasher::new();
    // A frame is a line with its function, then one with its place. The engine's own do not tell calls apart.
    let frames: Vec<&str> = stack.lines().map(str::trim).collect();
    for frame in frames.windows(2) {
        let (function, place) = (frame[0], frame[1]);
        if function.contains("fwps_sim::engine::classify") {
            break;
        }
        if place.starts_with("at ") && !function.contains("fwps_sim::") {
            (function.split_once(": ").map_or(function, |(_, name)| name), place).hash(&mut hash);
        }
    }
    hash.finish()
}
