//! Control messages: what the loader asks of the kernel, and what it answers.
//!
//! A message is a [`Header`] of twelve bytes and a postcard body. The header has the version, the operation with its own
//! stable number, and the length of the body, so that a malformed message is refused before its body is looked at.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::context::{SendContext, StreamContext};
use crate::filter::{LinkFilter, TCP};
use crate::grants::Grants;
use crate::hook::{Hook, ProgramType};
use crate::limits;
use crate::map::MapDef;
use crate::verdict::Verdict;

/// Name of a program or a map.
pub type Name = String<{ limits::MAX_NAME }>;
/// Id of a map, a program or a link. Never 0 and never given twice in the life of a runtime.
pub type Id = u32;

/// Bytes of a header on the wire.
pub const HEADER_SIZE: usize = 12;

/// The start of every request and every reply, little-endian on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`crate::API_VERSION`] of the sender.
    pub version: u16,
    /// Of a request: the operation. Of a reply: the [`Status`].
    pub code: u16,
    /// Bytes of the body, at most [`limits::MAX_MESSAGE`] less the header.
    pub length: u32,
    /// Zero.
    pub reserved: u32,
}

impl Header {
    /// Reads the header at the start of `message` and holds it against the message: version, length, reserved.
    ///
    /// # Errors
    /// [`Status::Malformed`] or [`Status::Version`].
    pub fn parse(message: &[u8]) -> Result<(Self, &[u8]), Status> {
        let (head, body) = message.split_first_chunk::<HEADER_SIZE>().ok_or(Status::Malformed)?;
        let [v0, v1, c0, c1, l0, l1, l2, l3, r0, r1, r2, r3] = *head;
        let header = Self {
            version: u16::from_le_bytes([v0, v1]),
            code: u16::from_le_bytes([c0, c1]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            reserved: u32::from_le_bytes([r0, r1, r2, r3]),
        };
        if header.version != crate::API_VERSION {
            return Err(Status::Version);
        }
        if header.reserved != 0 || header.length as usize != body.len() || message.len() > limits::MAX_MESSAGE
        {
            return Err(Status::Malformed);
        }
        Ok((header, body))
    }

    /// The header in its wire form.
    pub const fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let (v, c) = (self.version.to_le_bytes(), self.code.to_le_bytes());
        let (l, r) = (self.length.to_le_bytes(), self.reserved.to_le_bytes());
        [v[0], v[1], c[0], c[1], l[0], l[1], l[2], l[3], r[0], r[1], r[2], r[3]]
    }
}

macro_rules! statuses {
    ($( $number:literal $name:ident $doc:literal )*) => {
        /// How a request ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Status { $( #[doc = $doc] $name = $number, )* }

        impl Status {
            /// The status with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $( $number => Some(Self::$name), )* _ => None }
            }

            /// The status in words.
            pub const fn text(self) -> &'static str {
                match self { $( Self::$name => $doc, )* }
            }
        }
    };
}

statuses! {
    0 Ok "Done."
    1 Malformed "The message is not well formed: its length, its header or its body."
    2 Version "The message is of another API version: loader and kernel must be of one release."
    3 UnknownOperation "No operation has this number."
    4 ReplyTooLarge "The reply does not fit into the buffer given."
    5 Invalid "A value in the request is not allowed."
    6 NotFound "There is no map, program, link or entry of this id or key."
    7 Exists "The entry or the link exists already."
    8 Full "The map, the hook or the runtime is full."
    9 NoMemory "There is not enough memory."
    10 Busy "The object is in use."
    11 Refused "The verifier refused the program."
    12 OverBudget "The worst case of one run costs more than the link's budget."
    13 ReadOnly "The map is frozen."
    14 NotGranted "The program may not do this: its grants don't cover what it uses, the hook or the budget."
    15 NoTraffic "The host is never shown traffic of this hook: a link there would not run."
}

/// What a link does with the data when its program can't be run to its end, or an edit or injection fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnError {
    /// Fail closed: the data is dropped; a stream is reset, since a gap in it can't be told from tampering.
    #[default]
    Block,
    /// Fail open: the data passes unchanged.
    Permit,
}

