//! Bounds that every part is designed for. A value over its bound is refused with a status, never cut short.

/// Instructions (8-byte slots) in one program.
pub const MAX_INSNS: usize = 65_536;
/// Instructions that one verification may walk.
pub const MAX_VERIFY_STEPS: u32 = 1_000_000;
/// Bytes that one verification may allocate at most.
pub const MAX_VERIFY_MEMORY: usize = 64 << 20;
/// Nested calls between functions of a program, the entry function included.
pub const MAX_CALL_DEPTH: usize = 8;
/// Bytes of stack that each function of a program has.
pub const STACK_FRAME: usize = 512;
/// Bytes of program stack that one run may use in all.
pub const STACK_SIZE: usize = MAX_CALL_DEPTH * STACK_FRAME;
/// Maps that one program may name.
pub const MAX_MAPS: usize = 64;
/// Maps that one runtime holds.
pub const MAX_RUNTIME_MAPS: usize = 1024;
/// Programs that one runtime holds.
pub const MAX_PROGRAMS: usize = 1024;
/// Links on one hook.
pub const MAX_LINKS: usize = 64;
/// Ranges of ports that the filter of a link has for an end.
pub const MAX_PORT_RANGES: usize = 4;
/// Changes of links that one message makes at most: every link of every hook ended, and as many attached.
pub const MAX_CHANGES: usize = 2 * 8 * MAX_LINKS;
/// Instructions that one run of a link may take unless the link says otherwise.
pub const DEFAULT_BUDGET: u32 = 65_536;
/// Largest budget that a link may ask for.
pub const MAX_BUDGET: u32 = 16_777_216;
/// Bytes in one control message, header included.
pub const MAX_MESSAGE: usize = 16 << 20;
/// Bytes in the name of a program or a map.
pub const MAX_NAME: usize = 64;
/// Bytes of a map key.
pub const MAX_KEY: usize = 512;
/// Bytes of a map value.
pub const MAX_VALUE: usize = 65_536;
/// Bytes of memory that one map may take. (A ring buffer of that size takes the room of one record more.)
pub const MAX_MAP_MEMORY: usize = 64 << 20;
/// Bytes of one record in a ring buffer.
pub const MAX_RECORD: usize = 65_536;
/// Records of ring buffers that one run may hold reserved at a time.
pub const MAX_RESERVED: usize = 8;
/// Bytes of one indication that a program is shown at once. A longer one is shown in pieces, each with its own verdict.
pub const MAX_WINDOW: usize = 65_536;
/// Edits that one run may record.
pub const MAX_EDITS: usize = 16;
/// Bytes of new data that the edits of one run may bring.
pub const MAX_EDIT_BYTES: usize = 2_048;
/// Times that one run may inject data of its own into a stream.
pub const MAX_INJECTIONS: usize = 4;
/// Bytes of one direction of a connection that are kept back (PEND) at most: with more, the link's `on_error` decides.
pub const MAX_HELD: usize = 1 << 20;
/// Nanoseconds that a link which is being detached has to decide on what it keeps back: then its `on_error` does.
pub const DRAIN_NS: u64 = 5_000_000_000;
/// Runs of a link, with one verdict and on one processor, of which one is timed.
pub const TIMED_EVERY: u64 = 256;
/// Classes that the times of runs fall into: below 2^[`TIME_SHIFT`] ns, below twice that, and so on; the last has all that are
/// longer.
pub const TIME_CLASSES: usize = 20;
/// See [`TIME_CLASSES`].
pub const TIME_SHIFT: u32 = 7;
/// Clones that one run may hold at a time.
pub const MAX_CLONES: usize = 1;
/// Bytes of a pattern that `tidegate_find` takes.
pub const MAX_PATTERN: usize = 256;
/// Bytes that the helpers of one run may search or copy out of what is shown, and move as keys, values and records, together: a
/// budget of its own, since an instruction's cost does not tell how much a helper does.
pub const MAX_SCAN: usize = 16 * MAX_WINDOW;
/// Traces that one runtime has at a time.
pub const MAX_TRACES: usize = 8;
/// Bytes of the records of one trace that wait to be read, at most.
pub const MAX_TRACE: usize = 1 << 22;
/// Nanoseconds without a reader after which a trace ends by itself.
pub const TRACE_NS: u64 = 10_000_000_000;
/// Places of a program that a traced run was at last, and that are kept.
pub const MAX_PATH: usize = 32;
/// Bytes of a key that a trace tells.
pub const TRACE_KEY: usize = 64;
/// Bytes of a value that a trace tells.
pub const TRACE_VALUE: usize = 128;
