//! Programs for the tests, put together instruction by instruction.

use std::collections::HashMap;
use std::vec::Vec;

use tidegate_abi::insn::{alu, class, jmp, mode, pseudo, size, source};
use tidegate_abi::{Insn, Verdict, context, errno, helper};

/// Register of the result.
pub(crate) const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
/// Where every program here keeps its context.
const CTX: u8 = 6;
const R7: u8 = 7;
const R8: u8 = 8;
const R9: u8 = 9;
const FP: u8 = 10;
/// Where bytes for a helper are put together on the stack.
const TEXT: i16 = -256;
/// Most bytes of one text.
pub(crate) const MAX_TEXT: usize = 240;

/// A program being written. The context is in r6 from the start.
pub(crate) struct Asm {
    code: Vec<Insn>,
    labels: HashMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
}

impl Asm {
    pub(crate) fn new() -> Self {
        let mut asm = Self { code: Vec::new(), labels: HashMap::new(), jumps: Vec::new() };
        asm.copy(CTX, R1);
        asm
    }

    fn op(&mut self, opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> &mut Self {
        self.code.push(Insn::new(opcode, dst, src, offset, imm));
        self
    }

    /// dst = number
    pub(crate) fn set(&mut self, dst: u8, number: i32) -> &mut Self {
        self.op(class::ALU64 | alu::MOV | source::K, dst, 0, 0, number)
    }

    /// dst = src
    fn copy(&mut self, dst: u8, src: u8) -> &mut Self {
        self.op(class::ALU64 | alu::MOV | source::X, dst, src, 0, 0)
    }

    fn add(&mut self, dst: u8, number: i32) -> &mut Self {
        self.op(class::ALU64 | alu::ADD | source::K, dst, 0, 0, number)
    }

    fn load(&mut self, width: u8, dst: u8, from: u8, offset: usize) -> &mut Self {
        self.op(class::LDX | mode::MEM | width, dst, from, offset as i16, 0)
    }

    fn label(&mut self, name: &'static str) -> &mut Self {
        self.labels.insert(name, self.code.len());
        self
    }

    /// Goes to the label when `dst` compares with `number`.
    fn jump(&mut self, condition: u8, dst: u8, number: i32, to: &'static str) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.op(class::JMP | condition | source::K, dst, 0, 0, number)
    }

    pub(crate) fn call(&mut self, helper: u32) -> &mut Self {
        self.op(class::JMP | jmp::CALL, 0, 0, 0, helper as i32)
    }

    /// Puts `bytes` on the stack, for [`Self::point`].
    fn text(&mut self, bytes: &[u8]) -> &mut Self {
        assert!(bytes.len() <= MAX_TEXT);
        for (at, byte) in bytes.iter().enumerate() {
            let opcode = class::ST | mode::MEM | size::B;
            self.op(opcode, FP, 0, TEXT + at as i16, i32::from(*byte));
        }
        self
    }

    /// dst = address of the text
    fn point(&mut self, dst: u8) -> &mut Self {
        self.copy(dst, FP).add(dst, i32::from(TEXT))
    }

    /// tidegate_replace, or tidegate_remove when there is nothing new.
    pub(crate) fn replace(&mut self, offset: i32, remove: i32, new: &[u8]) -> &mut Self {
        self.text(new).copy(R1, CTX).set(R2, offset).set(R3, remove);
        if new.is_empty() {
            self.call(helper::REMOVE)
        } else {
            self.point(R4).set(R5, new.len() as i32).call(helper::REPLACE)
        }
    }

    /// Stores a number into a 32-bit field of a stream context.
    pub(crate) fn store(&mut self, field: usize, number: i32) -> &mut Self {
        self.op(class::ST | mode::MEM | size::W, CTX, 0, field as i16, number)
    }

    pub(crate) fn exit(&mut self) -> &mut Self {
        self.op(class::JMP | jmp::EXIT, 0, 0, 0, 0)
    }

    /// Ends with a verdict.
    pub(crate) fn give(&mut self, verdict: Verdict) -> &mut Self {
        self.set(R0, verdict as i32).exit()
    }

    /// The bytecode.
    pub(crate) fn code(&self) -> Vec<u8> {
        let mut code = self.code.clone();
        for (at, to) in &self.jumps {
            code[*at].offset = (self.labels[to] as isize - *at as isize - 1) as i16;
        }
        code.into_iter().flat_map(Insn::to_bytes).collect()
    }
}

const BYTES_ENFORCED: usize = core::mem::offset_of!(tidegate_abi::StreamContext, bytes_enforced);
const BYTES_REQUIRED: usize = core::mem::offset_of!(tidegate_abi::StreamContext, bytes_required);
const MISSED_BYTES: usize = core::mem::offset_of!(tidegate_abi::StreamContext, missed_bytes);
const STREAM_FLAGS: usize = core::mem::offset_of!(tidegate_abi::StreamContext, flags);
const DIRECTION: usize = core::mem::offset_of!(tidegate_abi::StreamContext, direction);
const PROCESS_ID: usize = core::mem::offset_of!(tidegate_abi::StreamContext, process_id);
const DATA: usize = core::mem::offset_of!(tidegate_abi::StreamContext, data);
const DATA_END: usize = core::mem::offset_of!(tidegate_abi::StreamContext, data_end);

/// Gives a verdict and does nothing else.
pub(crate) fn verdict(verdict: Verdict) -> Vec<u8> {
    Asm::new().give(verdict).code()
}

/// Decides on the first `bytes` bytes of every indication of a stream.
pub(crate) fn enforce(bytes: i32, verdict: Verdict) -> Vec<u8> {
    Asm::new().store(BYTES_ENFORCED, bytes).give(verdict).code()
}

/// Asks for `more` bytes, whatever it is shown.
pub(crate) fn need(more: i32) -> Vec<u8> {
    Asm::new().store(BYTES_REQUIRED, more).give(Verdict::NeedMoreData).code()
}

/// The same after a look at the clock, or another verdict.
pub(crate) fn later(more: i32, verdict: Verdict) -> Vec<u8> {
    Asm::new().call(helper::KTIME_GET_NS).store(BYTES_REQUIRED, more).give(verdict).code()
}

/// Fails: wants to decide on more bytes of a stream than any window has.
pub(crate) fn fail() -> Vec<u8> {
    enforce(i32::MAX, Verdict::Permit)
}

/// Makes these edits of every indication or packet (offset, bytes removed, new bytes), then gives the verdict.
pub(crate) fn edits(edits: &[(i32, i32, &[u8])], verdict: Verdict) -> Vec<u8> {
    let mut asm = Asm::new();
    for (offset, remove, new) in edits {
        asm.replace(*offset, *remove, new);
    }
    asm.give(verdict).code()
}

/// Makes one edit; blocks when the helper answers `EOPNOTSUPP`.
pub(crate) fn edit_or_block(offset: i32, remove: i32, new: &[u8]) -> Vec<u8> {
    Asm::new()
        .replace(offset, remove, new)
        .jump(jmp::JEQ, R0, -(errno::EOPNOTSUPP as i32), "no")
        .give(Verdict::Permit)
        .label("no")
        .give(Verdict::Block)
        .code()
}

/// Sends a packet to another address and port, and with a type of service when that is not 0; blocks what can't be.
pub(crate) fn send_to(address: &[u8], port: i32, tos: i32) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.text(address).copy(R1, CTX).point(R2).set(R3, address.len() as i32).set(R4, port);
    asm.call(helper::SET_REMOTE).jump(jmp::JNE, R0, 0, "no");
    if tos != 0 {
        asm.copy(R1, CTX).set(R2, tos).call(helper::SET_TOS).jump(jmp::JNE, R0, 0, "no");
    }
    asm.give(Verdict::Permit).label("no").give(Verdict::Block).code()
}