macro_rules! operations {
    ($( $number:literal $name:ident $(<$life:lifetime>)? { $( $(#[doc = $fdoc:literal])* $field:ident : $ty:ty ),* $(,)? } -> $reply:ty; $doc:literal )*) => {
        $(
            #[doc = $doc]
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name $(<$life>)? { $( $(#[doc = $fdoc])* pub $field: $ty, )* }

            impl $(<$life>)? Operation for $name $(<$life>)? {
                const NUMBER: u16 = $number;
                type Reply = $reply;
            }
        )*

        /// A request, taken apart.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(clippy::large_enum_variant, reason = "it lives on a passive-level stack, and nothing may allocate before it is judged")]
        pub enum Request<'a> { $( #[doc = $doc] $name(operations!(@type $name $(<$life>)?)), )* }

        /// Name and number of every operation.
        pub const OPERATIONS: &[(&str, u16)] = &[ $( (stringify!($name), $number), )* ];

        impl<'a> Request<'a> {
            /// Takes a message apart. Every byte is accounted for, or it is refused.
            ///
            /// # Errors
            /// [`Status::Malformed`], [`Status::Version`] or [`Status::UnknownOperation`].
            pub fn parse(message: &'a [u8]) -> Result<Self, Status> {
                let (header, body) = Header::parse(message)?;
                match header.code {
                    $( $number => Ok(Self::$name(body_of(body)?)), )*
                    _ => Err(Status::UnknownOperation),
                }
            }
        }
    };
    (@type $name:ident <$life:lifetime>) => { $name<'a> };
    (@type $name:ident) => { $name };
}

/// A request with its number and the body of its reply.
pub trait Operation: Serialize {
    /// Number in the header; in groups of ten by object.
    const NUMBER: u16;
    /// Body of the reply when the status is [`Status::Ok`]. May borrow from the reply's bytes.
    type Reply;
}

operations! {
    0 Version {} -> VersionReply; "Asks what runs on the other side."
    1 State {} -> StateReply; "Asks whether traffic is shown to it, and what it holds."

    10 MapCreate {
        /// Name, for people.
        name: Name,
        /// What the map is.
        def: MapDef,
    } -> Id; "Makes a map. It lives until it is released and no program names it."
    11 MapRelease {
        /// The map.
        map: Id,
    } -> (); "Gives up a map: it goes when the last program that names it goes."
    12 MapUpdate<'a> {
        /// The map.
        map: Id,
        /// Its key; of arrays: the index, little-endian.
        key: &'a [u8],
        /// The value; of a per-CPU array: one for all processors, or one for each, one after the other without gaps.
        value: &'a [u8],
        /// As bpf_map_update_elem's.
        flags: u64,
    } -> (); "Sets the value of a key, frozen maps excepted."
    13 MapLookup<'a> {
        /// The map.
        map: Id,
        /// Its key.
        key: &'a [u8],
    } -> &'static [u8]; "Asks for the value of a key; of a per-CPU array: the values of all processors, one after the other without gaps."
    14 MapDelete<'a> {
        /// The map.
        map: Id,
        /// Its key.
        key: &'a [u8],
    } -> (); "Deletes a key."
    15 MapNextKey<'a> {
        /// The map.
        map: Id,
        /// The key before, or none for the first.
        key: Option<&'a [u8]>,
    } -> &'static [u8]; "Asks for the key that follows in the map's own order; NotFound behind the last. The key before need not exist any more."
    16 MapInfo {
        /// The map.
        map: Id,
    } -> MapInfoReply; "Asks what a map is."
    17 MapList {
        /// Ids greater than this.
        after: Id,
    } -> IdList; "Asks for the ids of the maps that exist."
    18 MapFreeze {
        /// The map.
        map: Id,
    } -> (); "Ends all changes of a map by control messages."

    20 ProgramLoad<'a> {
        /// Name, for people.
        name: Name,
        /// What it is written for.
        program_type: ProgramType,
        /// Bytecode: whole slots of eight bytes.
        code: &'a [u8],
        /// The maps that the code names by index.
        maps: Vec<Id, { limits::MAX_MAPS }>,
        /// What it may do at most, for as long as it is loaded.
        grants: Grants,
    } -> Loaded; "Verifies a program and keeps it, unless it uses more than its grants."
    21 ProgramUnload {
        /// The program.
        program: Id,
    } -> (); "Gives up a program; Busy while a link runs it."
    22 ProgramInfo {
        /// The program.
        program: Id,
    } -> ProgramInfoReply; "Asks what a program is."
    23 ProgramList {
        /// Ids greater than this.
        after: Id,
    } -> IdList; "Asks for the ids of the programs that exist."
    24 ProgramCode {
        /// The program.
        program: Id,
    } -> &'static [u8]; "Asks for the bytecode that a program was verified as: whole slots of eight bytes."

    30 LinkAttach {
        /// The program.
        program: Id,
        /// Where it runs.
        hook: Hook,
        /// Lower runs earlier; equal ones in the order they were attached.
        priority: u16,
        /// What happens when a run fails.
        on_error: OnError,
        /// Instructions that one run may take, 1 to 16,777,216.
        budget: u32,
        /// The bytes that the hook's links judge are the bytes that are sent, whatever the sender does to its memory
        /// meanwhile. Costs a copy of everything that passes.
        snapshot: bool,
        /// What of the hook's data it is shown; none: all.
        filter: Option<LinkFilter>,
    } -> Id; "Runs a program at a hook from now on."
    31 LinkDetach {
        /// The link.
        link: Id,
    } -> Detached; "Ends a link, once it keeps nothing back any more: ask again until the reply, or NotFound, says so. From the first time on \
         it is shown nothing new, and after limits::DRAIN_NS its on_error decides on what it keeps."
    32 LinkReplace {
        /// The link.
        link: Id,
        /// The program that runs from now on, of the same type.
        program: Id,
    } -> (); "Puts another program into a link, at once and without a gap."
    33 LinkInfo {
        /// The link.
        link: Id,
    } -> LinkInfoReply; "Asks what a link is and what it has counted."
    34 LinkList {
        /// Where.
        hook: Hook,
    } -> IdList; "Asks for the links of a hook in the order that they run."
    35 LinkCommit<'a> {
        /// What changes, one [`Change`] after the other, as [`Change::write`] writes them.
        changes: &'a [u8],
    } -> Committed; "Changes links of any hooks, all at once or not at all."
    36 LinkTry {
        /// The link.
        link: Id,
        /// What is tried in it; none: what was tried no longer is.
        trial: Option<Trial>,
    } -> (); "Tries another program in a link, or ends the trial. LinkReplace ends it too."
    37 LinkTimes {
        /// The link.
        link: Id,
        /// Of the runs with this verdict; none: of those that failed.
        verdict: Option<Verdict>,
    } -> Times; "Asks how long runs of a link took. One of limits::TIMED_EVERY is timed."

    40 EventRead {
        /// A ring buffer.
        map: Id,
        /// Bytes of records at most.
        max: u32,
    } -> Events<'static>; "Takes the records that wait in a ring buffer."

    50 FlowList {
        /// 0, then what the reply before says.
        from: u32,
    } -> Flows<'static>; "Asks for the connections that links are shown. One that comes or goes meanwhile may be missing; none is there twice."
    51 TraceBegin {
        /// Of this link only; 0: of all.
        link: Id,
        /// About this connection only; 0: about all, and about packets.
        flow: u64,
        /// With these ends only: a bit for each [`Verdict`], and [`TRACE_FAILED`]; 0: all.
        ends: u32,
        /// Bytes of records that may wait: a power of two from 4,096 to [`limits::MAX_TRACE`].
        bytes: u32,
    } -> Id; "Has the runs of links written down, one RunInfo each. Ends by itself when nobody reads for limits::TRACE_NS."
    52 TraceRead {
        /// The trace.
        trace: Id,
        /// Bytes of records at most.
        max: u32,
    } -> Traced<'static>; "Takes the records of a trace that wait."
    53 TraceEnd {
        /// The trace.
        trace: Id,
    } -> (); "Ends a trace. What waits in it is lost."
}

/// Whether the operation of this number may change something, if only by taking what waited: a handle that may only read is
/// refused it. Numbers that are no operation count as changes.
pub const fn changes(number: u16) -> bool {
    !matches!(
        number,
        Version::NUMBER
            | State::NUMBER
            | MapLookup::NUMBER
            | MapNextKey::NUMBER
            | MapInfo::NUMBER
            | MapList::NUMBER
            | ProgramInfo::NUMBER
            | ProgramList::NUMBER
            | ProgramCode::NUMBER
            | LinkInfo::NUMBER
            | LinkList::NUMBER
            | FlowList::NUMBER
            | LinkTimes::NUMBER
    )
}

/// One change of [`LinkCommit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Ends a link, as [`LinkDetach`] does. One that keeps something back is shown nothing new, and goes with [`LinkDetach`].
    Detach {
        /// The link.
        link: Id,
    },
    /// Runs a program at a hook.
    Attach(LinkAttach),
    /// Puts another program into a link, which keeps its id, place and counters, as [`LinkReplace`] does.
    Replace {
        /// The link.
        link: Id,
        /// The program that runs from now on.
        program: Id,
    },
    /// Gives a link another place in the order of its hook. It keeps its id, its counters and what it keeps back; bytes that
    /// wait for a link are shown to those that they were not shown to yet, and to no other.
    Move {
        /// The link.
        link: Id,
        /// Lower runs earlier; equal ones in the order they were attached.
        priority: u16,
    },
}

impl Change {
    /// Writes a change in front of `out`; gives back what is left of it.
    ///
    /// # Errors
    /// [`Status::ReplyTooLarge`] when it does not fit.
    pub fn write<'o>(&self, out: &'o mut [u8]) -> Result<&'o mut [u8], Status> {
        let length = postcard::to_slice(self, &mut *out).map_err(|_| Status::ReplyTooLarge)?.len();
        out.get_mut(length..).ok_or(Status::ReplyTooLarge)
    }

    /// Takes the first change from `bytes`; gives back what is left of them.
    ///
    /// # Errors
    /// [`Status::Malformed`].
    pub fn take(bytes: &[u8]) -> Result<(Self, &[u8]), Status> {
        postcard::take_from_bytes(bytes).map_err(|_| Status::Malformed)
    }
}

