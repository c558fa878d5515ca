//! Bytes to a program: statements that are mostly right, so that the fuzzer gets past a verifier's first checks, and
//! sometimes wrong in any way.

use tidegate_abi::helper::{Arg, HELPERS, Helper, Resource, Ret};
use tidegate_abi::insn::{alu, atomic, call, class, jmp, mode, pseudo, size, source};
use tidegate_abi::{Insn, MapDef, MapKind, ProgramType, Verdict};

/// The maps of every generated program: one of each kind, and a read-only array. Values are whole words, so that the memory
/// of a run can be exactly theirs.
pub const MAPS: &[MapDef] = &[
    MapDef { kind: MapKind::Hash, key_size: 8, value_size: 24, max_entries: 4, flags: 0 },
    MapDef { kind: MapKind::Array, key_size: 4, value_size: 16, max_entries: 4, flags: 0 },
    MapDef { kind: MapKind::PerCpuArray, key_size: 4, value_size: 8, max_entries: 2, flags: 0 },
    MapDef { kind: MapKind::LruHash, key_size: 16, value_size: 64, max_entries: 4, flags: 0 },
    MapDef { kind: MapKind::RingBuf, key_size: 0, value_size: 0, max_entries: 4096, flags: 0 },
    MapDef {
        kind: MapKind::Array,
        key_size: 4,
        value_size: 32,
        max_entries: 1,
        flags: tidegate_abi::map::RDONLY_PROG,
    },
    MapDef { kind: MapKind::FlowStorage, key_size: 8, value_size: 16, max_entries: 4, flags: 0 },
];

/// The fuzzer's bytes, taken from the front. Behind their end they are zeros.
#[derive(Clone, Copy)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// All of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether all bytes are taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// A number from 0 to `count` - 1.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// A number: small ones, powers of two and their neighbours, or any 32 bits.
    fn number(&mut self) -> i32 {
        match self.byte() {
            b @ 0..=0x7f => i32::from(b),
            b @ 0x80..=0xbf => (1_i32.wrapping_shl(u32::from(b))).wrapping_sub(i32::from(b >> 5 & 1)),
            b @ 0xc0..=0xdf => -i32::from(b & 0x1f),
            _ => i32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()]),
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Registers by their use in generated code.
const CONTEXT: u8 = 6;
const DATA: u8 = 7;
const DATA_END: u8 = 8;
const COUNTER: u8 = 9;
const FRAME: u8 = 10;

const SIZES: [u8; 4] = [size::B, size::H, size::W, size::DW];
const ALU: [u8; 13] = [
    alu::ADD,
    alu::SUB,
    alu::MUL,
    alu::DIV,
    alu::OR,
    alu::AND,
    alu::LSH,
    alu::RSH,
    alu::NEG,
    alu::MOD,
    alu::XOR,
    alu::MOV,
    alu::ARSH,
];
const JUMPS: [u8; 11] = [
    jmp::JEQ,
    jmp::JGT,
    jmp::JGE,
    jmp::JSET,
    jmp::JNE,
    jmp::JSGT,
    jmp::JSGE,
    jmp::JLT,
    jmp::JLE,
    jmp::JSLT,
    jmp::JSLE,
];

/// A program in the making: its slots, and the jumps whose targets are not there yet.
struct Code<'a> {
    input: Bytes<'a>,
    program_type: ProgramType,
    slots: Vec<Insn>,
    /// First slot of every statement of the function in the making.
    statements: Vec<usize>,
    /// Jumps of that function: slot, and number of the statement that it goes to.
    jumps: Vec<(usize, usize)>,
    /// Slots that call a function.
    calls: Vec<usize>,
}

/// The program that `input` describes, and what is left of `input` for the run.
pub fn program<'a>(mut input: Bytes<'a>) -> (ProgramType, Vec<u8>, Bytes<'a>) {
    let shape = input.byte();
    let program_type = ProgramType::ALL[usize::from(shape & 1)];
    if shape & 0x1f == 0x1f {
        // Sometimes the bytes themselves are the program.
        let code = input.rest();
        return (program_type, code[..code.len() & !7].to_vec(), Bytes::new(&[]));
    }
    let functions = 1 + usize::from(shape >> 5 & 3);
    let mut code = Code {
        input,
        program_type,
        slots: Vec::new(),
        statements: Vec::new(),
        jumps: Vec::new(),
        calls: Vec::new(),
    };
    let mut entries = Vec::new();
    for _ in 0..functions {
        entries.push(code.slots.len());
        code.function();
    }
    for at in std::mem::take(&mut code.calls) {
        // Mostly a function behind the caller: a circle of calls is refused.
        let (wish, caller) = (code.slots[at].imm as usize, entries.partition_point(|entry| *entry <= at));
        let behind = &entries[caller..];
        let target = if behind.is_empty() || wish > 0xf0 {
            entries[wish % entries.len()]
        } else {
            behind[wish % behind.len()]
        };
        code.slots[at].imm = target as i32 - at as i32 - 1;
    }
    (program_type, code.slots.iter().flat_map(|slot| slot.to_bytes()).collect(), code.input)
}

