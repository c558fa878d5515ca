//! Instructions in short words, and running them. Every file in `tests/` has this.
#![allow(dead_code, reason = "no test file needs all of it")]

use tidegate_abi::insn::{Insn, alu, call, class, jmp, mode, size, source};
use tidegate_abi::limits;
use tidegate_vm::{Cause, Executable, Fault, Host, Memory, Raw, Stack};

pub(crate) const EXIT: Insn = Insn::new(class::JMP | jmp::EXIT, 0, 0, 0, 0);

/// Arithmetic with a register; `wide` for 64 bits.
pub(crate) fn alu(wide: bool, op: u8, dst: u8, src: u8, variant: i16) -> Insn {
    Insn::new(if wide { class::ALU64 } else { class::ALU } | op | source::X, dst, src, variant, 0)
}

/// Arithmetic with an immediate; `wide` for 64 bits.
pub(crate) fn alu_k(wide: bool, op: u8, dst: u8, imm: i32, variant: i16) -> Insn {
    Insn::new(if wide { class::ALU64 } else { class::ALU } | op, dst, 0, variant, imm)
}

pub(crate) fn mov(dst: u8, imm: i32) -> Insn {
    alu_k(true, alu::MOV, dst, imm, 0)
}

pub(crate) fn mov_reg(dst: u8, src: u8) -> Insn {
    alu(true, alu::MOV, dst, src, 0)
}

pub(crate) fn add(dst: u8, imm: i32) -> Insn {
    alu_k(true, alu::ADD, dst, imm, 0)
}

pub(crate) fn add_reg(dst: u8, src: u8) -> Insn {
    alu(true, alu::ADD, dst, src, 0)
}

/// A number of 64 bits: two slots.
pub(crate) fn number(dst: u8, value: u64) -> [Insn; 2] {
    [
        Insn::new(class::LD | mode::IMM | size::DW, dst, 0, 0, value as i32),
        Insn::new(0, 0, 0, 0, (value >> 32) as i32),
    ]
}

pub(crate) fn load(width: u8, dst: u8, src: u8, offset: i16) -> Insn {
    Insn::new(class::LDX | mode::MEM | width, dst, src, offset, 0)
}

pub(crate) fn store(width: u8, dst: u8, offset: i16, src: u8) -> Insn {
    Insn::new(class::STX | mode::MEM | width, dst, src, offset, 0)
}

pub(crate) fn store_k(width: u8, dst: u8, offset: i16, imm: i32) -> Insn {
    Insn::new(class::ST | mode::MEM | width, dst, 0, offset, imm)
}

/// An atomic operation; `width` W or DW.
pub(crate) fn atomic(width: u8, dst: u8, offset: i16, src: u8, op: i32) -> Insn {
    Insn::new(class::STX | mode::ATOMIC | width, dst, src, offset, op)
}

/// A jump that compares registers; `wide` for 64 bits.
pub(crate) fn jump(wide: bool, op: u8, dst: u8, src: u8, offset: i16) -> Insn {
    Insn::new(if wide { class::JMP } else { class::JMP32 } | op | source::X, dst, src, offset, 0)
}

/// A jump that compares with an immediate; `wide` for 64 bits.
pub(crate) fn jump_k(wide: bool, op: u8, dst: u8, imm: i32, offset: i16) -> Insn {
    Insn::new(if wide { class::JMP } else { class::JMP32 } | op, dst, 0, offset, imm)
}

pub(crate) fn goto(offset: i16) -> Insn {
    Insn::new(class::JMP | jmp::JA, 0, 0, offset, 0)
}

pub(crate) fn goto_long(distance: i32) -> Insn {
    Insn::new(class::JMP32 | jmp::JA, 0, 0, 0, distance)
}

pub(crate) fn helper(number: i32) -> Insn {
    Insn::new(class::JMP | jmp::CALL, 0, call::HELPER, 0, number)
}

pub(crate) fn local(distance: i32) -> Insn {
    Insn::new(class::JMP | jmp::CALL, 0, call::LOCAL, 0, distance)
}

pub(crate) fn call_register(dst: u8) -> Insn {
    Insn::new(class::JMP | jmp::CALL | source::X, dst, 0, 0, 0)
}

/// Answers helper 1 with the sum of its arguments, helper 2 with the first byte at r1.
#[derive(Debug)]
pub(crate) struct Sum;

impl Host for Sum {
    fn call(&mut self, helper: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        match helper {
            1 => Ok(args.iter().fold(0, |sum, arg| sum.wrapping_add(*arg))),
            2 => Ok(memory.read(args[0], 1)?[0].into()),
            number => Err(Cause::UnknownHelper { number }.into()),
        }
    }
}

/// The wire form of a program.
pub(crate) fn code(program: &[Insn]) -> Vec<u8> {
    program.iter().flat_map(|insn| insn.to_bytes()).collect()
}

pub(crate) fn executable(program: &[Insn]) -> Executable {
    Executable::unverified(&code(program), &[], &[]).expect("well formed")
}

/// Runs a program over `bytes`: r1 is their address, r2 their number.
pub(crate) fn run(program: &[Insn], bytes: &mut [u8]) -> Result<u64, Fault> {
    executable(program).run(&mut Sum, &mut Stack::new(), &mut Raw(bytes), &[], limits::DEFAULT_BUDGET)
}