/// A program that is tried in a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The program, of the type of the link's own.
    pub program: Id,
    /// How it is tried.
    pub mode: TrialMode,
}

/// How a program is tried in a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrialMode {
    /// It runs beside the link's own program on what that is shown. What both want is compared, and nothing that it wants of the
    /// data is done.
    Shadow,
    /// It runs in the place of the link's own program for a share of the flows, and a flow stays with one of them; until too
    /// many of its runs fail.
    Canary {
        /// Of a hundred flows so many, 0 to 100.
        percent: u8,
        /// When more of a thousand runs fail, all flows go back to the link's own program; 0 to 1,000.
        max_errors: u16,
        /// But not before so many runs.
        min_runs: u32,
    },
}

/// Reply to [`LinkCommit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Id of the first link that was attached; the others have those that follow, in their order. 0: none was.
    pub first: Id,
    /// Links that end and still keep something back.
    pub draining: u32,
}

/// A list of ids, as many as fit: ask again from the last one on.
pub type IdList = Vec<Id, 256>;

/// Reply to [`Version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReply {
    /// [`crate::API_VERSION`].
    pub api: u16,
    /// Processors that maps have values for.
    pub processors: u32,
}

/// Reply to [`State`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReply {
    /// The release that it is of.
    pub release: String<32>,
    /// What the filter engine was told.
    pub filters: Filters,
    /// Maps that exist.
    pub maps: u32,
    /// Programs that exist.
    pub programs: u32,
    /// Links that exist.
    pub links: u32,
}

