//! A second machine, written from RFC 9669 and the table of helpers alone: one instruction at a time, its registers in
//! sight. Addresses are made up, each kind of memory in a space of its own, so that an address tells what it points into
//! and nothing that went too far lands in other memory.

use tidegate_abi::helper::{self, Arg, Resource, Ret};
use tidegate_abi::insn::{alu, atomic, call, class, jmp, mode, pseudo, size, source};
use tidegate_abi::limits::{MAX_CALL_DEPTH, STACK_FRAME};
use tidegate_abi::{FieldKind, Insn, MapDef, ProgramType, Verdict};

/// Numbers by chance, mostly near the places where widths and signs change.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// Any 64 bits.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 ^ self.0 >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ self.0 >> 32
    }

    /// From 0 to `count` - 1.
    pub fn below(&mut self, count: usize) -> usize {
        (self.any() >> 16) as usize % count
    }

    /// Whether something that happens once in `count` times does.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// A number that programs are wrong about.
    pub fn number(&mut self) -> u64 {
        let near = (self.below(9) as u64).wrapping_sub(4);
        match self.below(8) {
            0 | 1 => self.below(80) as u64,
            2 => near,
            3 => (1_u64 << self.below(64)).wrapping_add(near),
            4 => i64::from(self.any() as i32) as u64,
            5 => self.any() & 0xffff_ffff,
            6 => u64::MAX << self.below(64),
            _ => self.any(),
        }
    }
}

// Spaces: the upper half of an address.
const CONTEXT: u64 = 0x1000_0000;
const WINDOW: u64 = 0x2000_0000;
const STACK: u64 = 0x3000_0000;
const VALUES: u64 = 0x4000_0000;
const RECORDS: u64 = 0x5000_0000;
const MAPS: u64 = 0x6000_0000;
const CLONES: u64 = 0x6100_0000;
const CODE: u64 = 0x6200_0000;

/// Values of one map that a lookup may give.
pub const ENTRIES: usize = 2;

const fn base(space: u64) -> u64 {
    space << 32 | 0x10_0000
}

/// Address of the context.
pub const fn context() -> u64 {
    base(CONTEXT)
}

/// Address of the first byte shown.
pub const fn window() -> u64 {
    base(WINDOW)
}

/// The frame pointer of a frame.
pub const fn frame(depth: usize) -> u64 {
    base(STACK + depth as u64) + STACK_FRAME as u64
}

/// Address of a value of a map.
pub const fn value(map: usize, entry: usize) -> u64 {
    base(VALUES + (map * ENTRIES + entry) as u64)
}

/// Address of the record that was reserved after `number` others.
pub const fn record(number: usize) -> u64 {
    base(RECORDS + number as u64)
}

/// What a map is as an argument.
pub const fn map(index: usize) -> u64 {
    base(MAPS + index as u64)
}

/// What a function is as a number.
pub const fn code(slot: usize) -> u64 {
    base(CODE) + slot as u64
}

/// What a call saves.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where it returns to.
    pub back: usize,
    /// r6 to r9.
    pub saved: [u64; 4],
}

/// A run that broke a rule, and how.
pub type Broken = String;

/// A run of a program.
pub struct Machine<'p> {
    program_type: ProgramType,
    insns: &'p [Insn],
    maps: &'p [MapDef],
    /// r0 to r10.
    pub registers: [u64; 11],
    /// The instruction that comes next.
    pub slot: usize,
    /// Calls that it is in.
    pub frames: Vec<Frame>,
    /// What was handed out and not given back.
    pub held: Vec<(u64, Resource)>,
    /// Slots that were executed.
    pub cost: u64,
    context: Vec<u8>,
    /// What is shown.
    pub window: &'p [u8],
    stack: Box<[[u8; STACK_FRAME]; MAX_CALL_DEPTH]>,
    values: Vec<Vec<u8>>,
    /// Ring buffer records; those that were given back are empty.
    pub records: Vec<Vec<u8>>,
    clones: u64,
    chance: Chance,
}

