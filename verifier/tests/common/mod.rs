//! A small assembler, so that tests read like what `llvm-objdump` prints.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;

use tidegate_abi::insn::{alu, atomic, call, class, jmp, mode, pseudo, size, source};
use tidegate_abi::{Insn, MapDef, MapKind, ProgramType};
use tidegate_verifier::{Options, Program, Refusal, Verified, verify};

/// Bytecode from text: one instruction a line, `name:` is a label, `;` begins a comment.
pub(crate) fn assemble(text: &str) -> Vec<u8> {
    let mut insns: Vec<Insn> = Vec::new();
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut wanted: Vec<(usize, &str, bool)> = Vec::new();
    for line in
        text.lines().map(|line| line.split(';').next().unwrap().trim()).filter(|line| !line.is_empty())
    {
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, insns.len());
            continue;
        }
        let parsed = parse(line);
        let (first, target) = parsed.unwrap_or_else(|| panic!("cannot assemble `{line}`"));
        if let Some((label, in_imm)) = target {
            wanted.push((insns.len(), label, in_imm));
        }
        insns.extend(first);
    }
    for (slot, label, in_imm) in wanted {
        let target = *labels.get(label).unwrap_or_else(|| panic!("no label `{label}`"));
        let distance = target as i64 - slot as i64 - 1;
        if in_imm {
            insns[slot].imm = distance as i32;
        } else {
            insns[slot].offset = distance as i16;
        }
    }
    insns.iter().flat_map(|insn| insn.to_bytes()).collect()
}

type Parsed<'t> = (Vec<Insn>, Option<(&'t str, bool)>);

fn one<'t>(insn: Insn) -> Option<Parsed<'t>> {
    Some((vec![insn], None))
}

fn reg(text: &str) -> Option<(u8, bool)> {
    let wide = text.starts_with('r');
    let number = text.strip_prefix(['r', 'w'])?.parse().ok()?;
    Some((number, wide))
}

