//! Ops: what the engine runs. One for each slot of the bytecode, so that a slot number is an op's place, 16 bytes each.

/// A register of the machine. As an index it needs no bounds check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

impl Reg {
    const ALL: [Self; tidegate_abi::insn::REGISTERS] = [
        Self::R0,
        Self::R1,
        Self::R2,
        Self::R3,
        Self::R4,
        Self::R5,
        Self::R6,
        Self::R7,
        Self::R8,
        Self::R9,
        Self::R10,
    ];

    /// The register with this number.
    pub(crate) fn new(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// The tables of ops that come in families, handed to the macro `$then`.
///
/// - `arithmetic`: operation and offset in the bytecode, function of [`Word`](crate::arithmetic::Word), and the ops for 64
///   bits with a register, with an immediate, for 32 bits with a register, with an immediate.
/// - `compare`: the same for jumps.
/// - `access`: size in the bytecode, type, and the ops: load, load with sign, store a register, store an immediate.
macro_rules! tables {
    ($then:ident) => {
        $then! {
            arithmetic {
                ADD 0 add Add64 Add64K Add32 Add32K,
                SUB 0 sub Sub64 Sub64K Sub32 Sub32K,
                MUL 0 mul Mul64 Mul64K Mul32 Mul32K,
                DIV 0 div Div64 Div64K Div32 Div32K,
                DIV 1 sdiv SDiv64 SDiv64K SDiv32 SDiv32K,
                MOD 0 rem Rem64 Rem64K Rem32 Rem32K,
                MOD 1 srem SRem64 SRem64K SRem32 SRem32K,
                OR 0 or Or64 Or64K Or32 Or32K,
                AND 0 and And64 And64K And32 And32K,
                XOR 0 xor Xor64 Xor64K Xor32 Xor32K,
                LSH 0 lsh Lsh64 Lsh64K Lsh32 Lsh32K,
                RSH 0 rsh Rsh64 Rsh64K Rsh32 Rsh32K,
                ARSH 0 arsh Arsh64 Arsh64K Arsh32 Arsh32K,
                MOV 0 mov Mov64 Mov64K Mov32 Mov32K,
            }
            compare {
                JEQ eq Eq64 Eq64K Eq32 Eq32K,
                JNE ne Ne64 Ne64K Ne32 Ne32K,
                JGT gt Gt64 Gt64K Gt32 Gt32K,
                JGE ge Ge64 Ge64K Ge32 Ge32K,
                JLT lt Lt64 Lt64K Lt32 Lt32K,
                JLE le Le64 Le64K Le32 Le32K,
                JSET set Set64 Set64K Set32 Set32K,
                JSGT sgt SGt64 SGt64K SGt32 SGt32K,
                JSGE sge SGe64 SGe64K SGe32 SGe32K,
                JSLT slt SLt64 SLt64K SLt32 SLt32K,
                JSLE sle SLe64 SLe64K SLe32 SLe32K,
            }
            access {
                B u8 i8 Load8 LoadS8 Store8 Store8K,
                H u16 i16 Load16 LoadS16 Store16 Store16K,
                W u32 i32 Load32 LoadS32 Store32 Store32K,
                DW u64 i64 Load64 LoadS64 Store64 Store64K,
            }
        }
    };
}
pub(crate) use tables;

macro_rules! define {
    (
        arithmetic { $( $alu:ident $variant:literal $alu_fn:ident $r64:ident $k64:ident $r32:ident $k32:ident, )* }
        compare { $( $jmp:ident $jmp_fn:ident $jr64:ident $jk64:ident $jr32:ident $jk32:ident, )* }
        access { $( $size:ident $ty:ident $signed:ident $load:ident $load_signed:ident $store:ident $store_imm:ident, )* }
    ) => {
        /// One op. `skip` is the distance of a jump in bytes, counted from the op behind it.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Op {
            $( $r64 { dst: Reg, src: Reg }, $k64 { dst: Reg, imm: i32 }, )*
            $( $r32 { dst: Reg, src: Reg }, $k32 { dst: Reg, imm: i32 }, )*
            $( $jr64 { dst: Reg, src: Reg, skip: i32 }, $jk64 { dst: Reg, imm: i32, skip: i32 }, )*
            $( $jr32 { dst: Reg, src: Reg, skip: i32 }, $jk32 { dst: Reg, imm: i32, skip: i32 }, )*
            $( $load { dst: Reg, src: Reg, offset: i16 }, $load_signed { dst: Reg, src: Reg, offset: i16 }, )*
            $( $store { dst: Reg, src: Reg, offset: i16 }, $store_imm { dst: Reg, offset: i16, imm: i32 }, )*
            Neg64 { dst: Reg },
            Neg32 { dst: Reg },
            /// The low byte with its sign, to 64 and to 32 bits.
            Extend8 { dst: Reg, src: Reg },
            Extend16 { dst: Reg, src: Reg },
            Extend32 { dst: Reg, src: Reg },
            Extend8To32 { dst: Reg, src: Reg },
            Extend16To32 { dst: Reg, src: Reg },
            /// The low half-word, the rest zero: what a little-endian machine does for "to little endian".
            Low16 { dst: Reg },
            Low32 { dst: Reg },
            Swap16 { dst: Reg },
            Swap32 { dst: Reg },
            Swap64 { dst: Reg },
            /// A 64-bit immediate: a number, or what a map or function is to the program.
            Constant { dst: Reg, value: u64 },
            Atomic32 { dst: Reg, src: Reg, offset: i16, op: AtomicOp },
            Atomic64 { dst: Reg, src: Reg, offset: i16, op: AtomicOp },
            Jump { skip: i32 },
            Helper { number: u32 },
            Call { skip: i32 },
            CallRegister { dst: Reg },
            Exit,
        }
    };
}
tables!(define);

use tidegate_verifier::structure::AtomicOp;

const _: () = assert!(size_of::<Op>() == 16, "ops are dense");

/// log2 of the bytes of an op.
pub(crate) const SHIFT: u32 = 4;
