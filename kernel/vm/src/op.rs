//! Ops: what the engine runs. One for each slot of the bytecode, so that a slot number is an op's place, 16 bytes each.

use tidegate_verifier::structure::AtomicOp;

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
/// - `access`: size in the bytecode, types, and the ops: load, load with sign, store a register, store an immediate, and
///   load, store a register, store an immediate in the function's own frame.
///
/// The others are fused, that is, two or three instructions in one op:
///
/// - `moved`: function, the four plain ops, and the ops for a move to their destination before them.
/// - `guarded`: comparison with an immediate at 64 and 32 bits, and the ops for: the comparison jumps over a jump; an
///   addition of an immediate before it (64-bit then 64, 64 then 32, 32 then 32); a move of an immediate before it; an
///   `and` with an immediate before it (64 then 64, 32 then 32), and a move before that; a load of 8, 16, 32 bits before a 32-bit one.
/// - `loaded`: size, type, the load, and the ops for: a 32-bit jump if (not) equal to a register behind it; addition of
///   what was loaded to another register, and exclusive or; the load through a sum of two registers; two loads, each
///   with a jump to the same target if it is not equal to a register; two loads; a move of an immediate before those.
/// - `summed`: the bounds check of packets, a move, an addition of an immediate, and a jump on the sum and a register;
///   the comparison, and that with its operands exchanged.
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
                B u8 i8 Load8 LoadS8 Store8 Store8K LoadFrame8 StoreFrame8 StoreFrame8K,
                H u16 i16 Load16 LoadS16 Store16 Store16K LoadFrame16 StoreFrame16 StoreFrame16K,
                W u32 i32 Load32 LoadS32 Store32 Store32K LoadFrame32 StoreFrame32 StoreFrame32K,
                DW u64 i64 Load64 LoadS64 Store64 Store64K LoadFrame64 StoreFrame64 StoreFrame64K,
            }
            moved {
                add Add64 Add64K Add32 Add32K MovAdd64 MovAdd64K MovAdd32 MovAdd32K,
                sub Sub64 Sub64K Sub32 Sub32K MovSub64 MovSub64K MovSub32 MovSub32K,
                or Or64 Or64K Or32 Or32K MovOr64 MovOr64K MovOr32 MovOr32K,
                and And64 And64K And32 And32K MovAnd64 MovAnd64K MovAnd32 MovAnd32K,
                xor Xor64 Xor64K Xor32 Xor32K MovXor64 MovXor64K MovXor32 MovXor32K,
                lsh Lsh64 Lsh64K Lsh32 Lsh32K MovLsh64 MovLsh64K MovLsh32 MovLsh32K,
                rsh Rsh64 Rsh64K Rsh32 Rsh32K MovRsh64 MovRsh64K MovRsh32 MovRsh32K,
                arsh Arsh64 Arsh64K Arsh32 Arsh32K MovArsh64 MovArsh64K MovArsh32 MovArsh32K,
            }
            guarded {
                eq Eq64K Eq32K OverEq64 OverEq32 AddEq64 AddEq64To32 AddEq32 SetEq64 SetEq32 AndEq64 AndEq32 MovAndEq LoadEq8 LoadEq16 LoadEq32,
                ne Ne64K Ne32K OverNe64 OverNe32 AddNe64 AddNe64To32 AddNe32 SetNe64 SetNe32 AndNe64 AndNe32 MovAndNe LoadNe8 LoadNe16 LoadNe32,
                gt Gt64K Gt32K OverGt64 OverGt32 AddGt64 AddGt64To32 AddGt32 SetGt64 SetGt32 AndGt64 AndGt32 MovAndGt LoadGt8 LoadGt16 LoadGt32,
                lt Lt64K Lt32K OverLt64 OverLt32 AddLt64 AddLt64To32 AddLt32 SetLt64 SetLt32 AndLt64 AndLt32 MovAndLt LoadLt8 LoadLt16 LoadLt32,
            }
            loaded {
                u8 Load8 LoadEqR8 LoadNeR8 LoadAdd8 LoadXor8 LoadSum8 LoadsNe8 Loads8 SetLoads8,
                u16 Load16 LoadEqR16 LoadNeR16 LoadAdd16 LoadXor16 LoadSum16 LoadsNe16 Loads16 SetLoads16,
                u32 Load32 LoadEqR32 LoadNeR32 LoadAdd32 LoadXor32 LoadSum32 LoadsNe32 Loads32 SetLoads32,
                u64 Load64 LoadEqR64 LoadNeR64 LoadAdd64 LoadXor64 LoadSum64 LoadsNe64 Loads64 SetLoads64,
            }
            summed {
                gt Gt64 Lt64 SumGt,
                ge Ge64 Le64 SumGe,
                lt Lt64 Gt64 SumLt,
                le Le64 Ge64 SumLe,
            }
        }
    };
}
pub(crate) use tables;