/// Whether the filter engine leads traffic to the links: by a filter for each hook, with its callout, in a sublayer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filters {
    /// Nobody told a filter engine anything: as in user space.
    #[default]
    None,
    /// The base filtering engine does not run. They are added when it does.
    Waiting,
    /// The base filtering engine refused them, with this `NTSTATUS`.
    Refused(i32),
    /// They stand.
    Standing {
        /// They outlive the driver and a restart.
        persistent: bool,
    },
    /// There is none to be told: a process shows the links the traffic that passes through it, which programs of one type decide
    /// about. At the hooks of others nothing can be attached.
    Only(ProgramType),
}

/// Reply to [`MapInfo`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapInfoReply {
    /// Name, for people.
    pub name: Name,
    /// What the map is.
    pub def: MapDef,
    /// Whether control messages may no longer change it.
    pub frozen: bool,
    /// Entries that exist; of a ring buffer: bytes that wait.
    pub entries: u32,
    /// Ring buffer: records that did not fit, since the map was made.
    pub dropped: u64,
}

/// Reply to [`ProgramLoad`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Id of the program.
    pub program: Id,
    /// Instructions that one run takes at most.
    pub max_cost: u64,
}

/// Body of a reply with [`Status::Refused`]. The same verifier in the loader says it in full, with source lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable code of the reason, for example `TG0104`.
    pub code: String<8>,
    /// Slot of the instruction.
    pub insn: u32,
    /// The reason in words.
    pub reason: String<200>,
}