fn number(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()? as i64,
        None => digits.parse::<u64>().ok()? as i64,
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

/// `*(u32 *)(r1 + 4)` or `*(s8 *)(r1 - 4)`: size, signed, base, offset.
fn memory(text: &str) -> Option<(u8, bool, u8, i16)> {
    let rest = text.strip_prefix("*(")?;
    let (kind, rest) = rest.split_once("*)")?;
    let kind = kind.trim();
    let size = match &kind[1..] {
        "8" => size::B,
        "16" => size::H,
        "32" => size::W,
        "64" => size::DW,
        _ => return None,
    };
    let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
    let split = inner.find(['+', '-'])?;
    let (base, offset) = inner.split_at(split);
    let offset = number(&offset.replace([' ', '+'], ""))?;
    Some((size, kind.starts_with('s'), reg(base.trim())?.0, offset as i16))
}

fn load64<'t>(dst: u8, src: u8, low: i64, high: i32) -> Option<Parsed<'t>> {
    let first = Insn::new(class::LD | mode::IMM | size::DW, dst, src, 0, low as i32);
    Some((vec![first, Insn::new(0, 0, 0, 0, high)], None))
}

fn parse(line: &str) -> Option<Parsed<'_>> {
    if line == "exit" {
        return one(Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0));
    }
    if let Some(label) = line.strip_prefix("goto ") {
        return Some((vec![Insn::new(class::JMP | jmp::JA, 0, 0, 0, 0)], Some((label, false))));
    }
    if let Some(what) = line.strip_prefix("call ") {
        if let Some(helper) = number(what) {
            return one(Insn::new(class::JMP | jmp::CALL, 0, call::HELPER, 0, helper as i32));
        }
        if let Some(helper) = tidegate_abi::helper::by_name(what) {
            return one(Insn::new(class::JMP | jmp::CALL, 0, call::HELPER, 0, helper.number as i32));
        }
        return Some((vec![Insn::new(class::JMP | jmp::CALL, 0, call::LOCAL, 0, 0)], Some((what, true))));
    }
    if let Some(register) = line.strip_prefix("callx ") {
        return one(Insn::new(class::JMP | jmp::CALL | source::X, reg(register)?.0, 0, 0, 0));
    }
    if let Some(rest) = line.strip_prefix("if ") {
        let (condition, label) = rest.split_once(" goto ")?;
        let mut words = condition.split_whitespace();
        let (dst, wide) = reg(words.next()?)?;
        let op = match words.next()? {
            "==" => jmp::JEQ,
            "!=" => jmp::JNE,
            ">" => jmp::JGT,
            ">=" => jmp::JGE,
            "<" => jmp::JLT,
            "<=" => jmp::JLE,
            "s>" => jmp::JSGT,
            "s>=" => jmp::JSGE,
            "s<" => jmp::JSLT,
            "s<=" => jmp::JSLE,
            "&" => jmp::JSET,
            _ => return None,
        };
        let class = if wide { class::JMP } else { class::JMP32 };
        let right = words.next()?;
        let insn = match reg(right) {
            Some((src, _)) => Insn::new(class | op | source::X, dst, src, 0, 0),
            None => Insn::new(class | op, dst, 0, 0, number(right)? as i32),
        };
        return Some((vec![insn], Some((label, false))));
    }
    if let Some(rest) = line.strip_prefix("lock ") {
        return parse_atomic(rest);
    }
    let (left, op, right) = {
        let mut words = line.splitn(2, " = ");
        match (words.next()?, words.next()) {
            (left, Some(right)) if !left.contains(' ') || left.starts_with('*') => (left, "=", right),
            _ => {
                let mut words = line.splitn(3, ' ');
                (words.next()?, words.next()?, words.next()?)
            }
        }
    };
    if left.starts_with('*') {
        let (size, _, base, offset) = memory(left)?;
        return match reg(right) {
            Some((src, _)) => one(Insn::new(class::STX | mode::MEM | size, base, src, offset, 0)),
            None => one(Insn::new(class::ST | mode::MEM | size, base, 0, offset, number(right)? as i32)),
        };
    }
    let (dst, wide) = reg(left)?;
    if op == "=" {
        if let Some((size, signed, base, offset)) = memory(right) {
            let mode = if signed { mode::MEMSX } else { mode::MEM };
            return one(Insn::new(class::LDX | mode | size, dst, base, offset, 0));
        }
        if let Some(index) = right.strip_prefix("map ") {
            return load64(dst, pseudo::MAP_IDX, number(index)?, 0);
        }
        if let Some(rest) = right.strip_prefix("value ") {
            let (index, offset) = rest.split_once('+')?;
            return load64(dst, pseudo::MAP_IDX_VALUE, number(index.trim())?, number(offset.trim())? as i32);
        }
        if let Some(label) = right.strip_prefix("code ") {
            let (insns, _) = load64(dst, pseudo::FUNC, 0, 0)?;
            return Some((insns, Some((label, true))));
        }
        if let Some(wide) = right.strip_suffix(" ll") {
            let value = number(wide)?;
            return load64(dst, pseudo::NUMBER, value, (value >> 32) as i32);
        }
        if let Some((order, source)) = right.split_once(' ')
            && reg(source) == Some((dst, true))
        {
            let (bits, opcode) = match (order.get(..2)?, order.get(2..)?) {
                ("be", bits) => (bits, class::ALU | alu::END | source::X),
                ("le", bits) => (bits, class::ALU | alu::END),
                ("bs", bits) => (bits.strip_prefix("wap")?, class::ALU64 | alu::END),
                _ => return None,
            };
            return one(Insn::new(opcode, dst, 0, 0, number(bits)? as i32));
        }
        if right == format!("-{left}") {
            return one(Insn::new(if wide { class::ALU64 } else { class::ALU } | alu::NEG, dst, 0, 0, 0));
        }
        if let Some(rest) = right.strip_prefix("(s") {
            let (bits, source) = rest.split_once(')')?;
            let class = if wide { class::ALU64 } else { class::ALU };
            let src = reg(source)?.0;
            return one(Insn::new(class | alu::MOV | source::X, dst, src, number(bits)? as i16, 0));
        }
    }
    let (op, variant) = match op {
        "=" => (alu::MOV, 0),
        "+=" => (alu::ADD, 0),
        "-=" => (alu::SUB, 0),
        "*=" => (alu::MUL, 0),
        "/=" => (alu::DIV, 0),
        "s/=" => (alu::DIV, 1),
        "%=" => (alu::MOD, 0),
        "s%=" => (alu::MOD, 1),
        "|=" => (alu::OR, 0),
        "&=" => (alu::AND, 0),
        "^=" => (alu::XOR, 0),
        "<<=" => (alu::LSH, 0),
        ">>=" => (alu::RSH, 0),
        "s>>=" => (alu::ARSH, 0),
        _ => return None,
    };
    let class = if wide { class::ALU64 } else { class::ALU };
    match reg(right) {
        Some((src, _)) => one(Insn::new(class | op | source::X, dst, src, variant, 0)),
        None => one(Insn::new(class | op, dst, 0, variant, number(right)? as i32)),
    }
}