impl<'p> Machine<'p> {
    /// A run about to start. Values of maps start with `initial`, where there is something.
    pub fn new(
        program_type: ProgramType,
        insns: &'p [Insn],
        maps: &'p [MapDef],
        initial: &[Option<Vec<u8>>],
        window: &'p [u8],
        mut chance: Chance,
    ) -> Self {
        let mut registers = [0; 11];
        registers.fill_with(|| chance.any());
        registers[1] = context();
        registers[10] = frame(0);
        let mut values = Vec::new();
        for (index, def) in maps.iter().enumerate() {
            for _ in 0..ENTRIES {
                let mut value = match initial.get(index).and_then(Option::as_ref) {
                    Some(bytes) => bytes.clone(),
                    None if chance.once_in(3) => vec![0; def.value_size as usize],
                    None => random_bytes(def.value_size as usize, &mut chance),
                };
                value.resize(def.value_size as usize, 0);
                values.push(value);
            }
        }
        let mut this = Self {
            program_type,
            insns,
            maps,
            registers,
            slot: 0,
            frames: Vec::new(),
            held: Vec::new(),
            cost: 0,
            context: Vec::new(),
            window,
            stack: Box::new([[0; STACK_FRAME]; MAX_CALL_DEPTH]),
            values,
            records: Vec::new(),
            clones: 0,
            chance,
        };
        this.fill_context();
        this
    }

    fn fill_context(&mut self) {
        self.context = vec![0; self.program_type.context_size()];
        for field in self.program_type.fields() {
            let likely = match field.name {
                "direction" | "opener" => Some(self.chance.below(2) as u64),
                "family" => Some([4, 6][self.chance.below(2)]),
                "protocol" => Some([1, 6, 17, 58][self.chance.below(4)]),
                "local_port" | "remote_port" => Some([53, 80, 443, 23][self.chance.below(4)]),
                "missed_bytes" | "reserved" => Some(0),
                "header_size" => Some(8),
                _ => None,
            };
            let number = match field.kind {
                FieldKind::Data => window(),
                FieldKind::DataEnd => window() + self.window.len() as u64,
                _ => match likely {
                    Some(number) if !self.chance.once_in(8) => number,
                    _ => self.chance.number(),
                },
            };
            for (byte, at) in self.context[field.offset..field.offset + field.size].iter_mut().zip(0..) {
                *byte = (number >> (at % 8 * 8)) as u8;
            }
        }
    }

    /// Bytes of a frame, by their distance from its frame pointer.
    pub fn stack_bytes(&self, depth: usize, offset: i16, size: u16) -> &[u8] {
        let start = (STACK_FRAME as i16 + offset) as usize;
        &self.stack[depth][start..start + usize::from(size)]
    }

    /// The memory that `address` lies in, and where.
    fn memory(&self, address: u64) -> Option<(&[u8], usize)> {
        let (space, offset) = (address >> 32, (address as u32).wrapping_sub(0x10_0000) as usize);
        let memory = match space & 0xff00_0000 {
            CONTEXT if space == CONTEXT => self.context.as_slice(),
            WINDOW if space == WINDOW => self.window,
            STACK => self
                .stack
                .get((space - STACK) as usize)
                .filter(|_| space - STACK <= self.frames.len() as u64)?,
            VALUES => self.values.get((space - VALUES) as usize)?,
            RECORDS => self.records.get((space - RECORDS) as usize)?,
            _ => return None,
        };
        Some((memory, offset))
    }

    fn read(&self, address: u64, size: usize) -> Result<&[u8], Broken> {
        let found =
            self.memory(address).and_then(|(memory, offset)| memory.get(offset..offset.checked_add(size)?));
        found.ok_or_else(|| format!("{size} bytes at {address:#x} are read, and are not the program's"))
    }

    fn write(&mut self, address: u64, size: usize) -> Result<&mut [u8], Broken> {
        let (space, offset) = (address >> 32, (address as u32).wrapping_sub(0x10_0000) as usize);
        let memory = match space & 0xff00_0000 {
            CONTEXT if space == CONTEXT => {
                let fields = self.program_type.fields();
                let fits = |at: (usize, usize)| fields.iter().any(|f| f.writable && (f.offset, f.size) == at);
                fits((offset, size)).then_some(self.context.as_mut_slice())
            }
            STACK if space - STACK <= self.frames.len() as u64 => {
                self.stack.get_mut((space - STACK) as usize).map(<[u8; STACK_FRAME]>::as_mut_slice)
            }
            VALUES => {
                let index = (space - VALUES) as usize;
                let writable = self.maps.get(index / ENTRIES).is_some_and(|map| !map.read_only());
                self.values.get_mut(index).filter(|_| writable).map(Vec::as_mut_slice)
            }
            RECORDS => self.records.get_mut((space - RECORDS) as usize).map(Vec::as_mut_slice),
            _ => None,
        };
        let found = memory.and_then(|memory| memory.get_mut(offset..offset.checked_add(size)?));
        found.ok_or_else(|| {
            format!("{size} bytes at {address:#x} are written, and are not the program's to write")
        })
    }