/// Blocks an `x` at the start of what it is shown, and drops the connection behind bytes that it missed.
pub(crate) fn block_x_drop_missed() -> Vec<u8> {
    let mut asm = Asm::new();
    asm.copy(R1, CTX).set(R2, 0).point(R3).set(R4, 1).call(helper::LOAD_BYTES);
    asm.op(class::LDX | mode::MEM | size::B, R3, FP, TEXT, 0).jump(jmp::JNE, R3, i32::from(b'x'), "else");
    asm.store(BYTES_ENFORCED, 1).give(Verdict::Block);
    asm.label("else").load(size::DW, R4, CTX, MISSED_BYTES).jump(jmp::JEQ, R4, 2, "missed");
    asm.give(Verdict::Permit).label("missed").give(Verdict::DropConnection).code()
}

/// Clones, replaces in the clone, injects it with `inject` (or discards it) and gives the verdict.
pub(crate) fn clone(
    clone: u32,
    inject: u32,
    offset: i32,
    remove: i32,
    new: &[u8],
    verdict: Verdict,
) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.text(new).copy(R1, CTX).call(clone).jump(jmp::JEQ, R0, 0, "none").copy(R7, R0);
    asm.copy(R1, R7).set(R2, offset).set(R3, remove).point(R4).set(R5, new.len() as i32);
    asm.call(helper::CLONE_REPLACE);
    if inject == helper::CLONE_DISCARD {
        asm.copy(R1, R7).call(inject);
    } else {
        asm.copy(R1, CTX).copy(R2, R7).set(R3, 0).call(inject);
    }
    asm.give(verdict).label("none").give(Verdict::Continue).code()
}