impl Code<'_> {
    fn emit(&mut self, opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) {
        self.slots.push(Insn::new(opcode, dst, src, offset, imm));
    }

    fn mov_reg(&mut self, dst: u8, src: u8) {
        self.emit(class::ALU64 | source::X | alu::MOV, dst, src, 0, 0);
    }

    fn mov(&mut self, dst: u8, imm: i32) {
        self.emit(class::ALU64 | source::K | alu::MOV, dst, 0, 0, imm);
    }

    fn wide(&mut self, dst: u8, kind: u8, low: i32, high: i32) {
        self.emit(class::LD | mode::IMM | size::DW, dst, kind, 0, low);
        self.emit(0, 0, 0, 0, high);
    }

    fn exit(&mut self) {
        self.emit(class::JMP | jmp::EXIT, 0, 0, 0, 0);
    }

    /// A register that mostly holds a number.
    fn register(&mut self) -> u8 {
        self.input.pick(&[0, COUNTER])
    }

    /// Any register, the frame pointer too.
    fn operand(&mut self) -> u8 {
        match self.input.byte() {
            b @ 0..=0x03 => b * 3,
            b @ 0x04..=0x17 => [CONTEXT, DATA, DATA_END, FRAME][usize::from(b & 3)],
            _ => self.register(),
        }
    }

    fn size(&mut self) -> u8 {
        self.input.pick(&SIZES)
    }

    /// An aligned place in the frame, or now and then one that is not.
    fn place(&mut self) -> i16 {
        match self.input.byte() {
            b @ 0..=0xef => -8 * (1 + i16::from(b) % 64),
            b => -i16::from(b) * 3 + 720,
        }
    }

    fn function(&mut self) {
        self.statements.clear();
        self.jumps.clear();
        self.mov_reg(CONTEXT, 1);
        self.emit(class::LDX | mode::MEM | size::DW, DATA, CONTEXT, 0, 0);
        self.emit(class::LDX | mode::MEM | size::DW, DATA_END, CONTEXT, 8, 0);
        for register in [0, COUNTER] {
            self.mov(register, 1);
        }
        let count = 1 + self.input.below(24);
        for _ in 0..count {
            if self.input.is_empty() {
                break;
            }
            self.statements.push(self.slots.len());
            self.statement();
        }
        self.statements.push(self.slots.len());
        let verdict = self.verdict();
        self.mov(0, verdict);
        self.exit();
        for (at, statement) in std::mem::take(&mut self.jumps) {
            let target = self.statements[statement.min(self.statements.len() - 1)];
            self.slots[at].offset = (target as i32 - at as i32 - 1) as i16;
        }
    }

    fn verdict(&mut self) -> i32 {
        let verdict = self.input.pick(&Verdict::ALL);
        if verdict.program_types().contains(self.program_type) { verdict as i32 } else { 1 }
    }

    /// Makes the jump that was just emitted go over the next few statements.
    fn forward(&mut self) {
        let over = 1 + self.input.below(6);
        self.jumps.push((self.slots.len() - 1, self.statements.len() - 1 + over));
    }

    fn statement(&mut self) {
        match self.input.byte() % 64 {
            0 | 19..=23 | 50..=53 => self.arithmetic(),
            1 => {
                let (dst, number) = (self.register(), self.input.number());
                self.mov(dst, number);
            }
            2 => {
                let (dst, src) = (self.register(), self.operand());
                self.mov_reg(dst, src);
            }
            3 => {
                let (width, src, at) = (self.size(), self.register(), self.place());
                self.emit(class::STX | mode::MEM | width, FRAME, src, at, 0);
            }
            4 => {
                let (width, number, at) = (self.size(), self.input.number(), self.place());
                self.emit(class::ST | mode::MEM | width, FRAME, 0, at, number);
            }
            5 => {
                let (width, dst, at) = (self.size(), self.register(), self.place());
                let extend = self.input.pick(&[mode::MEM, mode::MEM, mode::MEMSX]);
                self.emit(class::LDX | extend | width, dst, FRAME, at, 0);
            }
            6 | 7 | 24..=27 => self.context_field(),
            8 | 9 | 28..=33 => self.window_load(),
            10 | 34..=39 => self.jump(),
            11..=13 | 40..=49 => {
                let helper = self.helper();
                self.helper_call(helper);
            }
            14 => {
                let base = self.operand();
                self.through_pointer(base);
            }
            15 | 54..=56 => self.bounded_loop(),
            16 | 57 => {
                let function = self.input.byte();
                self.mov_reg(1, CONTEXT);
                self.calls.push(self.slots.len());
                self.emit(class::JMP | jmp::CALL, 0, call::LOCAL, 0, i32::from(function));
            }
            17 | 58..=61 => self.wide_load(),
            18 | 62 => {
                let verdict = self.verdict();
                self.mov(0, verdict);
                self.exit();
            }
            _ if self.input.byte() < 0xe0 => self.arithmetic(),
            _ => {
                // Anything.
                let mut slot = [0; 8];
                slot.fill_with(|| self.input.byte());
                self.slots.push(Insn::from_bytes(slot));
            }
        }
    }

    fn arithmetic(&mut self) {
        let (operation, dst) = (self.input.pick(&ALU), self.register());
        let width = self.input.pick(&[class::ALU64, class::ALU]);
        match self.input.below(5) {
            0 | 1 => {
                let number = self.input.number();
                let imm = if operation == alu::NEG { 0 } else { number };
                self.emit(width | source::K | operation, dst, 0, 0, imm);
            }
            2 if operation != alu::NEG => {
                let src = self.register();
                self.emit(width | source::X | operation, dst, src, 0, 0);
            }
            3 => {
                let (src, bits) = (self.register(), self.input.pick(&[8, 16]));
                self.emit(width | source::X | alu::MOV, dst, src, bits, 0);
            }
            4 => {
                let order = self.input.pick(&[source::K, source::X]);
                let order = if width == class::ALU64 { source::K } else { order };
                let bits = self.input.pick(&[16, 32, 64]);
                self.emit(width | order | alu::END, dst, 0, 0, bits);
            }
            _ => {
                let number = self.input.number();
                let signed = i16::from(self.input.byte() & 1);
                let operation = self.input.pick(&[alu::DIV, alu::MOD]);
                self.emit(width | source::K | operation, dst, 0, signed, number);
            }
        }
    }

    fn context_field(&mut self) {
        let field = self.input.pick(self.program_type.fields());
        let width = match field.size {
            1 => size::B,
            2 => size::H,
            4 => size::W,
            _ => size::DW,
        };
        let offset = field.offset as i16;
        if field.writable && self.input.byte() & 1 == 1 {
            let number = self.input.number();
            self.emit(class::ST | mode::MEM | width, CONTEXT, 0, offset, number);
        } else {
            let dst = self.register();
            self.emit(class::LDX | mode::MEM | width, dst, CONTEXT, offset, 0);
        }
    }

    /// Copies a register to r3 and bounds it: by its bits, by a remainder, or by comparisons.
    fn bounded(&mut self) {
        let (src, most) = (self.register(), i32::from(self.input.byte()));
        self.mov_reg(3, src);
        let wide = self.input.pick(&[class::ALU64, class::ALU64, class::ALU]);
        match self.input.below(6) {
            0 | 1 => self.emit(wide | source::K | alu::AND, 3, 0, 0, most),
            2 => {
                let bits = if wide == class::ALU { 25 } else { 57 };
                self.emit(wide | source::K | alu::RSH, 3, 0, 0, bits);
            }
            3 => self.emit(wide | source::K | alu::MOD, 3, 0, 0, most.max(1)),
            4 => {
                let unsigned = self.input.pick(&[jmp::JGT, jmp::JGE]);
                let width = self.input.pick(&[class::JMP, class::JMP32]);
                self.emit(width | source::K | unsigned, 3, 0, 0, most);
                self.forward();
            }
            _ => {
                let width = self.input.pick(&[class::JMP, class::JMP32]);
                self.emit(width | source::K | jmp::JSGT, 3, 0, 0, most);
                self.forward();
                self.emit(width | source::K | jmp::JSLT, 3, 0, 0, 0);
                self.forward();
            }
        }
        if self.input.byte() & 7 == 0 {
            let (operation, number) = (self.input.pick(&ALU), self.input.number());
            let number = if operation == alu::NEG { 0 } else { number };
            self.emit(wide | source::K | operation, 3, 0, 0, number);
        }
    }

    /// A load from the window behind a comparison with its end, at a fixed or a computed offset.
    fn window_load(&mut self) {
        let (width, dst, shown) = (self.size(), self.register(), 1 + self.input.below(64) as i32);
        let within = self.input.below(64) as i16;
        self.mov_reg(2, DATA);
        if self.input.byte() & 1 == 1 {
            self.bounded();
            self.emit(class::ALU64 | source::X | alu::ADD, 2, 3, 0, 0);
        }
        self.mov_reg(4, 2);
        self.emit(class::ALU64 | source::K | alu::ADD, 4, 0, 0, shown);
        let (first, second, operation) = self.input.pick(&[
            (4, DATA_END, jmp::JGT),
            (4, DATA_END, jmp::JGE),
            (DATA_END, 4, jmp::JLT),
            (DATA_END, 4, jmp::JLE),
        ]);
        self.emit(class::JMP | source::X | operation, first, second, 0, 0);
        self.forward();
        if self.input.byte() & 3 == 0 {
            // The pointer goes by way of the stack.
            let at = self.place();
            self.emit(class::STX | mode::MEM | size::DW, FRAME, 2, at, 0);
            self.emit(class::LDX | mode::MEM | size::DW, 5, FRAME, at, 0);
            self.emit(class::LDX | mode::MEM | width, dst, 5, within, 0);
        } else {
            self.emit(class::LDX | mode::MEM | width, dst, 2, within, 0);
        }
    }

    fn jump(&mut self) {
        let operation = self.input.pick(&JUMPS);
        let width = self.input.pick(&[class::JMP, class::JMP, class::JMP32]);
        let (dst, by_register) = (self.register(), self.input.byte() & 1 == 1);
        if by_register {
            let src = self.operand();
            self.emit(width | source::X | operation, dst, src, 0, 0);
        } else {
            let number = self.input.number();
            self.emit(width | source::K | operation, dst, 0, 0, number);
        }
        self.forward();
    }

    /// Any helper, but mostly one that can be called here: of this program type, with nothing to give back.
    fn helper(&mut self) -> &'static Helper {
        let any = &HELPERS[self.input.below(HELPERS.len())];
        if self.input.byte() & 0x1f == 0 {
            return any;
        }
        let callable: Vec<_> = HELPERS
            .iter()
            .filter(|helper| {
                helper.program_types.contains(self.program_type)
                    && !helper.params.iter().any(|p| matches!(p.arg, Arg::Consume(_) | Arg::Borrow(_)))
            })
            .collect();
        self.input.pick(&callable)
    }

    /// A call with arguments of the right kind; what it hands out is checked for null and mostly used and given back.
    fn helper_call(&mut self, helper: &Helper) {
        let mut size_left = 8;
        for (index, param) in helper.params.iter().enumerate() {
            let register = index as u8 + 1;
            match param.arg {
                Arg::Context => self.mov_reg(register, CONTEXT),
                Arg::Scalar => {
                    if self.input.byte() & 1 == 1 {
                        let src = self.input.pick(&[0, 9, 10]);
                        self.mov_reg(register, src);
                    } else {
                        let number = self.input.number();
                        self.mov(register, number);
                    }
                }
                Arg::Flags(mask) => {
                    let flags = self.input.byte();
                    self.mov(register, i32::from(flags) & mask as i32);
                }
                Arg::Map(kinds) => {
                    let fitting: Vec<_> =
                        (0..MAPS.len()).filter(|map| kinds.contains(MAPS[*map].kind)).collect();
                    let map = self.input.pick(&fitting);
                    self.wide(register, pseudo::MAP_IDX, map as i32, 0);
                }
                Arg::MapKey | Arg::MapValue | Arg::Readable | Arg::Writable => {
                    let at = self.place();
                    size_left = i32::from(-at).max(1);
                    self.mov_reg(register, FRAME);
                    self.emit(class::ALU64 | source::K | alu::ADD, register, 0, 0, i32::from(at));
                }
                Arg::Size { min, max } => {
                    let wanted = i32::from(self.input.byte());
                    let most = size_left.min(max as i32).max(min as i32);
                    self.mov(register, min as i32 + wanted % (most - min as i32 + 1));
                }
                Arg::ConstSize => {
                    let wanted = self.input.byte();
                    self.mov(register, 8 + i32::from(wanted & 0x38));
                }
                Arg::Borrow(_) | Arg::Consume(_) => {
                    let src = self.input.pick(&[0, COUNTER]);
                    self.mov_reg(register, src);
                }
            }
        }
        self.emit(class::JMP | jmp::CALL, 0, call::HELPER, 0, helper.number as i32);
        if helper.ret == Ret::Void {
            self.mov(0, 0);
        }
        if self.input.byte() & 7 == 7 {
            return;
        }
        if helper.ret == Ret::MapValueOrNull {
            self.emit(class::JMP | source::K | jmp::JEQ, 0, 0, 0, 0);
            let null = self.slots.len() - 1;
            if self.input.byte() & 1 == 1 {
                let most = self.input.pick(&[3, 7, 8, 15, 16]);
                self.mov_reg(3, COUNTER);
                self.emit(class::ALU64 | source::K | alu::AND, 3, 0, 0, most);
                self.emit(class::ALU64 | source::X | alu::ADD, 0, 3, 0, 0);
            }
            for _ in 0..1 + self.input.below(3) {
                self.through_pointer(0);
            }
            self.slots[null].offset = (self.slots.len() - null - 1) as i16;
            self.mov(0, 2);
        }
        let Some(resource) = helper.acquires() else { return };
        let release: Vec<_> = HELPERS
            .iter()
            .filter(|helper| {
                helper.program_types.contains(self.program_type)
                    && helper.params.iter().any(|param| param.arg == Arg::Consume(resource))
            })
            .collect();
        self.emit(class::JMP | source::K | jmp::JEQ, 0, 0, 0, 0);
        let null = self.slots.len() - 1;
        self.mov_reg(COUNTER, 0);
        if resource == Resource::Record {
            let (width, at) = (self.size(), i16::from(self.input.byte() & 0x1f));
            self.emit(class::ST | mode::MEM | width, 0, 0, at, 7);
        }
        let release = self.input.pick(&release);
        for (index, param) in release.params.iter().enumerate() {
            let register = index as u8 + 1;
            match param.arg {
                Arg::Consume(_) => self.mov_reg(register, COUNTER),
                Arg::Context => self.mov_reg(register, CONTEXT),
                _ => self.mov(register, 0),
            }
        }
        self.emit(class::JMP | jmp::CALL, 0, call::HELPER, 0, release.number as i32);
        self.slots[null].offset = (self.slots.len() - null - 1) as i16;
        self.mov(0, 3);
        self.mov(COUNTER, 4);
    }

    /// A load, store or atomic through a register that may hold a pointer.
    fn through_pointer(&mut self, base: u8) {
        let (width, other, at) = (self.size(), self.register(), i16::from(self.input.byte() & 0x1f));
        match self.input.below(4) {
            0 => self.emit(class::LDX | mode::MEM | width, other, base, at, 0),
            1 => self.emit(class::STX | mode::MEM | width, base, other, at, 0),
            2 => self.emit(class::ST | mode::MEM | width, base, 0, at, 5),
            _ => {
                let at = if base == FRAME { self.place() } else { at & !7 };
                let width = self.input.pick(&[size::W, size::DW]);
                let operation = self.input.pick(&[
                    i32::from(alu::ADD),
                    i32::from(alu::OR),
                    i32::from(alu::AND),
                    i32::from(alu::XOR) | atomic::FETCH,
                    i32::from(alu::ADD) | atomic::FETCH,
                    atomic::XCHG,
                    atomic::CMPXCHG,
                ]);
                self.emit(class::STX | mode::ATOMIC | width, base, other, at, operation);
            }
        }
    }

    /// A loop of a fixed number of turns over a statement or two.
    fn bounded_loop(&mut self) {
        let turns = 1 + i32::from(self.input.byte());
        self.mov(COUNTER, turns);
        let top = self.slots.len();
        if !self.input.is_empty() && self.slots.len() < 400 {
            self.arithmetic();
        }
        self.emit(class::ALU64 | source::K | alu::SUB, COUNTER, 0, 0, 1);
        let back = top as i32 - self.slots.len() as i32 - 1;
        self.emit(class::JMP | source::K | jmp::JNE, COUNTER, 0, back as i16, 0);
    }

    fn wide_load(&mut self) {
        let dst = self.register();
        match self.input.below(4) {
            0 => {
                let (low, high) = (self.input.number(), self.input.number());
                self.wide(dst, pseudo::NUMBER, low, high);
            }
            1 => {
                let map = self.input.below(MAPS.len());
                self.wide(dst, pseudo::MAP_IDX, map as i32, 0);
            }
            2 => {
                let (map, within) = (self.input.pick(&[1, 5]), self.input.byte() & 0x0f);
                self.wide(dst, pseudo::MAP_IDX_VALUE, map, i32::from(within));
            }
            _ => {
                let function = self.input.byte();
                self.calls.push(self.slots.len());
                self.wide(dst, pseudo::FUNC, i32::from(function), 0);
                self.mov_reg(1, CONTEXT);
                self.emit(class::JMP | source::X | jmp::CALL, dst, 0, 0, 0);
            }
        }
    }
}