    fn load(&self, address: u64, size: usize) -> Result<u64, Broken> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(self.read(address, size)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&mut self, address: u64, size: usize, number: u64) -> Result<(), Broken> {
        self.write(address, size)?.copy_from_slice(&number.to_le_bytes()[..size]);
        Ok(())
    }

    /// Carries out one instruction. Returns r0 when the run is over.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn step(&mut self) -> Result<Option<u64>, Broken> {
        let insn = *self.insns.get(self.slot).ok_or("control left the program")?;
        let (dst, src) = (usize::from(insn.dst()), usize::from(insn.src()));
        let imm = i64::from(insn.imm) as u64;
        let at = |base: u64| base.wrapping_add(i64::from(insn.offset) as u64);
        let width = match insn.opcode & 0x18 {
            size::B => 1,
            size::H => 2,
            size::W => 4,
            _ => 8,
        };
        self.cost += 1;
        let mut next = self.slot + 1;
        match insn.class() {
            class::ALU | class::ALU64 => {
                let b = if insn.opcode & source::X != 0 { self.registers[src] } else { imm };
                self.registers[dst] = arithmetic(insn, self.registers[dst], b);
            }
            class::LD => {
                let second = self.insns.get(next).ok_or("half a load")?.imm as u32;
                self.cost += 1;
                next += 1;
                self.registers[dst] = match insn.src() {
                    pseudo::FUNC => code((self.slot as i64 + 1 + i64::from(insn.imm)) as usize),
                    pseudo::MAP_IDX => map(insn.imm as usize),
                    pseudo::MAP_IDX_VALUE => value(insn.imm as usize, 0) + u64::from(second),
                    _ => u64::from(second) << 32 | u64::from(insn.imm as u32),
                };
            }
            class::LDX => {
                let number = self.load(at(self.registers[src]), width)?;
                let shift = 64 - 8 * width as u32;
                let signed = insn.opcode & 0xe0 == mode::MEMSX;
                self.registers[dst] =
                    if signed { ((number << shift) as i64 >> shift) as u64 } else { number };
            }
            class::ST => self.store(at(self.registers[dst]), width, imm)?,
            class::STX if insn.opcode & 0xe0 == mode::ATOMIC => {
                self.atomic(insn, at(self.registers[dst]), width)?;
            }
            class::STX => self.store(at(self.registers[dst]), width, self.registers[src])?,
            jumps => match insn.opcode & 0xf0 {
                jmp::JA if jumps == class::JMP32 => next = (next as i64 + i64::from(insn.imm)) as usize,
                jmp::JA => next = (next as i64 + i64::from(insn.offset)) as usize,
                jmp::EXIT => match self.frames.pop() {
                    None => return self.exit().map(Some),
                    Some(frame) => {
                        self.registers[6..10].copy_from_slice(&frame.saved);
                        self.registers[10] = self::frame(self.frames.len());
                        next = frame.back;
                    }
                },
                jmp::CALL => {
                    let target = if insn.opcode & source::X != 0 {
                        Some(self.registers[dst].wrapping_sub(code(0)) as usize)
                    } else if insn.src() == call::LOCAL {
                        Some((next as i64 + i64::from(insn.imm)) as usize)
                    } else {
                        self.helper(insn.imm as u32)?;
                        None
                    };
                    if let Some(target) = target {
                        let saved = [6, 7, 8, 9].map(|register| self.registers[register]);
                        self.frames.push(Frame { back: next, saved });
                        let depth = self.frames.len();
                        *self.stack.get_mut(depth).ok_or("calls are nested too deeply")? = [0; STACK_FRAME];
                        for register in [0, 6, 7, 8, 9] {
                            self.registers[register] = self.chance.any();
                        }
                        self.registers[10] = frame(depth);
                        next = target;
                    }
                }
                operation => {
                    let b = if insn.opcode & source::X != 0 { self.registers[src] } else { imm };
                    if holds(operation, jumps == class::JMP32, self.registers[dst], b) {
                        next = (next as i64 + i64::from(insn.offset)) as usize;
                    }
                }
            },
        }
        self.slot = next;
        Ok(None)
    }

    fn exit(&self) -> Result<u64, Broken> {
        if let Some(held) = self.held.first() {
            return Err(format!("{held:x?} is still held at the end"));
        }
        let r0 = self.registers[0];
        Verdict::from_r0(self.program_type, r0).ok_or_else(|| format!("{r0:#x} is no verdict"))?;
        Ok(r0)
    }

    fn atomic(&mut self, insn: Insn, address: u64, width: usize) -> Result<(), Broken> {
        let src = usize::from(insn.src());
        if !address.is_multiple_of(width as u64) {
            return Err(format!("an atomic at {address:#x}"));
        }
        let old = self.load(address, width)?;
        let narrow = |number: u64| if width == 4 { number & 0xffff_ffff } else { number };
        let operand = narrow(self.registers[src]);
        let new = match insn.imm {
            atomic::XCHG => operand,
            atomic::CMPXCHG if old == narrow(self.registers[0]) => operand,
            atomic::CMPXCHG => old,
            operation => match (operation & !atomic::FETCH) as u8 {
                alu::ADD => old.wrapping_add(operand),
                alu::OR => old | operand,
                alu::AND => old & operand,
                _ => old ^ operand,
            },
        };
        self.store(address, width, new)?;
        if insn.imm == atomic::CMPXCHG {
            self.registers[0] = old;
        } else if insn.imm & atomic::FETCH != 0 {
            self.registers[src] = old;
        }
        Ok(())
    }

    /// Carries out a helper as its row says: what it returns is by chance, but for those that only read what is shown.
    fn helper(&mut self, number: u32) -> Result<(), Broken> {
        let row = helper::by_number(number).ok_or("no such helper")?;
        if !row.program_types.contains(self.program_type) {
            return Err(format!("{} is not for this program type", row.name));
        }
        let args = [1, 2, 3, 4, 5].map(|register| self.registers[register]);
        let (mut map, mut constant) = (None, 0);
        for (index, param) in row.params.iter().enumerate() {
            let (arg, next) = (args[index], args.get(index + 1).copied().unwrap_or(0) as usize);
            let wrong = || format!("{}: `{}` is {arg:#x}", row.name, param.name);
            match param.arg {
                Arg::Context if arg != context() => return Err(wrong()),
                Arg::Context | Arg::Scalar => {}
                Arg::Flags(mask) if arg & !mask != 0 => return Err(wrong()),
                Arg::Flags(_) => {}
                Arg::Map(kinds) => {
                    let index =
                        (0..self.maps.len()).find(|index| self::map(*index) == arg).ok_or_else(wrong)?;
                    if !kinds.contains(self.maps[index].kind) {
                        return Err(wrong());
                    }
                    map = Some(index);
                }
                Arg::MapKey => drop(self.read(arg, self.maps[map.ok_or_else(wrong)?].key_size as usize)?),
                Arg::MapValue => drop(self.read(arg, self.maps[map.ok_or_else(wrong)?].value_size as usize)?),
                Arg::Readable if next > 0 => drop(self.read(arg, next)?),
                Arg::Writable if next > 0 => {
                    let byte = self.chance.any() as u8;
                    self.write(arg, next)?.fill(byte);
                }
                Arg::Readable | Arg::Writable => {}
                Arg::Size { min, max } if arg < min.into() || arg > max.into() => return Err(wrong()),
                Arg::Size { .. } => {}
                Arg::ConstSize => constant = arg as usize,
                Arg::Borrow(resource) | Arg::Consume(resource) => {
                    let held =
                        self.held.iter().position(|held| *held == (arg, resource)).ok_or_else(wrong)?;
                    if matches!(param.arg, Arg::Consume(_)) {
                        self.held.remove(held);
                        if resource == Resource::Record {
                            self.records[((arg >> 32) - RECORDS) as usize].clear();
                        }
                    }
                }
            }
        }
        let result = match row.ret {
            Ret::Scalar => self.chance.number(),
            Ret::Void => self.chance.any(),
            Ret::Range { min, max } => self.range(row.number, args, min, max)?,
            Ret::MapValueOrNull if self.chance.once_in(4) => 0,
            Ret::MapValueOrNull => {
                let (map, entry) = (map.ok_or("a lookup without a map")?, self.chance.below(ENTRIES));
                // Someone else may have written to it.
                if !self.maps[map].read_only() && self.chance.once_in(2) {
                    let size = self.maps[map].value_size as usize;
                    self.values[map * ENTRIES + entry] = random_bytes(size, &mut self.chance);
                }
                value(map, entry)
            }
            Ret::RecordOrNull | Ret::CloneOrNull if self.chance.once_in(4) => 0,
            Ret::RecordOrNull => {
                self.records.push(vec![0; constant]);
                let record = record(self.records.len() - 1);
                self.held.push((record, Resource::Record));
                record
            }
            Ret::CloneOrNull => {
                self.clones += 1;
                let clone = base(CLONES) + self.clones;
                self.held.push((clone, Resource::Clone));
                clone
            }
        };
        self.registers[0] = result;
        for register in 1..6 {
            self.registers[register] = self.chance.any();
        }
        Ok(())
    }

    fn range(&mut self, number: u32, args: [u64; 5], min: i64, max: i64) -> Result<u64, Broken> {
        // With made-up answers no policy would get far.
        if !self.chance.once_in(8) {
            let behind = usize::try_from(args[1]).ok().and_then(|offset| self.window.get(offset..));
            if number == helper::FIND {
                let pattern = self.read(args[2], args[3] as usize)?;
                let found =
                    behind.and_then(|behind| behind.windows(pattern.len()).position(|at| at == pattern));
                let found = found.map(|at| args[1] as i64 + at as i64);
                return Ok(found.unwrap_or(-2).clamp(min, max) as u64);
            }
            if number == helper::LOAD_BYTES {
                let size = args[3] as usize;
                if let Some(from) = behind.and_then(|behind| behind.get(..size)) {
                    if size > 0 {
                        self.write(args[2], size)?.copy_from_slice(from);
                    }
                    return Ok(0);
                }
            }
        }
        Ok(match self.chance.below(4) {
            0 => min,
            1 => max,
            2 => (self.chance.number() as i64).clamp(min, max),
            _ => 0.clamp(min, max),
        } as u64)
    }
}