/// Replaces every `ab` of a stream with `new`, wherever the stream is cut: asks for more when it ends in the middle.
pub(crate) fn replace_ab(new: &[u8]) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.text(b"ab").copy(R1, CTX).set(R2, 0).point(R3).set(R4, 2).call(helper::FIND);
    asm.jump(jmp::JSLT, R0, 0, "absent").copy(R9, R0);
    asm.text(new).copy(R1, CTX).copy(R2, R9).set(R3, 2).point(R4).set(R5, new.len() as i32);
    asm.call(helper::REPLACE).jump(jmp::JNE, R0, 0, "fail");
    asm.add(R9, 2).op(class::STX | mode::MEM | size::W, CTX, R9, BYTES_ENFORCED as i16, 0);
    asm.give(Verdict::Permit);

    asm.label("absent").load(size::DW, R7, CTX, DATA).load(size::DW, R8, CTX, DATA_END);
    asm.op(class::ALU64 | alu::SUB | source::X, R8, R7, 0, 0).jump(jmp::JEQ, R8, 0, "pass");
    asm.add(R8, -1).copy(R1, CTX).copy(R2, R8).point(R3).set(R4, 1).call(helper::LOAD_BYTES);
    asm.op(class::LDX | mode::MEM | size::B, R3, FP, TEXT, 0).jump(jmp::JNE, R3, i32::from(b'a'), "pass");
    asm.load(size::W, R4, CTX, STREAM_FLAGS);
    asm.jump(jmp::JSET, R4, context::STREAM_NO_MORE_DATA as i32, "pass");
    asm.jump(jmp::JEQ, R8, 0, "more");
    asm.op(class::STX | mode::MEM | size::W, CTX, R8, BYTES_ENFORCED as i16, 0);
    asm.label("pass").give(Verdict::Permit);
    asm.label("more").give(Verdict::NeedMoreData);
    asm.label("fail").give(Verdict::DropConnection).code()
}

/// Blocks what has this byte behind the first eight; permits everything else, with its ninth byte replaced if so wanted.
pub(crate) fn drop_if_found(byte: u8, edit: Option<&[u8]>) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.text(&[byte]).copy(R1, CTX).set(R2, 8).point(R3).set(R4, 1).call(helper::FIND);
    asm.jump(jmp::JSLT, R0, 0, "absent").give(Verdict::Block).label("absent");
    if let Some(new) = edit {
        asm.replace(8, 1, new);
    }
    asm.give(Verdict::Permit).code()
}

/// Permits what it sees first, then tries to edit: blocks when that is refused. Counts in its map 0, an array of one u64.
pub(crate) fn permit_then_edit() -> Vec<u8> {
    let mut asm = Asm::new();
    asm.op(class::LD | mode::IMM | size::DW, R7, pseudo::MAP_IDX_VALUE, 0, 0).op(0, 0, 0, 0, 0);
    asm.load(size::DW, R8, R7, 0).op(class::ST | mode::MEM | size::DW, R7, 0, 0, 1);
    asm.jump(jmp::JNE, R8, 0, "second").give(Verdict::Permit);
    asm.label("second").replace(8, 1, b"x");
    asm.jump(jmp::JEQ, R0, -(errno::EOPNOTSUPP as i32), "no").give(Verdict::Permit);
    asm.label("no").give(Verdict::Block).code()
}