/// What tells a program from others, whoever loaded it and under whatever name: a hash of its type and its bytecode (FNV-1a). It
/// says which program one has in hand, not whom to trust.
pub fn tag(program_type: ProgramType, code: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    [program_type as u8].iter().chain(code).fold(0xcbf2_9ce4_8422_2325, step)
}

/// Reply to [`ProgramInfo`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramInfoReply {
    /// Name, for people.
    pub name: Name,
    /// What it is written for.
    pub program_type: ProgramType,
    /// Its [`tag`].
    pub tag: u64,
    /// Slots of its bytecode.
    pub insns: u32,
    /// Instructions that one run takes at most.
    pub max_cost: u64,
    /// [`crate::helper::Capability`] bits that it uses.
    pub capabilities: u32,
    /// What it may do at most.
    pub grants: Grants,
    /// The maps that it names.
    pub maps: Vec<Id, { limits::MAX_MAPS }>,
    /// What its links have counted, past ones included.
    pub counters: Counters,
}

/// Reply to [`LinkDetach`]: what the link still keeps back. Nothing: it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Directions of connections of which it keeps bytes back, or waits for more.
    pub flows: u32,
    /// Bytes that it keeps back.
    pub bytes: u64,
}

/// Reply to [`LinkInfo`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfoReply {
    /// The program that it runs.
    pub program: Id,
    /// Where.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: u16,
    /// What happens when a run fails.
    pub on_error: OnError,
    /// Instructions that one run may take.
    pub budget: u32,
    /// Whether the bytes judged are the bytes sent.
    pub snapshot: bool,
    /// What of the hook's data it is shown; none: all.
    pub filter: Option<LinkFilter>,
    /// Whether it was asked to end: it is shown nothing new, and goes once it keeps nothing back.
    pub draining: bool,
    /// What it keeps back now.
    pub held: Detached,
    /// What it has counted since it was attached.
    pub counters: Counters,
    /// What is tried in it.
    pub trial: Option<TrialInfo>,
}

/// What is tried in a link, and what came of it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialInfo {
    /// What is tried.
    pub trial: Trial,
    /// Its runs. Of a shadow each is in one of the next four.
    pub runs: u64,
    /// Shadow: runs that wanted what the link's own program wanted.
    pub agreed: u64,
    /// Shadow: runs with another verdict, or one on other bytes.
    pub verdicts: u64,
    /// Shadow: runs with the same verdict, of which other bytes would have come.
    pub bytes: u64,
    /// Runs that failed; of a canary those too whose edits could not be carried out.
    pub errors: u64,
    /// Shadow: runs for which there was no memory.
    pub missed: u64,
    /// Canary: too many of its runs failed, so that the link's own program has all flows again.
    pub returned: bool,
}

