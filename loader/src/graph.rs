//! The control flow graph of a linked program: which instructions run one after the other, and what may run behind them.

use std::collections::BTreeSet;

use tidegate_abi::Insn;
use tidegate_abi::insn::{class, jmp};

use crate::disasm::{self, Instruction};
use crate::object::{Object, Program};

/// Instructions that run one after the other, or not at all: calls come back, so they end none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its instructions; there is at least one.
    pub instructions: Vec<Instruction>,
    /// What may run next: nothing behind an exit.
    pub next: Vec<Edge>,
}

/// A way from one block to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The first slot of the block that it leads to.
    pub to: usize,
    /// When it is gone.
    pub way: Way,
}

/// When an [`Edge`] is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Every time.
    Always,
    /// When the condition holds.
    Taken,
    /// When it does not.
    Not,
}

impl Block {
    /// Its first slot.
    pub fn slot(&self) -> usize {
        self.instructions.first().map_or(0, |first| first.slot)
    }
}

/// The blocks of `program`, in the order of their slots. It need not have been verified: a jump to where no instruction starts
/// leads nowhere.
pub fn blocks(object: &Object, program: &Program) -> Vec<Block> {
    let all: Vec<_> = disasm::program(object, program).collect();
    let starts: BTreeSet<usize> = all.iter().map(|instruction| instruction.slot).collect();
    let next = |instruction: &Instruction| {
        let mut next = after(program, instruction);
        next.retain(|edge| starts.contains(&edge.to));
        next
    };
    let mut first: BTreeSet<usize> = program.functions.iter().map(|function| function.slot).collect();
    for instruction in all.iter().filter(|instruction| ends(program, instruction)) {
        first.insert(instruction.slot + instruction.slots);
        first.extend(next(instruction).iter().map(|edge| edge.to));
    }
    let mut blocks: Vec<Block> = Vec::new();
    for instruction in all {
        let next = next(&instruction);
        match blocks.last_mut().filter(|_| !first.contains(&instruction.slot)) {
            Some(block) => {
                block.instructions.push(instruction);
                block.next = next;
            }
            None => blocks.push(Block { instructions: vec![instruction], next }),
        }
    }
    blocks
}

/// The operation of a jump or an exit, and its instruction.
fn jump(program: &Program, slot: usize) -> Option<(u8, Insn)> {
    let insn = *program.insns.get(slot)?;
    let operation = insn.opcode & 0xf0;
    (matches!(insn.class(), class::JMP | class::JMP32) && operation != jmp::CALL).then_some((operation, insn))
}

fn ends(program: &Program, instruction: &Instruction) -> bool {
    jump(program, instruction.slot).is_some()
}

/// What may run behind an instruction, of the same function or not.
fn after(program: &Program, instruction: &Instruction) -> Vec<Edge> {
    let behind = instruction.slot + instruction.slots;
    let Some((operation, insn)) = jump(program, instruction.slot) else {
        // A function begins: what runs off the end of the one before does not run on there.
        let ends = program.functions.binary_search_by_key(&behind, |function| function.slot).is_ok();
        return if ends { Vec::new() } else { vec![Edge { to: behind, way: Way::Always }] };
    };
    let to = |distance: i64| usize::try_from(behind as i64 + distance).unwrap_or(usize::MAX);
    match operation {
        jmp::EXIT => Vec::new(),
        jmp::JA if insn.class() == class::JMP32 => vec![Edge { to: to(insn.imm.into()), way: Way::Always }],
        jmp::JA => vec![Edge { to: to(insn.offset.into()), way: Way::Always }],
        _ => vec![Edge { to: to(insn.offset.into()), way: Way::Taken }, Edge { to: behind, way: Way::Not }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &[u8] = include_bytes!("../tests/fixtures/features.o");

    /// A block as slots: of its instructions, and of what may run next.
    type Slots = (Vec<usize>, Vec<(usize, Way)>);

    /// The blocks of `insns`.
    fn shape(insns: &[Insn]) -> Vec<Slots> {
        let object = Object::parse(OBJECT).expect("the fixture loads");
        let mut program = object.programs()[0].clone();
        program.insns = insns.to_vec();
        program.functions.truncate(1);
        let blocks = blocks(&object, &program);
        let slots = |block: &Block| block.instructions.iter().map(|one| one.slot).collect();
        let next = |block: &Block| block.next.iter().map(|edge| (edge.to, edge.way)).collect();
        blocks.iter().map(|block| (slots(block), next(block))).collect()
    }

    const SET: Insn = Insn::new(0xb7, 0, 0, 0, 1);
    const EXIT: Insn = Insn::new(0x95, 0, 0, 0, 0);
    const CALL: Insn = Insn::new(0x85, 0, 0, 0, 5);

    const fn unless_zero(offset: i16) -> Insn {
        Insn::new(0x55, 0, 0, offset, 0)
    }

    #[test]
    fn blocks_end_with_jumps_and_where_one_leads_to() {
        use Way::{Always, Not, Taken};
        assert_eq!(shape(&[SET, CALL, EXIT]), [(vec![0, 1, 2], vec![])], "a call comes back");
        // 0: wide load, 2: if .. goto 4, 3: set, 4: set, 5: exit
        let wide = [Insn::new(0x18, 2, 0, 0, 1), Insn::new(0, 0, 0, 0, 2)];
        assert_eq!(
            shape(&[wide[0], wide[1], unless_zero(1), SET, SET, EXIT]),
            [(vec![0, 2], vec![(4, Taken), (3, Not)]), (vec![3], vec![(4, Always)]), (vec![4, 5], vec![])]
        );
        // 0: set, 1: if .. goto 1, 2: goto 1, by the long way
        let far = Insn::new(0x06, 0, 0, 0, -2);
        assert_eq!(
            shape(&[SET, unless_zero(-1), far]),
            [
                (vec![0], vec![(1, Always)]),
                (vec![1], vec![(1, Taken), (2, Not)]),
                (vec![2], vec![(1, Always)])
            ]
        );
    }

    #[test]
    fn a_jump_to_no_instruction_leads_nowhere() {
        let wide = [Insn::new(0x18, 2, 0, 0, 1), Insn::new(0, 0, 0, 0, 2)];
        let blocks = shape(&[unless_zero(1), wide[0], wide[1], unless_zero(i16::MIN), unless_zero(i16::MAX)]);
        let next: Vec<_> = blocks.into_iter().map(|(_, next)| next).collect();
        assert_eq!(next, [vec![(1, Way::Not)], vec![(4, Way::Not)], vec![]]);
        assert_eq!(shape(&[]), []);
    }

    #[test]
    fn what_a_compiler_made_is_in_blocks_that_begin_with_its_functions() {
        let object = Object::parse(OBJECT).expect("the fixture loads");
        for program in object.programs() {
            let blocks = blocks(&object, program);
            let first: Vec<_> = blocks.iter().map(Block::slot).collect();
            assert!(program.functions.iter().all(|function| first.contains(&function.slot)));
            let slots: usize = blocks.iter().flat_map(|block| &block.instructions).map(|one| one.slots).sum();
            assert_eq!(slots, program.insns.len(), "each is in one");
            for edge in blocks.iter().flat_map(|block| &block.next) {
                assert!(first.contains(&edge.to), "{edge:?}");
            }
        }
    }
}