/// Gives the verdict that its map 0, an array of one u64, has the number of. Looks at bytes that it keeps back again.
pub(crate) fn by_map() -> Vec<u8> {
    let mut asm = Asm::new();
    asm.op(class::LD | mode::IMM | size::DW, R7, pseudo::MAP_IDX_VALUE, 0, 0).op(0, 0, 0, 0, 0);
    asm.load(size::DW, R0, R7, 0);
    asm.jump(jmp::JLE, R0, Verdict::Pend as i32, "fits").set(R0, 0).label("fits").exit().code()
}

/// The same, and replaces the first byte shown when there is one.
pub(crate) fn by_map_with(new: &[u8]) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.replace(0, 1, new);
    asm.op(class::LD | mode::IMM | size::DW, R7, pseudo::MAP_IDX_VALUE, 0, 0).op(0, 0, 0, 0, 0);
    asm.load(size::DW, R0, R7, 0);
    asm.jump(jmp::JLE, R0, Verdict::Pend as i32, "fits").set(R0, 0).label("fits").exit().code()
}

/// As [`by_map`]; when that is PERMIT it sends data of its own in front of what it is shown.
pub(crate) fn by_map_sending(direction: i32, data: &[u8]) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.op(class::LD | mode::IMM | size::DW, R7, pseudo::MAP_IDX_VALUE, 0, 0).op(0, 0, 0, 0, 0);
    asm.load(size::DW, R7, R7, 0).jump(jmp::JEQ, R7, Verdict::Permit as i32, "send");
    asm.give(Verdict::Pend).label("send");
    asm.text(data).copy(R1, CTX).set(R2, direction).point(R3).set(R4, data.len() as i32).set(R5, 0);
    asm.call(helper::STREAM_INJECT_DATA).give(Verdict::Permit).code()
}

/// Sends data of its own in a direction when it is shown the bytes of the other one, or, with `same`, of that one; gives the
/// verdict. Blocks when the helper refuses.
pub(crate) fn inject_data(direction: i32, same: bool, data: &[u8], flags: i32, verdict: Verdict) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.load(size::W, R7, CTX, DIRECTION);
    asm.jump(if same { jmp::JNE } else { jmp::JEQ }, R7, direction, "pass");
    asm.text(data).copy(R1, CTX).set(R2, direction).point(R3).set(R4, data.len() as i32).set(R5, flags);
    asm.call(helper::STREAM_INJECT_DATA).jump(jmp::JNE, R0, 0, "no").give(verdict);
    asm.label("no").give(Verdict::Block).label("pass").give(Verdict::Permit).code()
}

/// Removes an `x` at the start of what it is shown, and `more` bytes that follow what is shown.
pub(crate) fn remove_ahead(more: i32) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.copy(R1, CTX).set(R2, 0).point(R3).set(R4, 1).call(helper::LOAD_BYTES);
    asm.op(class::LDX | mode::MEM | size::B, R3, FP, TEXT, 0).jump(jmp::JNE, R3, i32::from(b'x'), "pass");
    asm.replace(0, 1, b"").copy(R1, CTX).set(R2, more).call(helper::REMOVE_AHEAD);
    asm.label("pass").give(Verdict::Permit).code()
}

/// Puts the process's id in the place of the first byte shown.
pub(crate) fn tell_process() -> Vec<u8> {
    tell(size::DW, PROCESS_ID)
}

/// Puts the flags, as 8 bytes, in the place of the first byte shown.
pub(crate) fn tell_flags() -> Vec<u8> {
    tell(size::W, STREAM_FLAGS)
}

fn tell(width: u8, field: usize) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.load(width, R7, CTX, field).op(class::STX | mode::MEM | size::DW, FP, R7, TEXT, 0);
    asm.copy(R1, CTX).set(R2, 0).set(R3, 1).point(R4).set(R5, 8).call(helper::REPLACE);
    asm.give(Verdict::Permit).code()
}

/// Puts the first bytes of the program's path in the place of the first byte shown.
pub(crate) fn tell_application(bytes: i32) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.copy(R1, CTX).point(R2).set(R3, bytes).call(helper::STREAM_APPLICATION);
    asm.copy(R1, CTX).set(R2, 0).set(R3, 1).point(R4).set(R5, bytes).call(helper::REPLACE);
    asm.give(Verdict::Permit).code()
}