fn random_bytes(size: usize, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&chance.number().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Section 4.1, and 4.2 for swaps.
fn arithmetic(insn: Insn, a: u64, b: u64) -> u64 {
    let wide = insn.class() == class::ALU64;
    let signed = insn.offset == 1;
    match insn.opcode & 0xf0 {
        alu::END => {
            let narrow = a & if insn.imm == 64 { u64::MAX } else { (1 << insn.imm) - 1 };
            if wide || insn.opcode & source::X != 0 { narrow.swap_bytes() >> (64 - insn.imm) } else { narrow }
        }
        alu::MOV => {
            let moved = match insn.offset {
                8 => b as i8 as u64,
                16 => b as i16 as u64,
                32 => b as i32 as u64,
                _ => b,
            };
            if wide { moved } else { u64::from(moved as u32) }
        }
        operation if wide => match operation {
            alu::ADD => a.wrapping_add(b),
            alu::SUB => a.wrapping_sub(b),
            alu::MUL => a.wrapping_mul(b),
            alu::DIV if b == 0 => 0,
            alu::MOD if b == 0 => a,
            alu::DIV if signed => (a as i64).wrapping_div(b as i64) as u64,
            alu::MOD if signed => (a as i64).wrapping_rem(b as i64) as u64,
            alu::DIV => a / b,
            alu::MOD => a % b,
            alu::OR => a | b,
            alu::AND => a & b,
            alu::XOR => a ^ b,
            alu::LSH => a << (b & 63),
            alu::RSH => a >> (b & 63),
            alu::ARSH => (a as i64 >> (b & 63)) as u64,
            _ => a.wrapping_neg(),
        },
        operation => {
            let (a, b) = (a as u32, b as u32);
            u64::from(match operation {
                alu::ADD => a.wrapping_add(b),
                alu::SUB => a.wrapping_sub(b),
                alu::MUL => a.wrapping_mul(b),
                alu::DIV if b == 0 => 0,
                alu::MOD if b == 0 => a,
                alu::DIV if signed => (a as i32).wrapping_div(b as i32) as u32,
                alu::MOD if signed => (a as i32).wrapping_rem(b as i32) as u32,
                alu::DIV => a / b,
                alu::MOD => a % b,
                alu::OR => a | b,
                alu::AND => a & b,
                alu::XOR => a ^ b,
                alu::LSH => a << (b & 31),
                alu::RSH => a >> (b & 31),
                alu::ARSH => (a as i32 >> (b & 31)) as u32,
                _ => a.wrapping_neg(),
            })
        }
    }
}

/// Section 4.3.
fn holds(operation: u8, narrow: bool, a: u64, b: u64) -> bool {
    let (a, b) = if narrow { (a & 0xffff_ffff, b & 0xffff_ffff) } else { (a, b) };
    let (sa, sb) = if narrow { (i64::from(a as i32), i64::from(b as i32)) } else { (a as i64, b as i64) };
    match operation {
        jmp::JEQ => a == b,
        jmp::JNE => a != b,
        jmp::JGT => a > b,
        jmp::JGE => a >= b,
        jmp::JLT => a < b,
        jmp::JLE => a <= b,
        jmp::JSET => a & b != 0,
        jmp::JSGT => sa > sb,
        jmp::JSGE => sa >= sb,
        jmp::JSLT => sa < sb,
        _ => sa <= sb,
    }
}
