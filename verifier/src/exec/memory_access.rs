//! Loads, stores and atomics: what a pointer points into, and whether it stays there.

use tidegate_abi::helper::Capability;
use tidegate_abi::insn::{class, mode};
use tidegate_abi::limits::STACK_FRAME;
use tidegate_abi::{FieldKind, Insn};

use super::{Machine, Stop};
use crate::Proven;
use crate::domain::Scalar;
use crate::needs::{access_size, slots};
use crate::refusal::{Known, Leak, Reason};
use crate::state::{PointerBytes, State, offset};
use crate::structure::AtomicOp;
use crate::value::{FLAGS, Kind, Value};

/// Memory that an instruction or a helper touches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) register: u8,
    /// The pointer.
    pub(super) pointer: Value,
    /// Bytes from the pointer to the first byte touched.
    pub(super) offset: i64,
    /// Bytes touched at most.
    pub(super) size: u32,
    pub(super) write: bool,
}

impl Span {
    fn known(&self) -> Known {
        Known::of(self.register, &self.pointer)
    }

    /// Distances of the first byte from the base of the pointer, least and most.
    pub(super) fn start(&self) -> Scalar {
        offset(&self.pointer.num, self.offset)
    }
}

impl Machine<'_> {
    /// Whether memory may be touched.
    #[inline(never)]
    pub(super) fn check_span(&mut self, state: &State, span: &Span) -> Result<(), Stop> {
        let known = span.known();
        if span.pointer.nullable {
            return Err(self.refuse(Reason::MaybeNull { known }));
        }
        match span.pointer.kind {
            Kind::Window if span.write => Err(self.refuse(Reason::ReadOnly { known })),
            Kind::Window => {
                self.capabilities.0 |= Capability::SEE_PAYLOAD.0;
                self.check_window(state, span)
            }
            Kind::Stack(_) => self.check_bounds(span, -(STACK_FRAME as i64), 0),
            Kind::MapValue(index) => {
                let map = self.map(index)?;
                if span.write && map.read_only() {
                    return Err(self.refuse(Reason::ReadOnly { known }));
                }
                self.check_bounds(span, 0, map.value_size.into())
            }
            Kind::Record(size) => self.check_bounds(span, 0, size.into()),
            Kind::Context => self.check_context(span),
            _ => Err(self.refuse(Reason::NotMemory { known })),
        }
    }

    fn check_bounds(&self, span: &Span, from: i64, to: i64) -> Result<(), Stop> {
        let start = span.start();
        let inside = start.smin() >= from && start.smax() <= to - i64::from(span.size);
        if inside {
            return Ok(());
        }
        let (min, max) = (start.smin(), start.smax());
        Err(self.refuse(Reason::OutOfBounds { known: span.known(), size: span.size, min, max, from, to }))
    }

    /// A helper may read the context, but not its pointers.
    fn check_context(&self, span: &Span) -> Result<(), Stop> {
        let program_type = self.program.program_type;
        let known = span.known();
        if span.write {
            return Err(self.refuse(Reason::ReadOnly { known }));
        }
        self.check_bounds(span, 0, program_type.context_size() as i64)?;
        let (from, to) = (span.start().smin(), span.start().smax() + i64::from(span.size));
        let pointers = program_type.fields().iter().any(|field| {
            let touched = from < (field.offset + field.size) as i64 && (field.offset as i64) < to;
            touched && matches!(field.kind, FieldKind::Data | FieldKind::DataEnd)
        });
        if pointers {
            Err(self.refuse(Reason::PointerLeak { known, to: Leak::HelperMemory }))
        } else {
            Ok(())
        }
    }

    #[inline(never)]
    fn check_window(&self, state: &State, span: &Span) -> Result<(), Stop> {
        let start = span.start();
        let size = i64::from(span.size);
        let reach = state.reach(span.pointer.symbol);
        let end = span.pointer.delta + span.offset + size;
        let named = reach.is_some_and(|reach| end <= reach);
        let whole = state.reach(0).unwrap_or(0);
        let counted = start.smax() <= whole - size;
        if start.smin() >= 0 && (named || counted) {
            return Ok(());
        }
        // What was compared, counted from the pointer's own first byte.
        let compared = match reach {
            Some(reach) if span.pointer.symbol != 0 => Some(reach - span.pointer.delta),
            _ => None,
        };
        let (min, max) = (start.smin(), start.smax());
        let named = compared.is_some_and(|compared| compared > 0);
        Err(self.refuse(Reason::PacketBounds {
            known: span.known(),
            size: span.size,
            min,
            max,
            at: span.offset,
            whole,
            compared,
            since: state.compared_at(if named { span.pointer.symbol } else { 0 }),
        }))
    }

    fn prove(&mut self, slot: usize) {
        self.facts.add(slot, Proven::ACCESS);
    }

    #[inline(never)]
    pub(super) fn load(&mut self, state: &mut State, slot: usize, insn: Insn) -> Result<(), Stop> {
        let pointer = self.read(state, insn.src())?;
        let size = access_size(insn.opcode);
        let signed = insn.opcode & 0xe0 == mode::MEMSX;
        let span = Span {
            register: insn.src(),
            pointer,
            offset: insn.offset.into(),
            size: size.into(),
            write: false,
        };
        let loaded = if pointer.kind == Kind::Context {
            self.load_field(&span, signed)?
        } else {
            self.check_span(state, &span)?;
            self.loaded_from_stack(state, slot, &span)?
        };
        let width = u32::from(size) * 8;
        let value = match loaded {
            Some(value) if !signed => value,
            Some(value) => self.number(value.num.sign_extend(width)),
            None if signed => self.number(Scalar::UNKNOWN.sign_extend(width)),
            None => self.number(Scalar::of_width(width)),
        };
        self.prove(slot);
        self.write(state, insn.dst(), value, slot);
        Ok(())
    }

    fn loaded_from_stack(&self, state: &State, slot: usize, span: &Span) -> Result<Option<Value>, Stop> {
        let Kind::Stack(frame) = span.pointer.kind else { return Ok(None) };
        self.expect_read(state, slot, frame, span)?;
        let start = span.start();
        match start.value() {
            Some(offset) => state
                .stack_load(frame, offset as i64, span.size as u16)
                .map_err(|PointerBytes| self.refuse(Reason::PointerBytes)),
            None if state.stack_has_pointer(frame, start.smin(), start.smax() + i64::from(span.size)) => {
                Err(self.refuse(Reason::PointerBytes))
            }
            None => Ok(None),
        }
    }

    /// A pointer on the stack that nothing seemed to read may be forgotten, and what is forgotten is taken for a number: no
    /// instruction may read what the analysis before the walk did not see it read. Frames of callers forget nothing.
    fn expect_read(&self, state: &State, slot: usize, frame: u8, span: &Span) -> Result<(), Stop> {
        let start = span.start();
        let need = self.needs.get(slot).copied().unwrap_or_default();
        let seen = slots(start.smin(), start.smax() + i64::from(span.size));
        if frame == state.frame() && seen & !need.live_slots != 0 {
            Err(self.refuse(Reason::PointerBytes))
        } else {
            Ok(())
        }
    }

    /// A load from the context: one field, by its exact size, or a naturally aligned piece of bytes.
    fn load_field(&self, span: &Span, signed: bool) -> Result<Option<Value>, Stop> {
        let field = self.field(span)?;
        let flags = self.program.program_type.no_more_data();
        match field.kind {
            FieldKind::Scalar if !signed && flags.is_some_and(|(offset, _)| offset == field.offset) => {
                Ok(Some(Value::number(Scalar::of_width(span.size * 8)).named(FLAGS)))
            }
            FieldKind::Data if !signed => Ok(Some(Value::pointer(Kind::Window))),
            FieldKind::DataEnd if !signed => Ok(Some(Value::pointer(Kind::WindowEnd))),
            _ => Ok(None),
        }
    }

    fn field(&self, span: &Span) -> Result<&'static tidegate_abi::Field, Stop> {
        let program_type = self.program.program_type;
        let size = span.size as usize;
        let start = span.start().value().unwrap_or(u64::MAX) as i64;
        let at = usize::try_from(start).unwrap_or(usize::MAX);
        let field = program_type.fields().iter().find(|field| match field.kind {
            FieldKind::Bytes => {
                at.is_multiple_of(size)
                    && at >= field.offset
                    && at.saturating_add(size) <= field.offset + field.size
            }
            _ => at == field.offset && size == field.size,
        });
        field.ok_or_else(|| self.refuse(Reason::NoSuchField { program_type, offset: start, size: span.size }))
    }

    #[inline(never)]
    pub(super) fn store(&mut self, state: &mut State, slot: usize, insn: Insn) -> Result<(), Stop> {
        let pointer = self.read(state, insn.dst())?;
        let span = Span {
            register: insn.dst(),
            pointer,
            offset: insn.offset.into(),
            size: access_size(insn.opcode).into(),
            write: true,
        };
        if insn.opcode & 0xe0 == mode::ATOMIC {
            self.atomic(state, slot, insn, &span)?;
        } else {
            let value = if insn.class() == class::ST {
                Value { since: slot as u32, ..Value::constant(i64::from(insn.imm) as u64) }
            } else {
                self.read(state, insn.src())?
            };
            if pointer.kind == Kind::Context {
                self.store_field(insn, &span, &value)?;
            } else {
                self.check_span(state, &span)?;
                self.store_value(state, insn, &span, &value)?;
            }
        }
        self.prove(slot);
        Ok(())
    }

    #[inline(never)]
    fn store_field(&self, insn: Insn, span: &Span, value: &Value) -> Result<(), Stop> {
        let field = self.field(span)?;
        if !field.writable {
            return Err(self.refuse(Reason::FieldReadOnly { name: field.name }));
        }
        if !value.is_number() {
            let known = Known::of(insn.src(), value);
            return Err(self.refuse(Reason::PointerLeak { known, to: Leak::Context }));
        }
        Ok(())
    }

    /// A store where the program may write.
    #[inline(never)]
    fn store_value(&mut self, state: &mut State, insn: Insn, span: &Span, value: &Value) -> Result<(), Stop> {
        let known = Known::of(insn.src(), value);
        let Kind::Stack(frame) = span.pointer.kind else {
            if value.is_number() {
                return Ok(());
            }
            let to = if matches!(span.pointer.kind, Kind::Record(_)) { Leak::Record } else { Leak::MapValue };
            return Err(self.refuse(Reason::PointerLeak { known, to }));
        };
        let whole = span.size == 8;
        let start = span.start();
        match start.value() {
            Some(_) if !value.is_number() && !whole => Err(self.refuse(Reason::PointerBytes)),
            Some(offset)
                if value.is_number() && (span.size < 4 || offset as i64 % i64::from(span.size) != 0) =>
            {
                // Bytes of a text are not worth a memory: each would make paths differ.
                let (from, to) = (offset as i64, offset as i64 + i64::from(span.size));
                Ok(state.stack_clobber(frame, from, to, true, self.memory)?)
            }
            Some(offset) => {
                let width = span.size * 8;
                let stored = match value.num.zero_extend(width) {
                    same if whole || same == value.num => *value,
                    narrow => self.number(narrow),
                };
                Ok(state.stack_store(frame, offset as i64, span.size as u16, stored, self.memory)?)
            }
            None if !value.is_number() => Err(self.refuse(Reason::PointerPlace { known })),
            None => {
                let (from, to) = (start.smin(), start.smax() + i64::from(span.size));
                Ok(state.stack_clobber(frame, from, to, false, self.memory)?)
            }
        }
    }

    #[inline(never)]
    fn atomic(&mut self, state: &mut State, slot: usize, insn: Insn, span: &Span) -> Result<(), Stop> {
        let operation =
            AtomicOp::of(insn).ok_or_else(|| self.refuse(Reason::UnknownAtomic { imm: insn.imm }))?;
        let operands: &[u8] =
            if operation == AtomicOp::CompareExchange { &[insn.src(), 0] } else { &[insn.src()] };
        for register in operands {
            let value = self.read(state, *register)?;
            if !value.is_number() {
                return Err(self.refuse(Reason::PointerMath { known: Known::of(*register, &value) }));
            }
        }
        let known = span.known();
        match span.pointer.kind {
            Kind::Stack(_) | Kind::MapValue(_) | Kind::Record(_) => {}
            Kind::Window | Kind::Context => return Err(self.refuse(Reason::ReadOnly { known })),
            _ => return Err(self.refuse(Reason::NotMemory { known })),
        }
        self.check_span(state, span)?;
        let start = span.start();
        let bits = start.bits();
        if (bits.value | bits.mask) & u64::from(span.size - 1) != 0 {
            return Err(self.refuse(Reason::Unaligned { known, size: span.size }));
        }
        if let Kind::Stack(frame) = span.pointer.kind {
            self.expect_read(state, slot, frame, span)?;
            let (from, to) = (start.smin(), start.smax() + i64::from(span.size));
            if state.stack_has_pointer(frame, from, to) {
                return Err(self.refuse(Reason::PointerBytes));
            }
            state.stack_clobber(frame, from, to, true, self.memory)?;
        }
        let fetched = match operation {
            AtomicOp::CompareExchange => Some(0),
            operation => operation.fetches_into_src().then_some(insn.src()),
        };
        if let Some(register) = fetched {
            let value = self.number(Scalar::of_width(span.size * 8));
            self.write(state, register, value, slot);
        }
        Ok(())
    }
}
