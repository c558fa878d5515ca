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
            fin_has_nbl: rng.one_in(2),
            unmapped: rng.one_in(2),
            clones_inherit_offload: rng.one_in(2),
            ..Self::default()
        }
    }
}

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Any of the others.
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
}

#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) when: When,
    pub(crate) status: NTSTATUS,
    pub(crate) seen: u64,
}