/// Takes a clone, and asks for another while it holds it and when it has injected it: drops the connection if it gets one.
pub(crate) fn one_clone_only() -> Vec<u8> {
    let mut asm = Asm::new();
    asm.copy(R1, CTX).call(helper::CLONE_STREAM_DATA).jump(jmp::JEQ, R0, 0, "none").copy(R7, R0);
    asm.copy(R1, CTX).call(helper::CLONE_STREAM_DATA).jump(jmp::JNE, R0, 0, "second");
    asm.copy(R1, CTX).copy(R2, R7).set(R3, 0).call(helper::STREAM_INJECT);
    asm.copy(R1, CTX).call(helper::CLONE_STREAM_DATA).jump(jmp::JNE, R0, 0, "third");
    asm.give(Verdict::Block);
    // Seen as a second injection: what is injected must be blocked.
    asm.label("third").copy(R2, R0).copy(R1, CTX).set(R3, 0).call(helper::STREAM_INJECT).give(Verdict::Block);
    asm.label("second").copy(R8, R0).copy(R1, R7).call(helper::CLONE_DISCARD);
    asm.copy(R1, R8).call(helper::CLONE_DISCARD);
    asm.label("none").give(Verdict::DropConnection).code()
}

/// Counts what it is shown in its map 0, a flow storage of one u64, made if `flags` say so, and puts the number, as 8 bytes, in
/// the place of the first byte shown; blocks when there is no value.
pub(crate) fn count_of_flow(offset: i32, flags: i32) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.copy(R1, CTX).op(class::LD | mode::IMM | size::DW, R2, pseudo::MAP_IDX, 0, 0).op(0, 0, 0, 0, 0);
    asm.set(R3, flags).call(helper::FLOW_STORAGE_GET).jump(jmp::JEQ, R0, 0, "none");
    asm.load(size::DW, R7, R0, 0).add(R7, 1).op(class::STX | mode::MEM | size::DW, R0, R7, 0, 0);
    asm.op(class::STX | mode::MEM | size::DW, FP, R7, TEXT, 0);
    asm.copy(R1, CTX).set(R2, offset).set(R3, 1).point(R4).set(R5, 8).call(helper::REPLACE);
    asm.give(Verdict::Permit).label("none").give(Verdict::Block).code()
}

/// Gives the verdict that a lookup of 0 in its map 0, an array of one u64, finds the number of; blocks when there is none.
pub(crate) fn look_up() -> Vec<u8> {
    let mut asm = Asm::new();
    asm.text(&[0; 4]).op(class::LD | mode::IMM | size::DW, R1, pseudo::MAP_IDX, 0, 0).op(0, 0, 0, 0, 0);
    asm.point(R2).call(helper::MAP_LOOKUP_ELEM).jump(jmp::JEQ, R0, 0, "none").load(size::DW, R0, R0, 0);
    asm.jump(jmp::JLE, R0, Verdict::Pend as i32, "fits").set(R0, 0).label("fits").exit();
    asm.label("none").give(Verdict::Block).code()
}

/// Bytes that [`search_and_load`] copies at a time.
pub(crate) const LOADED: usize = 256;

/// Looks `times` times for what is not there, copies [`LOADED`] bytes of what is shown `loads` times, then permits.
pub(crate) fn search_and_load(times: usize, loads: usize) -> Vec<u8> {
    let mut asm = Asm::new();
    asm.text(b"#");
    for _ in 0..times {
        asm.copy(R1, CTX).set(R2, 0).point(R3).set(R4, 1).call(helper::FIND);
    }
    for _ in 0..loads {
        let size = LOADED as i32;
        asm.copy(R1, CTX).set(R2, 0).copy(R3, FP).add(R3, -size).set(R4, size).call(helper::LOAD_BYTES);
    }
    asm.give(Verdict::Permit).code()
}

/// How one place of a stream is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Replace,
    Remove,
    InsertBefore,
    InsertBehind,
    /// Replaced in a clone, which is injected.
    Clone,
}

/// A pattern, and what is done wherever it stands.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    pub(crate) pattern: Vec<u8>,
    pub(crate) how: How,
    pub(crate) new: Vec<u8>,
}