macro_rules! define {
    (
        arithmetic { $( $alu:ident $variant:literal $alu_fn:ident $r64:ident $k64:ident $r32:ident $k32:ident, )* }
        compare { $( $jmp:ident $jmp_fn:ident $jr64:ident $jk64:ident $jr32:ident $jk32:ident, )* }
        access { $( $size:ident $ty:ident $signed:ident $load:ident $load_signed:ident $store:ident $store_imm:ident
            $load_frame:ident $store_frame:ident $store_frame_imm:ident, )* }
        moved { $( $mov_fn:ident $pr64:ident $pk64:ident $pr32:ident $pk32:ident $mr64:ident $mk64:ident $mr32:ident $mk32:ident, )* }
        guarded { $( $guard_fn:ident $g64:ident $g32:ident $over64:ident $over32:ident $add64:ident $add64_32:ident
            $add32:ident $set64:ident $set32:ident $and64:ident $and32:ident $mov_and:ident $load_k8:ident $load_k16:ident $load_k32:ident, )* }
        loaded { $( $lty:ident $plain:ident $load_eq:ident $load_ne:ident $load_add:ident $load_xor:ident $load_sum:ident $loads_ne:ident $loads:ident $set_loads:ident, )* }
        summed { $( $sum_fn:ident $sum_plain:ident $sum_exchanged:ident $sum:ident, )* }
    ) => {
        /// One op. `skip` is the distance of a jump in bytes, counted from behind the last instruction of the op.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Op {
            $( $r64 { dst: Reg, src: Reg }, $k64 { dst: Reg, imm: i32 }, )*
            $( $r32 { dst: Reg, src: Reg }, $k32 { dst: Reg, imm: i32 }, )*
            $( $jr64 { dst: Reg, src: Reg, skip: i32 }, $jk64 { dst: Reg, imm: i32, skip: i32 }, )*
            $( $jr32 { dst: Reg, src: Reg, skip: i32 }, $jk32 { dst: Reg, imm: i32, skip: i32 }, )*
            $( $load { dst: Reg, src: Reg, offset: i16 }, $load_signed { dst: Reg, src: Reg, offset: i16 }, )*
            $( $store { dst: Reg, src: Reg, offset: i16 }, $store_imm { dst: Reg, offset: i16, imm: i32 }, )*
            // In the frame of the function: the offset is known to lie in it.
            $( $load_frame { dst: Reg, offset: i16 }, $store_frame { src: Reg, offset: i16 }, )*
            $( $store_frame_imm { offset: i16, imm: i32 }, )*
            $( $mr64 { dst: Reg, a: Reg, b: Reg }, $mk64 { dst: Reg, a: Reg, imm: i32 }, )*
            $( $mr32 { dst: Reg, a: Reg, b: Reg }, $mk32 { dst: Reg, a: Reg, imm: i32 }, )*
            $( $over64 { dst: Reg, imm: i32, skip: i32 }, $over32 { dst: Reg, imm: i32, skip: i32 }, )*
            $( $add64 { dst: Reg, by: i32, imm: i32, skip: i32 }, $add64_32 { dst: Reg, by: i32, imm: i32, skip: i32 }, )*
            $( $add32 { dst: Reg, by: i32, imm: i32, skip: i32 }, )*
            $( $set64 { to: Reg, value: i32, dst: Reg, imm: i32, skip: i32 }, )*
            $( $set32 { to: Reg, value: i32, dst: Reg, imm: i32, skip: i32 }, )*
            $( $and64 { dst: Reg, mask: i32, imm: i32, skip: i32 }, $and32 { dst: Reg, mask: i32, imm: i32, skip: i32 }, )*
            $( $mov_and { dst: Reg, a: Reg, mask: i32, imm: i32, skip: i32 }, )*
            $( $load_k8 { dst: Reg, src: Reg, offset: i16, imm: i32, skip: i32 }, )*
            $( $load_k16 { dst: Reg, src: Reg, offset: i16, imm: i32, skip: i32 }, )*
            $( $load_k32 { dst: Reg, src: Reg, offset: i16, imm: i32, skip: i32 }, )*
            $( $load_eq { dst: Reg, src: Reg, offset: i16, other: Reg, skip: i32 }, )*
            $( $load_ne { dst: Reg, src: Reg, offset: i16, other: Reg, skip: i32 }, )*
            $( $load_add { dst: Reg, src: Reg, offset: i16, to: Reg }, $load_xor { dst: Reg, src: Reg, offset: i16, to: Reg }, )*
            $( $load_sum { dst: Reg, a: Reg, b: Reg, offset: i16 }, )*
            // Two loads from one base, which the first leaves alone.
            $( $loads { src: Reg, dst: Reg, offset: i16, dst2: Reg, offset2: i16 }, )*
            // A move of an immediate, and two loads.
            $( $set_loads { to: Reg, value: i32, src: Reg, dst: Reg, offset: i16, dst2: Reg, offset2: i16 }, )*
            // Two loads and jumps to one target; `skip` counts from behind the second.
            $( $loads_ne { src: Reg, dst: Reg, offset: i16, other: Reg, dst2: Reg, offset2: i16, other2: Reg, skip: i32 }, )*
            $( $sum { dst: Reg, a: Reg, by: i32, other: Reg, skip: i32 }, )*
            /// Two moves.
            Moves { dst: Reg, src: Reg, dst2: Reg, src2: Reg },
            /// A load and its change of byte order.
            LoadSwap16 { dst: Reg, src: Reg, offset: i16 },
            LoadSwap32 { dst: Reg, src: Reg, offset: i16 },
            LoadSwap64 { dst: Reg, src: Reg, offset: i16 },
            /// A shift left, then right: moves bits and cuts off what is above them. With and without a move before.
            Cut64 { dst: Reg, left: u8, right: u8 },
            MovCut64 { dst: Reg, src: Reg, left: u8, right: u8 },
            SCut32 { dst: Reg, left: u8, right: u8 },
            MovSCut32 { dst: Reg, src: Reg, left: u8, right: u8 },
            /// A shift right and a mask: the bits of a field. With and without a move before.
            Field64 { dst: Reg, shift: u8, mask: i32 },
            MovField64 { dst: Reg, src: Reg, shift: u8, mask: i32 },
            Field32 { dst: Reg, shift: u8, mask: i32 },
            MovField32 { dst: Reg, src: Reg, shift: u8, mask: i32 },
            /// A move and a helper call.
            MovHelper { dst: Reg, src: Reg, number: u32 },
            /// A result and the end.
            Return { value: i32 },
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
            /// `clear`: bytes of the callee's frame that it may look at.
            Call { skip: i32, clear: u16 },
            CallRegister { dst: Reg },
            Exit,
        }
    };
}
tables!(define);

const _: () = assert!(size_of::<Op>() == 16, "ops are dense");

/// log2 of the bytes of an op.
pub(crate) const SHIFT: u32 = 4;