/// What a link counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Runs, failed ones and those that could not begin included.
    pub runs: u64,
    /// Runs by [`Verdict`], in the order of their numbers. Failed runs are in none.
    pub verdicts: [u64; Verdict::ALL.len()],
    /// Runs that failed: data that could not be shown, over budget, an illegal verdict, an edit or an injection that could not
    /// be carried out.
    pub errors: u64,
    /// Bytes shown.
    pub bytes_shown: u64,
    /// Runs whose edits were carried out.
    pub edited: u64,
    /// Clones injected.
    pub injected: u64,
}

/// Reply to [`LinkTimes`]: how long the runs took that were timed, helper calls included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Nanoseconds, all together.
    pub sum_ns: u64,
    /// How many there were, by [class](limits::TIME_CLASSES).
    pub runs: [u64; limits::TIME_CLASSES],
}

/// Reply to [`EventRead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events<'a> {
    /// Records that did not fit, since the map was made.
    pub dropped: u64,
    /// The records: each its length as a little-endian u32, then its bytes.
    pub records: &'a [u8],
}

/// Reply to [`FlowList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows<'a> {
    /// Where the next request goes on; 0: these were the last.
    pub next: u32,
    /// The connections, one [`FlowInfo`] after the other, as [`FlowInfo::write`] writes them.
    #[serde(borrow)]
    pub flows: &'a [u8],
}

/// A connection that links are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo<'a> {
    /// Its number, as programs know it.
    pub flow: u64,
    /// Whose links are shown it.
    pub hook: Hook,
    /// Who opened it: 0 this machine, 1 the remote one.
    pub opener: u32,
    /// Between whom it is.
    pub ends: FlowEnds,
    /// The process that owns the local end, 0 when it is not known.
    pub process: u64,
    /// Nanoseconds since it was first shown.
    pub age: u64,
    /// It was there before it could be seen.
    pub mid_stream: bool,
    /// What is known of it.
    pub state: FlowState,
    /// The link that decided on its state, 0 for none.
    pub by: Id,
    /// Its directions: outbound, inbound.
    pub sides: [FlowSide; 2],
    /// Path of the program that owns the local end, as the filter engine gives it; empty: not known.
    #[serde(borrow)]
    pub application: &'a [u8],
}

/// Both ends of a connection or of a packet, as contexts have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnds {
    /// IP protocol number.
    pub protocol: u8,
    /// Address family: 4 or 6.
    pub family: u8,
    /// Address in network order, IPv4 in the first four bytes, and port; of ICMP the type.
    pub local: ([u8; 16], u16),
    /// The same of the remote end; of ICMP the code.
    pub remote: ([u8; 16], u16),
}

impl From<&StreamContext> for FlowEnds {
    fn from(context: &StreamContext) -> Self {
        Self {
            protocol: TCP,
            family: context.family as u8,
            local: (context.local_addr, context.local_port),
            remote: (context.remote_addr, context.remote_port),
        }
    }
}

impl From<&SendContext> for FlowEnds {
    fn from(context: &SendContext) -> Self {
        Self {
            protocol: context.protocol as u8,
            family: context.family as u8,
            local: (context.local_addr, context.local_port),
            remote: (context.remote_addr, context.remote_port),
        }
    }
}

/// What has become of a connection so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowState {
    /// Its bytes are shown to links.
    Open,
    /// A program wants no link to be shown more of it.
    Allowed,
    /// It was reset, by a link or by one of its ends.
    Reset,
}

/// What is kept of one direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSide {
    /// Bytes that are kept back (PEND), or wait behind such.
    pub held: u64,
    /// The link that keeps them, 0 for none.
    pub holder: Id,
    /// The link that waits for more bytes (NEED_MORE_DATA), 0 for none.
    pub waits: Id,
}

