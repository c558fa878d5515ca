//! Programs of any size, to see how a verification grows with them.

use tidegate_abi::insn::{alu, jmp, size};
use tidegate_abi::{StreamContext, Verdict};

use crate::code::Code;

/// What a program is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Arithmetic and the stack, one instruction after the other.
    Straight,
    /// Two ways that meet again, over and over.
    Branches,
    /// Short loops, one behind the other.
    Loops,
    /// Bounds of the packet that are checked, and bytes that are read.
    Packet,
}

impl Shape {
    pub(crate) const ALL: [Self; 4] = [Self::Straight, Self::Branches, Self::Loops, Self::Packet];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Straight => "straight",
            Self::Branches => "branches",
            Self::Loops => "loops",
            Self::Packet => "packet",
        }
    }

    /// A program of exactly `insns` slots, at least 10.
    pub(crate) fn program(self, insns: usize) -> Vec<u8> {
        let mut code = Code::default();
        // The verdict at the end takes two.
        let room = insns.saturating_sub(2);
        code.load(size::DW, 2, 1, CONTEXT.0);
        if self == Self::Packet {
            code.load(size::DW, 2, 1, CONTEXT.1);
            code.load(size::DW, 3, 1, CONTEXT.2);
        }
        for piece in 0.. {
            let before = code.here();
            self.piece(&mut code, piece);
            if code.here() > room {
                code.truncate(before);
                break;
            }
        }
        while code.here() < room {
            code.alu(alu::MOV, 0, 0);
        }
        code.verdict(Verdict::Permit);
        code.bytes()
    }

    fn piece(self, code: &mut Code, number: usize) {
        let number = number as i32;
        match self {
            Self::Straight => {
                let slot = -8 - 8 * (number % 32) as i16;
                code.alu(alu::ADD, 2, number);
                code.alu_reg(alu::MOV, 3, 2);
                code.alu(alu::AND, 3, 0xff);
                code.store(10, slot, 3);
                code.load(size::DW, 4, 10, slot);
                code.alu_reg(alu::XOR, 4, 2);
            }
            Self::Branches => {
                code.load(size::DW, 2, 1, CONTEXT.0);
                code.branch(jmp::JGT, 2, number, 1);
                code.alu(alu::MOV, 3, number);
                code.alu(alu::MOV, 4, 1);
            }
            Self::Loops => {
                code.alu(alu::MOV, 3, 0);
                let head = code.here();
                code.alu_reg(alu::ADD, 2, 3);
                code.alu(alu::ADD, 3, 1);
                code.branch_to(jmp::JLT, 3, 2 + number % 100, head);
            }
            Self::Packet => {
                let at = number % 30_000;
                code.alu_reg(alu::MOV, 4, 2);
                code.alu(alu::ADD, 4, at + 1);
                code.branch_reg(jmp::JLE, 4, 3, 2);
                code.verdict(Verdict::Permit);
                code.load(size::B, 5, 2, at as i16);
            }
        }
    }
}

/// Where a number that nobody knows, the first byte shown and the end of what is shown are.
const CONTEXT: (i16, i16, i16) = (
    std::mem::offset_of!(StreamContext, flow_id) as i16,
    std::mem::offset_of!(StreamContext, data) as i16,
    std::mem::offset_of!(StreamContext, data_end) as i16,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Group, Input, alone, verify};

    #[test]
    fn programs_have_the_size_that_was_asked_for_and_are_safe() {
        let _alone = alone();
        for shape in Shape::ALL {
            for insns in [10, 11, 12, 13, 14, 15, 16, 100, 1000] {
                let code = shape.program(insns);
                assert_eq!(code.len(), 8 * insns, "{shape:?}");
                let input = Input::of(Group::Generated, shape.name(), insns.to_string(), code);
                assert!(verify(&input).is_ok(), "{shape:?} of {insns}");
            }
        }
    }
}
