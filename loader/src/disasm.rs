//! Disassembly of a linked program: one line of text an instruction, with the names of maps, helpers and functions.

use tidegate_abi::insn::{alu, atomic, call, class, jmp, mode, pseudo, size, source};
use tidegate_abi::{Insn, helper};

use crate::object::{Object, Program};

/// One instruction of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its first slot.
    pub slot: usize,
    /// Its slots: two for a 64-bit load.
    pub slots: usize,
    /// What it does, as C would say it.
    pub text: String,
}

/// The instructions of `program`, in the order of their slots.
pub fn program<'a>(object: &'a Object, program: &'a Program) -> impl Iterator<Item = Instruction> + 'a {
    let mut slot = 0;
    std::iter::from_fn(move || {
        let instruction = instruction(object, program, slot)?;
        slot += instruction.slots;
        Some(instruction)
    })
}

/// The instruction of `program` that starts at `slot`.
pub fn instruction(object: &Object, program: &Program, slot: usize) -> Option<Instruction> {
    let insn = *program.insns.get(slot)?;
    let next = program.insns.get(slot + 1).copied();
    let names = Names { object, program };
    let is_wide = insn.opcode == class::LD | mode::IMM | size::DW;
    let (text, slots) = match (is_wide, next) {
        (true, Some(next)) => (names.wide(slot, insn, next), 2),
        _ => (names.narrow(slot, insn).unwrap_or_else(|| unknown(insn)), 1),
    };
    Some(Instruction { slot, slots, text })
}

/// An instruction that is none, as its bytes.
fn unknown(insn: Insn) -> String {
    format!("not an instruction: {}", bytes(&[insn]))
}

/// Slots in their wire form, as hexadecimal bytes.
pub fn bytes(insns: &[Insn]) -> String {
    let bytes = insns.iter().flat_map(|insn| insn.to_bytes());
    bytes.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

struct Names<'a> {
    object: &'a Object,
    program: &'a Program,
}

impl Names<'_> {
    fn map(&self, own: i32) -> Option<&str> {
        let map = self.object.maps_of(self.program).nth(usize::try_from(own).ok()?)?;
        Some(&map.name)
    }

    fn function(&self, slot: usize, distance: i32) -> String {
        let target = target(slot, distance.into());
        let start = usize::try_from(target).ok();
        let function = start
            .and_then(|start| self.program.function(start))
            .filter(|function| Some(function.slot) == start);
        function.map_or_else(|| format!("slot {target}"), |function| function.name.clone())
    }

    fn wide(&self, slot: usize, insn: Insn, next: Insn) -> String {
        let dst = register(insn.dst(), true);
        let named = match insn.src() {
            pseudo::NUMBER => {
                let value = u64::from(insn.imm as u32) | u64::from(next.imm as u32) << 32;
                Some(format!("{dst} = {value:#x} ll"))
            }
            pseudo::FUNC => Some(format!("{dst} = &{}", self.function(slot, insn.imm))),
            pseudo::MAP_IDX => self.map(insn.imm).map(|map| format!("{dst} = map {map}")),
            pseudo::MAP_IDX_VALUE => {
                self.map(insn.imm).map(|map| format!("{dst} = &{map}[{}]", next.imm as u32))
            }
            _ => None,
        };
        named.unwrap_or_else(|| format!("not an instruction: {}", bytes(&[insn, next])))
    }

    fn narrow(&self, slot: usize, insn: Insn) -> Option<String> {
        match insn.class() {
            class::ALU => arithmetic(insn, false),
            class::ALU64 => arithmetic(insn, true),
            class::JMP => self.jump(slot, insn, true),
            class::JMP32 => self.jump(slot, insn, false),
            class::LDX => {
                let signed = match insn.opcode & 0xe0 {
                    mode::MEM => "u",
                    mode::MEMSX => "s",
                    _ => return None,
                };
                Some(format!("{} = {}", register(insn.dst(), true), memory(signed, insn, insn.src())))
            }
            class::ST if insn.opcode & 0xe0 == mode::MEM => {
                Some(format!("{} = {}", memory("u", insn, insn.dst()), insn.imm))
            }
            class::STX => match insn.opcode & 0xe0 {
                mode::MEM => {
                    Some(format!("{} = {}", memory("u", insn, insn.dst()), register(insn.src(), true)))
                }
                mode::ATOMIC => atomic_text(insn),
                _ => None,
            },
            _ => None,
        }
    }

    fn jump(&self, slot: usize, insn: Insn, wide: bool) -> Option<String> {
        let operation = insn.opcode & 0xf0;
        match operation {
            jmp::EXIT if wide => return Some("exit".into()),
            jmp::CALL if wide && insn.opcode & 0x08 == source::X => {
                return Some(format!("call {}", register(insn.dst(), true)));
            }
            jmp::CALL if wide => {
                return match insn.src() {
                    call::HELPER => {
                        let name = helper::by_number(insn.imm as u32).map(|helper| helper.name.to_string());
                        Some(format!("call {}", name.unwrap_or_else(|| format!("helper {:#x}", insn.imm))))
                    }
                    call::LOCAL => Some(format!("call {}", self.function(slot, insn.imm))),
                    _ => None,
                };
            }
            jmp::JA => {
                let distance = if wide { i64::from(insn.offset) } else { i64::from(insn.imm) };
                return Some(format!("goto {}", target(slot, distance)));
            }
            _ => {}
        }
        let compare = match operation {
            jmp::JEQ => "==",
            jmp::JNE => "!=",
            jmp::JGT => ">",
            jmp::JGE => ">=",
            jmp::JLT => "<",
            jmp::JLE => "<=",
            jmp::JSGT => "s>",
            jmp::JSGE => "s>=",
            jmp::JSLT => "s<",
            jmp::JSLE => "s<=",
            jmp::JSET => "&",
            _ => return None,
        };
        let left = register(insn.dst(), wide);
        let target = target(slot, insn.offset.into());
        Some(format!("if {left} {compare} {} goto {target}", operand(insn, wide)))
    }
}