impl<'a> FlowInfo<'a> {
    /// Writes a connection in front of `out`; gives back what is left of it.
    ///
    /// # Errors
    /// [`Status::ReplyTooLarge`] when it does not fit.
    pub fn write<'o>(&self, out: &'o mut [u8]) -> Result<&'o mut [u8], Status> {
        let length = postcard::to_slice(self, &mut *out).map_err(|_| Status::ReplyTooLarge)?.len();
        out.get_mut(length..).ok_or(Status::ReplyTooLarge)
    }

    /// Takes the first connection from `bytes`; gives back what is left of them.
    ///
    /// # Errors
    /// [`Status::Malformed`].
    pub fn take(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Status> {
        postcard::take_from_bytes(bytes).map_err(|_| Status::Malformed)
    }
}

/// Bit of [`TraceBegin`]'s `ends` for runs that failed, or wanted what can't be done.
pub const TRACE_FAILED: u32 = 1 << 31;

/// Reply to [`TraceRead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced<'a> {
    /// What the clock says that [`RunInfo::at`] is of.
    pub now: u64,
    /// Runs that are told of nowhere, since there was no room for their records, from the beginning of the trace on.
    pub lost: u64,
    /// The records: each its length as a little-endian u32, then a [`RunInfo`].
    #[serde(borrow)]
    pub records: &'a [u8],
}

/// One run of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo<'a> {
    /// When it ended, in nanoseconds since the machine started.
    pub at: u64,
    /// The connection, 0 for none.
    pub flow: u64,
    /// Where.
    pub hook: Hook,
    /// Direction of the bytes: 0 outbound, 1 inbound.
    pub direction: u8,
    /// Between whom it is.
    pub ends: FlowEnds,
    /// The process that owns the local end, 0 when it is not known.
    pub process: u64,
    /// The link.
    pub link: Id,
    /// The program that ran: the link's own, or one that stands in for it.
    pub program: Id,
    /// Bytes that it was shown.
    pub shown: u32,
    /// How it ended.
    pub end: RunEnd,
    /// What it wanted could not be carried out, so that the link's `on_error` decided.
    pub unfit: bool,
    /// Bytes that it decided on.
    pub decided: u32,
    /// Bytes that go on in their place.
    pub passed: u32,
    /// Bytes of its own that it sent beside them.
    pub sent: u32,
    /// Slots of the instructions that it came by last, the oldest first; of those that the machine runs as one, the first.
    pub path: Vec<u32, { limits::MAX_PATH }>,
    /// The entry of a map that it looked up last.
    #[serde(borrow)]
    pub read: Option<RunRead<'a>>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunEnd {
    /// With a verdict.
    Verdict(Verdict),
    /// Its budget was spent at this instruction.
    Budget(u32),
    /// A helper, or the machine, ended it at this instruction.
    Fault(u32),
    /// It returned this, which is no verdict of its type.
    NoVerdict(u64),
}

/// An entry of a map that a run looked up, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRead<'a> {
    /// The map.
    pub map: Id,
    /// The key: its first [`limits::TRACE_KEY`] bytes.
    pub key: &'a [u8],
    /// The value: its first [`limits::TRACE_VALUE`] bytes. None: there was no such entry.
    pub value: Option<&'a [u8]>,
}

impl<'a> RunInfo<'a> {
    /// Writes it into `out`. Returns its length.
    ///
    /// # Errors
    /// [`Status::ReplyTooLarge`] when it does not fit.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, Status> {
        postcard::to_slice(self, out).map(|written| written.len()).map_err(|_| Status::ReplyTooLarge)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`Status::Malformed`].
    pub fn parse(record: &'a [u8]) -> Result<Self, Status> {
        body_of(record)
    }

    /// Its bit in [`TraceBegin`]'s `ends`.
    pub const fn bit(end: RunEnd, unfit: bool) -> u32 {
        match end {
            RunEnd::Verdict(verdict) if !unfit => 1 << verdict as u32,
            _ => TRACE_FAILED,
        }
    }
}

fn body_of<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Status> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(Status::Malformed),
    }
}

