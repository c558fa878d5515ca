//! Bytecode in the making: a word for each instruction that generated programs need, and jumps to places by number.

use tidegate_abi::Insn;
use tidegate_abi::insn::{call, class, jmp, mode, size, source};

/// Slots of a program in the making.
#[derive(Default)]
pub(crate) struct Code(Vec<Insn>);

impl Code {
    /// Where the next instruction will be.
    pub(crate) fn here(&self) -> usize {
        self.0.len()
    }

    /// Forgets what lies behind `slot`.
    pub(crate) fn truncate(&mut self, slot: usize) {
        self.0.truncate(slot);
    }

    fn put(&mut self, opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) {
        self.0.push(Insn::new(opcode, dst, src, offset, imm));
    }

    /// `dst = dst op imm`, in 64 bits.
    pub(crate) fn alu(&mut self, op: u8, dst: u8, imm: i32) {
        self.put(class::ALU64 | source::K | op, dst, 0, 0, imm);
    }

    /// `dst = dst op src`, in 64 bits.
    pub(crate) fn alu_reg(&mut self, op: u8, dst: u8, src: u8) {
        self.put(class::ALU64 | source::X | op, dst, src, 0, 0);
    }

    /// `dst = *(size *)(src + offset)`.
    pub(crate) fn load(&mut self, size: u8, dst: u8, src: u8, offset: i16) {
        self.put(class::LDX | mode::MEM | size, dst, src, offset, 0);
    }

    /// `*(u64 *)(dst + offset) = src`.
    pub(crate) fn store(&mut self, dst: u8, offset: i16, src: u8) {
        self.put(class::STX | mode::MEM | size::DW, dst, src, offset, 0);
    }

    /// `if dst op imm goto` as many slots further.
    pub(crate) fn branch(&mut self, op: u8, dst: u8, imm: i32, skipped: usize) {
        self.put(class::JMP | source::K | op, dst, 0, skipped as i16, imm);
    }

    /// `if dst op src goto` as many slots further.
    pub(crate) fn branch_reg(&mut self, op: u8, dst: u8, src: u8, skipped: usize) {
        self.put(class::JMP | source::X | op, dst, src, skipped as i16, 0);
    }

    /// `if dst op imm goto target`, which may be any place.
    pub(crate) fn branch_to(&mut self, op: u8, dst: u8, imm: i32, target: usize) {
        let offset = target as i64 - self.here() as i64 - 1;
        if let Ok(offset) = i16::try_from(offset) {
            self.put(class::JMP | source::K | op, dst, 0, offset, imm);
        } else {
            // A jump over a jump: only that one reaches everywhere.
            self.put(class::JMP | source::K | op, dst, 0, 1, imm);
            self.put(class::JMP | jmp::JA, 0, 0, 1, 0);
            self.put(class::JMP32 | jmp::JA, 0, 0, 0, (target as i64 - self.here() as i64 - 1) as i32);
        }
    }

    /// Calls the function at `target`.
    pub(crate) fn call(&mut self, target: usize) {
        let distance = target as i64 - self.here() as i64 - 1;
        self.put(class::JMP | jmp::CALL, 0, call::LOCAL, 0, distance as i32);
    }

    pub(crate) fn exit(&mut self) {
        self.put(class::JMP | jmp::EXIT, 0, 0, 0, 0);
    }

    /// `return verdict`.
    pub(crate) fn verdict(&mut self, verdict: tidegate_abi::Verdict) {
        self.alu(tidegate_abi::insn::alu::MOV, 0, verdict as i32);
        self.exit();
    }

    /// In wire form.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|insn| insn.to_bytes()).collect()
    }
}