impl Rewrite {
    /// What stands in the place of the pattern afterwards.
    pub(crate) fn result(&self) -> Vec<u8> {
        match self.how {
            How::Replace | How::Clone => self.new.clone(),
            How::Remove => Vec::new(),
            How::InsertBefore => [&*self.new, &*self.pattern].concat(),
            How::InsertBehind => [&*self.pattern, &*self.new].concat(),
        }
    }
}

/// Rewrites every place of a stream where one of at most three patterns stands, wherever the stream is cut: each run looks for
/// the first place and decides through its end, or holds back what may begin one. Asks for `more` bytes when it waits.
pub(crate) fn rewrite(rewrites: &[Rewrite], more: i32) -> Vec<u8> {
    const NOT_HERE: [&str; 3] = ["not 0", "not 1", "not 2"];
    const HERE: [&str; 3] = ["at 0", "at 1", "at 2"];
    let mut asm = Asm::new();
    asm.set(R9, i32::MAX).set(R8, 0);
    for (at, rewrite) in rewrites.iter().enumerate() {
        asm.text(&rewrite.pattern).copy(R1, CTX).set(R2, 0).point(R3).set(R4, rewrite.pattern.len() as i32);
        asm.call(helper::FIND).jump(jmp::JSLT, R0, 0, NOT_HERE[at]);
        asm.jumps.push((asm.code.len(), NOT_HERE[at]));
        asm.op(class::JMP | jmp::JGE | source::X, R0, R9, 0, 0);
        asm.copy(R9, R0).set(R8, at as i32).label(NOT_HERE[at]);
    }
    asm.jump(jmp::JEQ, R9, i32::MAX, "absent");
    for (at, _) in rewrites.iter().enumerate() {
        asm.jump(jmp::JEQ, R8, at as i32, HERE[at]);
    }
    asm.label("fail").give(Verdict::DropConnection);
    for (at, rewrite) in rewrites.iter().enumerate() {
        let (length, new) = (rewrite.pattern.len() as i32, rewrite.new.len() as i32);
        let mut verdict = Verdict::Permit;
        asm.label(HERE[at]).text(&rewrite.new).copy(R1, CTX).copy(R2, R9);
        match rewrite.how {
            How::Replace => asm.set(R3, length).point(R4).set(R5, new).call(helper::REPLACE),
            How::Remove => asm.set(R3, length).call(helper::REMOVE),
            How::InsertBefore => asm.point(R3).set(R4, new).call(helper::INSERT),
            How::InsertBehind => asm.add(R2, length).point(R3).set(R4, new).call(helper::INSERT),
            How::Clone => {
                verdict = Verdict::Block;
                asm.call(helper::CLONE_STREAM_DATA).jump(jmp::JEQ, R0, 0, "fail").copy(R7, R0);
                asm.copy(R1, R7).copy(R2, R9).set(R3, length).point(R4).set(R5, new);
                asm.call(helper::CLONE_REPLACE)
                    .copy(R1, CTX)
                    .copy(R2, R7)
                    .set(R3, 0)
                    .call(helper::STREAM_INJECT)
            }
        };
        if rewrite.how != How::Clone {
            asm.jump(jmp::JNE, R0, 0, "fail");
        }
        asm.add(R9, length);
        asm.op(class::STX | mode::MEM | size::W, CTX, R9, BYTES_ENFORCED as i16, 0).give(verdict);
    }
    asm.label("absent").load(size::DW, R7, CTX, DATA).load(size::DW, R8, CTX, DATA_END);
    asm.op(class::ALU64 | alu::SUB | source::X, R8, R7, 0, 0);
    let keep = rewrites.iter().map(|rewrite| rewrite.pattern.len()).max().unwrap_or(1) as i32 - 1;
    if keep > 0 {
        asm.load(size::W, R4, CTX, STREAM_FLAGS);
        asm.jump(jmp::JSET, R4, context::STREAM_NO_MORE_DATA as i32, "pass");
        asm.jump(jmp::JEQ, R8, 0, "pass").jump(jmp::JLE, R8, keep, "more").add(R8, -keep);
        asm.op(class::STX | mode::MEM | size::W, CTX, R8, BYTES_ENFORCED as i16, 0);
    }
    asm.label("pass").give(Verdict::Permit);
    asm.label("more").store(BYTES_REQUIRED, more).give(Verdict::NeedMoreData).code()
}