/// `*(u64 *)(r1 + 0) += r2`, `fetch` before it brings the old value; `xchg` and `cmpxchg` by name.
fn parse_atomic(text: &str) -> Option<Parsed<'_>> {
    let (fetch, text) = text.strip_prefix("fetch ").map_or((0, text), |text| (atomic::FETCH, text));
    let close = text.find("))").map(|at| at + 1).or_else(|| text.rfind(')'))?;
    let (place, rest) = text.split_at(text.match_indices(')').nth(1).map_or(close, |(at, _)| at) + 1);
    let (size, _, base, offset) = memory(place)?;
    let (op, src) = rest.trim().split_once(' ')?;
    let imm = match op {
        "+=" => i32::from(alu::ADD) | fetch,
        "|=" => i32::from(alu::OR) | fetch,
        "&=" => i32::from(alu::AND) | fetch,
        "^=" => i32::from(alu::XOR) | fetch,
        "xchg" => atomic::XCHG,
        "cmpxchg" => atomic::CMPXCHG,
        _ => return None,
    };
    one(Insn::new(class::STX | mode::ATOMIC | size, base, reg(src)?.0, offset, imm))
}

pub(crate) const HASH: MapDef =
    MapDef { kind: MapKind::Hash, key_size: 8, value_size: 16, max_entries: 16, flags: 0 };
pub(crate) const ARRAY: MapDef =
    MapDef { kind: MapKind::Array, key_size: 4, value_size: 64, max_entries: 4, flags: 0 };
pub(crate) const RODATA: MapDef = MapDef {
    kind: MapKind::Array,
    key_size: 4,
    value_size: 64,
    max_entries: 1,
    flags: tidegate_abi::map::RDONLY_PROG,
};
pub(crate) const RING: MapDef =
    MapDef { kind: MapKind::RingBuf, key_size: 0, value_size: 0, max_entries: 4096, flags: 0 };
/// 0 hash, 1 array, 2 read-only array, 3 ring buffer.
pub(crate) const MAPS: [MapDef; 4] = [HASH, ARRAY, RODATA, RING];

/// Verifies a program of the given type with [`MAPS`].
pub(crate) fn judge(program_type: ProgramType, text: &str) -> Result<Verified, Refusal> {
    let code = assemble(text);
    verify(&Program { program_type, code: &code, maps: &MAPS }, &Options::default())
}

/// The program must be accepted.
#[track_caller]
pub(crate) fn accepts(text: &str) -> Verified {
    match judge(ProgramType::Stream, text) {
        Ok(verified) => verified,
        Err(refusal) => panic!("refused: instruction {}: {} {refusal}\n{text}", refusal.insn, refusal.code),
    }
}

/// The program must be refused, with this code at this slot.
#[track_caller]
pub(crate) fn refuses(text: &str, code: &str, insn: usize) -> String {
    match judge(ProgramType::Stream, text) {
        Ok(_) => panic!("accepted, and {code} was expected\n{text}"),
        Err(refusal) => {
            let told = refusal.to_string();
            assert_eq!((refusal.code.text(), refusal.insn), (code, insn), "{told}\n{text}");
            assert!(!told.is_empty() && !refusal.cure().to_string().is_empty());
            told
        }
    }
}