fn target(slot: usize, distance: i64) -> i64 {
    (slot as i64 + 1).saturating_add(distance)
}

fn register(number: u8, wide: bool) -> String {
    format!("{}{number}", if wide { 'r' } else { 'w' })
}

fn operand(insn: Insn, wide: bool) -> String {
    if insn.opcode & 0x08 == source::X { register(insn.src(), wide) } else { insn.imm.to_string() }
}

/// `*(u32 *)(r1 + 8)`.
fn memory(sign: &str, insn: Insn, base: u8) -> String {
    let bits = match insn.opcode & 0x18 {
        size::B => 8,
        size::H => 16,
        size::W => 32,
        _ => 64,
    };
    let (way, offset) =
        if insn.offset < 0 { ('-', insn.offset.unsigned_abs()) } else { ('+', insn.offset as u16) };
    format!("*({sign}{bits} *)({} {way} {offset})", register(base, true))
}

fn arithmetic(insn: Insn, wide: bool) -> Option<String> {
    let dst = register(insn.dst(), wide);
    let operation = match insn.opcode & 0xf0 {
        alu::MOV => {
            let source = operand(insn, wide);
            return Some(match insn.offset {
                0 => format!("{dst} = {source}"),
                bits @ (8 | 16 | 32) => format!("{dst} = (s{bits}){source}"),
                _ => return None,
            });
        }
        alu::NEG => return Some(format!("{dst} = -{dst}")),
        alu::END => return Some(byte_order(insn, wide)),
        alu::ADD => "+=",
        alu::SUB => "-=",
        alu::MUL => "*=",
        alu::DIV if insn.offset == 1 => "s/=",
        alu::DIV => "/=",
        alu::MOD if insn.offset == 1 => "s%=",
        alu::MOD => "%=",
        alu::OR => "|=",
        alu::AND => "&=",
        alu::XOR => "^=",
        alu::LSH => "<<=",
        alu::RSH => ">>=",
        alu::ARSH => "s>>=",
        _ => return None,
    };
    Some(format!("{dst} {operation} {}", operand(insn, wide)))
}

fn byte_order(insn: Insn, wide: bool) -> String {
    let dst = register(insn.dst(), true);
    let how = match (wide, insn.opcode & 0x08) {
        (true, _) => "bswap",
        (false, source::K) => "le",
        (false, _) => "be",
    };
    format!("{dst} = {how}{} {dst}", insn.imm)
}

