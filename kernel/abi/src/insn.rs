//! The instruction of RFC 9669 section 3, and the numbers that its fields take.

/// One 8-byte slot of bytecode. A 64-bit immediate load takes two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Insn {
    /// Class, source or mode, and operation or size.
    pub opcode: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub regs: u8,
    /// Signed offset: of memory, of a jump, or the variant of an operation.
    pub offset: i16,
    /// Signed immediate.
    pub imm: i32,
}

impl Insn {
    /// Bytes of one slot.
    pub const SIZE: usize = 8;

    /// An instruction from its parts.
    pub const fn new(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Self {
        Self { opcode, regs: (dst & 0xf) | src << 4, offset, imm }
    }

    /// Destination register, 0 to 15 (above 10: not a register).
    pub const fn dst(self) -> u8 {
        self.regs & 0xf
    }

    /// Source register, 0 to 15 (above 10: not a register).
    pub const fn src(self) -> u8 {
        self.regs >> 4
    }

    /// The low three bits of the opcode: `LD` to `ALU64`.
    pub const fn class(self) -> u8 {
        self.opcode & 0x07
    }

    /// Whether it calls a helper by its number.
    pub const fn is_helper_call(self) -> bool {
        self.opcode == class::JMP | jmp::CALL && self.src() == call::HELPER
    }

    /// Reads a slot in its little-endian wire form.
    pub const fn from_bytes(b: [u8; Self::SIZE]) -> Self {
        Self {
            opcode: b[0],
            regs: b[1],
            offset: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }

    /// Writes the slot in its little-endian wire form.
    pub const fn to_bytes(self) -> [u8; Self::SIZE] {
        let (o, i) = (self.offset.to_le_bytes(), self.imm.to_le_bytes());
        [self.opcode, self.regs, o[0], o[1], i[0], i[1], i[2], i[3]]
    }

    /// The slots of a program in wire form; `None` when its length is not a multiple of eight.
    pub fn slots(bytes: &[u8]) -> Option<impl ExactSizeIterator<Item = Self> + '_> {
        let (slots, rest) = bytes.as_chunks::<{ Self::SIZE }>();
        rest.is_empty().then(|| slots.iter().map(|slot| Self::from_bytes(*slot)))
    }
}

/// Registers of the machine: r0 to r9, and r10, the read-only frame pointer.
pub const REGISTERS: usize = 11;

/// Instruction classes (RFC 9669 section 3.1), the low three bits of an opcode.
pub mod class {
    #![expect(missing_docs, reason = "the RFC's names")]
    pub const LD: u8 = 0x00;
    pub const LDX: u8 = 0x01;
    pub const ST: u8 = 0x02;
    pub const STX: u8 = 0x03;
    pub const ALU: u8 = 0x04;
    pub const JMP: u8 = 0x05;
    pub const JMP32: u8 = 0x06;
    pub const ALU64: u8 = 0x07;
}

/// Source bit of arithmetic and jumps (sections 4 and 4.3): the operand is the immediate, or the source register.
pub mod source {
    #![expect(missing_docs, reason = "the RFC's names")]
    pub const K: u8 = 0x00;
    pub const X: u8 = 0x08;
}

/// Arithmetic operations (section 4.1), the high four bits of an opcode.
///
/// Variants by `offset`: DIV and MOD with 1 are signed; MOV with 8, 16, 32 extends the sign.
/// END with class ALU64 swaps always; with class ALU the source bit is the byte order.
pub mod alu {
    #![expect(missing_docs, reason = "the RFC's names")]
    pub const ADD: u8 = 0x00;
    pub const SUB: u8 = 0x10;
    pub const MUL: u8 = 0x20;
    pub const DIV: u8 = 0x30;
    pub const OR: u8 = 0x40;
    pub const AND: u8 = 0x50;
    pub const LSH: u8 = 0x60;
    pub const RSH: u8 = 0x70;
    pub const NEG: u8 = 0x80;
    pub const MOD: u8 = 0x90;
    pub const XOR: u8 = 0xa0;
    pub const MOV: u8 = 0xb0;
    pub const ARSH: u8 = 0xc0;
    pub const END: u8 = 0xd0;
}

/// Jump operations (section 4.3), the high four bits of an opcode.
pub mod jmp {
    #![expect(missing_docs, reason = "the RFC's names")]
    pub const JA: u8 = 0x00;
    pub const JEQ: u8 = 0x10;
    pub const JGT: u8 = 0x20;
    pub const JGE: u8 = 0x30;
    pub const JSET: u8 = 0x40;
    pub const JNE: u8 = 0x50;
    pub const JSGT: u8 = 0x60;
    pub const JSGE: u8 = 0x70;
    pub const CALL: u8 = 0x80;
    pub const EXIT: u8 = 0x90;
    pub const JLT: u8 = 0xa0;
    pub const JLE: u8 = 0xb0;
    pub const JSLT: u8 = 0xc0;
    pub const JSLE: u8 = 0xd0;
}

/// Sizes of loads and stores (section 5), bits three and four of an opcode.
pub mod size {
    #![expect(missing_docs, reason = "the RFC's names")]
    pub const W: u8 = 0x00;
    pub const H: u8 = 0x08;
    pub const B: u8 = 0x10;
    pub const DW: u8 = 0x18;
}

/// Modes of loads and stores (section 5), the high three bits of an opcode.
pub mod mode {
    #![expect(missing_docs, reason = "the RFC's names")]
    pub const IMM: u8 = 0x00;
    pub const ABS: u8 = 0x20;
    pub const IND: u8 = 0x40;
    pub const MEM: u8 = 0x60;
    pub const MEMSX: u8 = 0x80;
    pub const ATOMIC: u8 = 0xc0;
}

/// Atomic operations (section 5.3), in the immediate. The others are [`alu`]'s ADD, OR, AND and XOR.
pub mod atomic {
    /// Modifier: the old value goes to the source register.
    pub const FETCH: i32 = 0x01;
    /// Exchange.
    pub const XCHG: i32 = 0xe0 | FETCH;
    /// Compare r0 with memory and exchange; the old value goes to r0.
    pub const CMPXCHG: i32 = 0xf0 | FETCH;
}

/// What the source field of a 64-bit immediate load says about the immediate (section 5.4, "pseudo" loads).
///
/// Code and maps are named by index, never by address: a map is an index into the program's own list of maps.
pub mod pseudo {
    /// The number itself.
    pub const NUMBER: u8 = 0;
    /// Address of the function at the slot that lies `imm` behind the next instruction.
    pub const FUNC: u8 = 4;
    /// The map with index `imm` in the program's list.
    pub const MAP_IDX: u8 = 5;
    /// Address of byte `next_imm` of the first value of the map with index `imm` in the program's list.
    pub const MAP_IDX_VALUE: u8 = 6;
}

/// What the source field of a call instruction says (section 4.3.1).
pub mod call {
    /// `imm` is the number of a helper.
    pub const HELPER: u8 = 0;
    /// `imm` is the distance to a function of the program.
    pub const LOCAL: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_survives_its_wire_form() {
        let insn = Insn::new(0x7b, 10, 1, -8, -2);
        assert_eq!(insn.to_bytes(), [0x7b, 0x1a, 0xf8, 0xff, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(Insn::from_bytes(insn.to_bytes()), insn);
        assert_eq!((insn.dst(), insn.src(), insn.class()), (10, 1, class::STX));
    }

    #[test]
    fn a_program_is_whole_slots() {
        assert!(Insn::slots(&[0; 12]).is_none());
        assert_eq!(Insn::slots(&[0; 16]).map(|slots| slots.len()), Some(2));
    }
}