/// Writes a message: header, then body. Returns its length.
///
/// # Errors
/// [`Status::ReplyTooLarge`] when it does not fit into `out`.
pub fn write<T: Serialize + ?Sized>(code: u16, body: &T, out: &mut [u8]) -> Result<usize, Status> {
    let (head, rest) = out.split_first_chunk_mut::<HEADER_SIZE>().ok_or(Status::ReplyTooLarge)?;
    let length = postcard::to_slice(body, rest).map_err(|_| Status::ReplyTooLarge)?.len();
    if HEADER_SIZE + length > limits::MAX_MESSAGE {
        return Err(Status::ReplyTooLarge);
    }
    let header = Header { version: crate::API_VERSION, code, length: length as u32, reserved: 0 };
    *head = header.to_bytes();
    Ok(HEADER_SIZE + length)
}

/// Writes a request. Returns its length.
///
/// # Errors
/// [`Status::ReplyTooLarge`] when it does not fit into `out`.
pub fn write_request<T: Operation>(request: &T, out: &mut [u8]) -> Result<usize, Status> {
    write(T::NUMBER, request, out)
}

/// Takes a reply apart: the body with [`Status::Ok`].
///
/// # Errors
/// The status that the other side gave; [`Status::Malformed`] when the reply can't be read. With [`Status::Refused`], ask
/// [`refusal`].
pub fn parse_reply<'a, T: Deserialize<'a>>(reply: &'a [u8]) -> Result<T, Status> {
    let (header, body) = Header::parse(reply)?;
    match Status::from_number(header.code) {
        Some(Status::Ok) => body_of(body),
        Some(status) => Err(status),
        None => Err(Status::Malformed),
    }
}

/// The verifier's reason in a reply with [`Status::Refused`].
pub fn refusal(reply: &[u8]) -> Option<Refusal> {
    let (header, body) = Header::parse(reply).ok()?;
    (header.code == Status::Refused as u16).then(|| body_of(body).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(code: &[u8]) -> ProgramLoad<'_> {
        ProgramLoad {
            name: Name::try_from("p").expect("short"),
            program_type: ProgramType::Send,
            code,
            maps: Vec::from_slice(&[7, 8]).expect("two"),
            grants: Grants::ALL,
        }
    }

    #[test]
    fn a_request_comes_out_as_it_went_in() {
        let mut out = [0; 256];
        let request = load(&[0x95, 0, 0, 0, 0, 0, 0, 0]);
        let length = write_request(&request, &mut out).expect("fits");
        assert_eq!(Request::parse(&out[..length]), Ok(Request::ProgramLoad(request)));
    }

    #[test]
    fn a_message_cut_or_lengthened_anywhere_is_refused() {
        let mut out = [0; 256];
        let length = write_request(&load(&[1; 24]), &mut out).expect("fits");
        for cut in 0..length {
            assert_eq!(Request::parse(&out[..cut]), Err(Status::Malformed), "cut at {cut}");
        }
        assert_eq!(Request::parse(&out[..=length]), Err(Status::Malformed));
    }

    #[test]
    fn another_version_and_an_unknown_operation_are_told_apart() {
        let mut out = [0; 64];
        let length = write_request(&Version {}, &mut out).expect("fits");
        out[0] ^= 0x80;
        assert_eq!(Request::parse(&out[..length]), Err(Status::Version));
        out[0] ^= 0x80;
        out[2] = 0xff;
        assert_eq!(Request::parse(&out[..length]), Err(Status::UnknownOperation));
    }

    #[test]
    fn numbers_of_operations_are_unique_and_rise() {
        assert!(OPERATIONS.is_sorted_by(|a, b| a.1 < b.1));
    }

    #[test]
    fn what_is_named_after_a_change_changes() {
        let verbs = [
            "Create", "Release", "Update", "Delete", "Freeze", "Load", "Unload", "Attach", "Detach",
            "Replace", "Commit", "Try", "Read", "Begin", "End",
        ];
        for (name, number) in OPERATIONS {
            assert_eq!(changes(*number), verbs.iter().any(|verb| name.ends_with(verb)), "{name}");
        }
        assert!(changes(u16::MAX));
    }

    #[test]
    fn a_reply_that_does_not_fit_says_so() {
        let mut out = [0; 40];
        assert_eq!(write(0, &[7_u8; 64].as_slice(), &mut out), Err(Status::ReplyTooLarge));
    }
}