fn atomic_text(insn: Insn) -> Option<String> {
    let place = memory("u", insn, insn.dst());
    let source = register(insn.src(), true);
    let fetches = insn.imm & atomic::FETCH != 0;
    let operation = match insn.imm {
        atomic::XCHG => return Some(format!("{source} = atomic_exchange({place}, {source})")),
        atomic::CMPXCHG => return Some(format!("r0 = atomic_compare_exchange({place}, r0, {source})")),
        imm if imm & !atomic::FETCH == i32::from(alu::ADD) => "+=",
        imm if imm & !atomic::FETCH == i32::from(alu::OR) => "|=",
        imm if imm & !atomic::FETCH == i32::from(alu::AND) => "&=",
        imm if imm & !atomic::FETCH == i32::from(alu::XOR) => "^=",
        _ => return None,
    };
    let text = format!("atomic {place} {operation} {source}");
    Some(if fetches { format!("{source} = {text}") } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &[u8] = include_bytes!("../tests/fixtures/features.o");

    /// The text of `insns` as the code of a program without maps and functions of its own.
    fn text(insns: &[Insn]) -> String {
        let object = Object::parse(OBJECT).expect("the fixture loads");
        let mut program = object.programs()[0].clone();
        program.insns = insns.to_vec();
        instruction(&object, &program, 0).expect("there is an instruction").text
    }

    #[test]
    fn instructions_read_like_c() {
        let narrow = |opcode, dst, src, offset, imm| text(&[Insn::new(opcode, dst, src, offset, imm)]);
        for (said, expected) in [
            (narrow(0xb7, 1, 0, 0, -5), "r1 = -5"),
            (narrow(0xbc, 1, 2, 0, 0), "w1 = w2"),
            (narrow(0xbf, 1, 2, 16, 0), "r1 = (s16)r2"),
            (narrow(0x3f, 1, 2, 1, 0), "r1 s/= r2"),
            (narrow(0x94, 3, 0, 0, 10), "w3 %= 10"),
            (narrow(0xc7, 3, 0, 0, 4), "r3 s>>= 4"),
            (narrow(0x87, 3, 0, 0, 0), "r3 = -r3"),
            (narrow(0xdc, 3, 0, 0, 16), "r3 = be16 r3"),
            (narrow(0xd7, 3, 0, 0, 64), "r3 = bswap64 r3"),
            (narrow(0x69, 3, 10, -8, 0), "r3 = *(u16 *)(r10 - 8)"),
            (narrow(0x91, 3, 1, 8, 0), "r3 = *(s8 *)(r1 + 8)"),
            (narrow(0x7a, 10, 0, -16, 7), "*(u64 *)(r10 - 16) = 7"),
            (narrow(0x63, 10, 4, -4, 0), "*(u32 *)(r10 - 4) = r4"),
            (narrow(0xdb, 1, 2, 0, 0), "atomic *(u64 *)(r1 + 0) += r2"),
            (narrow(0xc3, 1, 2, 0, 0x51), "r2 = atomic *(u32 *)(r1 + 0) &= r2"),
            (narrow(0xdb, 1, 2, 0, 0xf1), "r0 = atomic_compare_exchange(*(u64 *)(r1 + 0), r0, r2)"),
            (narrow(0x05, 0, 0, 3, 0), "goto 4"),
            (narrow(0x06, 0, 0, 0, -1), "goto 0"),
            (narrow(0xa5, 1, 0, -1, 9), "if r1 < 9 goto 0"),
            (narrow(0xce, 1, 2, 1, 0), "if w1 s< w2 goto 2"),
            (narrow(0x85, 0, 0, 0, 0x10000), "call tidegate_replace"),
            (narrow(0x85, 0, 0, 0, 4000), "call helper 0xfa0"),
            (narrow(0x8d, 5, 0, 0, 0), "call r5"),
            (narrow(0x95, 0, 0, 0, 0), "exit"),
        ] {
            assert_eq!(said, expected);
        }
        let wide = [Insn::new(0x18, 2, 0, 0, 1), Insn::new(0, 0, 0, 0, 2)];
        assert_eq!(text(&wide), "r2 = 0x200000001 ll");
    }

    #[test]
    fn any_eight_bytes_have_a_text() {
        for opcode in 0..=u8::MAX {
            for src in 0..16 {
                let insn = Insn::new(opcode, 15, src, i16::MIN, i32::MIN);
                assert!(!text(&[insn]).is_empty());
                assert!(!text(&[insn, insn]).is_empty());
            }
        }
    }

    #[test]
    fn what_a_compiler_made_has_no_unknown_instruction() {
        let object = Object::parse(OBJECT).expect("the fixture loads");
        for program in object.programs() {
            let texts: Vec<_> = self::program(&object, program).collect();
            assert_eq!(texts.iter().map(|instruction| instruction.slots).sum::<usize>(), program.insns.len());
            assert!(texts.iter().all(|instruction| !instruction.text.contains("not an instruction")));
        }
    }
}
