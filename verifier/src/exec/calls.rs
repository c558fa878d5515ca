//! Calls: of helpers, by the table's kinds of arguments, and of functions of the program.

use tidegate_abi::helper::{self, Arg, Effect, Helper, Resource, Ret};
use tidegate_abi::insn::source;
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_abi::{Insn, MapDef};

use super::memory_access::Span;
use super::{Flow, Machine, Stop};
use crate::domain::Scalar;
use crate::refusal::{Known, Leak, Reason};
use crate::state::{Held, State, Told};
use crate::structure;
use crate::value::{Kind, Value};

/// What the arguments of a call say about its result.
#[derive(Default)]
struct Given {
    map: Option<u8>,
    size: u32,
    release: Option<u32>,
}

impl Machine<'_> {
    /// Calls a function of the program.
    #[inline(never)]
    pub(super) fn call(
        &mut self,
        state: &mut State,
        slot: usize,
        insn: Insn,
        next: usize,
    ) -> Result<Flow, Stop> {
        let target = if insn.opcode & source::X != 0 {
            let value = self.read(state, insn.dst())?;
            let known = Known::of(insn.dst(), &value);
            match value.kind {
                Kind::Code(target) => target as usize,
                _ => return Err(self.refuse(Reason::NotAFunction { known })),
            }
        } else {
            structure::function_target(slot, insn)
                .and_then(|target| usize::try_from(target).ok())
                .unwrap_or(0)
        };
        self.enter(state, next)?;
        Ok(Flow::Go(target))
    }

    fn enter(&mut self, state: &mut State, back: usize) -> Result<(), Stop> {
        let need = self.needs.get(back).copied().unwrap_or_default();
        for register in 6..10 {
            if need.live & 1 << register == 0 {
                state.set(register, Value::NOTHING);
            }
        }
        let is_stack = |value: &Value| matches!(value.kind, Kind::Stack(_));
        let shared = (1..6).any(|register| is_stack(&state.reg(register)))
            || state.entries.iter().any(|entry| is_stack(&entry.value));
        if !shared {
            state.forget_stack(&need);
        }
        if !state.enter(back as u32, self.memory)? {
            return Err(self.refuse(Reason::CallDepth));
        }
        self.frames = self.frames.max(state.frame() + 1);
        Ok(())
    }

    #[inline(never)]
    pub(super) fn call_helper(&mut self, state: &mut State, slot: usize, number: u32) -> Result<(), Stop> {
        let helper = helper::by_number(number).ok_or_else(|| self.refuse(Reason::NoSuchHelper { number }))?;
        let program_type = self.program.program_type;
        if !helper.program_types.contains(program_type) {
            return Err(self.refuse(Reason::HelperForbidden { helper: helper.name, program_type }));
        }
        self.capabilities.0 |= helper.capability.0;
        let mut given = Given::default();
        for index in 0..helper.params.len() {
            self.argument(state, helper, index, &mut given)?;
        }
        self.facts.called(slot, state);
        self.effect(state, helper)?;
        if let Some(symbol) = given.release {
            state.release(symbol, slot as u32);
        }
        for register in 0..6 {
            state.set(register, Value::NOTHING);
        }
        let result = self.result(state, slot, helper, &given)?;
        self.write(state, 0, result, slot);
        Ok(())
    }

    /// What the call does to what is shown; its arguments were judged.
    #[inline(never)]
    fn effect(&mut self, state: &mut State, helper: &'static Helper) -> Result<(), Stop> {
        let number = |param: usize| state.reg(param as u8 + 1).num;
        match helper.effect() {
            Effect::None => {}
            Effect::Replace => state.told.add(Told::INJECTED),
            Effect::Beside { size } => self.brought += size.map_or(0, |size| number(size).umax()),
            Effect::Edit { offset, remove, size } => {
                let from = number(offset).umin();
                let to = from.saturating_add(remove.map_or(0, |remove| number(remove).umin()));
                if to > MAX_WINDOW as u64 {
                    return Err(self.refuse(Reason::EditOutside { helper: helper.name, from, to }));
                }
                self.brought += size.map_or(0, |size| number(size).umax());
            }
        }
        Ok(())
    }

    fn argument(
        &mut self,
        state: &mut State,
        helper: &'static Helper,
        index: usize,
        given: &mut Given,
    ) -> Result<(), Stop> {
        let Some(param) = helper.params.get(index) else { return Ok(()) };
        let register = index as u8 + 1;
        let value = self.read(state, register)?;
        let known = Known::of(register, &value);
        let wrong = |wanted| Reason::Argument { helper: helper.name, param: param.name, wanted, known };
        let number = |wanted| if value.is_number() { Ok(value.num) } else { Err(self.refuse(wrong(wanted))) };
        match param.arg {
            Arg::Context if value.kind == Kind::Context && value.num.value() == Some(0) => Ok(()),
            Arg::Context => Err(self.refuse(wrong("the context, unchanged"))),
            Arg::Scalar if value.kind.is_pointer() => {
                Err(self.refuse(Reason::PointerLeak { known, to: Leak::Helper }))
            }
            Arg::Scalar => Ok(()),
            Arg::Flags(mask) => match number("flags that are known at load")?.value() {
                Some(flags) if flags & !mask == 0 => Ok(()),
                Some(_) => Err(self.refuse(wrong("flags that the helper knows"))),
                None => Err(self.refuse(wrong("flags that are known at load"))),
            },
            Arg::Map(kinds) => match value.kind {
                Kind::Map(map) if kinds.contains(self.map(map)?.kind) => {
                    given.map = Some(map);
                    Ok(())
                }
                Kind::Map(_) => Err(self.refuse(wrong("a map of another kind"))),
                _ => Err(self.refuse(wrong("a map"))),
            },
            Arg::MapKey => {
                let size = self.given_map(given)?.key_size;
                self.readable(state, register, value, size)
            }
            Arg::MapValue => {
                let size = self.given_map(given)?.value_size;
                self.readable(state, register, value, size)
            }
            // Judged with the size behind it.
            Arg::Readable | Arg::Writable => Ok(()),
            Arg::Size { min, max } => {
                let size = number("a size")?;
                if size.umin() < min.into() || size.umax() > max.into() {
                    return Err(self.refuse(Reason::ArgumentSize {
                        helper: helper.name,
                        param: param.name,
                        min,
                        max,
                        known,
                    }));
                }
                let memory = helper.params.get(index.wrapping_sub(1)).map(|param| param.arg);
                let pointer = self.read(state, register - 1)?;
                self.sized(state, register - 1, pointer, &value, memory == Some(Arg::Writable))
            }
            Arg::ConstSize => match number("a size that is known at load")?.value() {
                Some(size) if size > 0 && size <= i32::MAX as u64 => {
                    given.size = size as u32;
                    Ok(())
                }
                _ => Err(self.refuse(wrong("a size above zero that is known at load"))),
            },
            Arg::Borrow(resource) | Arg::Consume(resource) => {
                let right = match resource {
                    Resource::Record => matches!(value.kind, Kind::Record(_)) && value.num.value() == Some(0),
                    Resource::Clone => value.kind == Kind::Clone,
                };
                if value.nullable {
                    return Err(self.refuse(Reason::MaybeNull { known }));
                }
                if !right {
                    return Err(self.refuse(wrong(match resource {
                        Resource::Record => "a record's start, as it was reserved",
                        Resource::Clone => "a clone",
                    })));
                }
                if matches!(param.arg, Arg::Consume(_)) {
                    given.release = Some(value.symbol);
                }
                Ok(())
            }
        }
    }

    fn given_map(&self, given: &Given) -> Result<&MapDef, Stop> {
        self.map(given.map.unwrap_or(u8::MAX))
    }

    #[inline(never)]
    fn readable(&mut self, state: &State, register: u8, pointer: Value, size: u32) -> Result<(), Stop> {
        let span = Span { register, pointer, offset: 0, size, write: false };
        self.check_span(state, &span)?;
        self.no_pointers(state, &span)
    }

    fn no_pointers(&self, state: &State, span: &Span) -> Result<(), Stop> {
        let start = span.start();
        match span.pointer.kind {
            Kind::Stack(frame)
                if state.stack_has_pointer(frame, start.smin(), start.smax() + i64::from(span.size)) =>
            {
                Err(self.refuse(Reason::PointerLeak {
                    known: Known::of(span.register, &span.pointer),
                    to: Leak::HelperMemory,
                }))
            }
            _ => Ok(()),
        }
    }

    /// Memory with a size that may not be known exactly.
    #[inline(never)]
    fn sized(
        &mut self,
        state: &mut State,
        register: u8,
        pointer: Value,
        size: &Value,
        write: bool,
    ) -> Result<(), Stop> {
        let most = size.num.umax() as u32;
        if most == 0 && pointer.is_number() && pointer.known() == Some(0) {
            return Ok(());
        }
        let span = Span { register, pointer, offset: 0, size: most, write };
        if let Err(reason) = self.check_span(state, &span) {
            // A variable length may have been compared together with the pointer.
            let named = !write && self.compared_together(state, &pointer, size);
            if !named {
                return Err(reason);
            }
        }
        if !write {
            return self.no_pointers(state, &span);
        }
        if let Kind::Stack(frame) = pointer.kind {
            let start = span.start();
            let (from, to) = (start.smin(), start.smax() + i64::from(most));
            let certain = start.value().is_some() && size.num.value().is_some();
            state.stack_clobber(frame, from, to, certain, self.memory)?;
        }
        Ok(())
    }

    /// Whether `pointer + size` is known to lie inside the bytes shown.
    fn compared_together(&self, state: &State, pointer: &Value, size: &Value) -> bool {
        if pointer.kind != Kind::Window || pointer.num.smin() < 0 {
            return false;
        }
        if let Some((place, at)) = size.remaining() {
            return place == pointer.symbol && pointer.delta <= at && size.num.smin() >= 0;
        }
        let Some((symbol, delta)) = size.plain() else { return false };
        let sum = state.find_sum(pointer.symbol, symbol);
        let reach = sum.and_then(|sum| state.reach(sum));
        reach.is_some_and(|reach| pointer.delta + delta <= reach)
    }

    #[inline(never)]
    fn result(
        &mut self,
        state: &mut State,
        slot: usize,
        helper: &'static Helper,
        given: &Given,
    ) -> Result<Value, Stop> {
        let kind = match helper.ret {
            Ret::Scalar => return Ok(self.number(Scalar::UNKNOWN)),
            Ret::Range { min, max } => return Ok(self.number(Scalar::signed_between(min, max))),
            Ret::Void => return Ok(Value::NOTHING),
            Ret::MapValueOrNull => Kind::MapValue(given.map.unwrap_or(u8::MAX)),
            Ret::RecordOrNull => Kind::Record(given.size),
            Ret::CloneOrNull => Kind::Clone,
        };
        let symbol = self.fresh();
        if let Some(resource) = helper.acquires() {
            let held = Held { symbol, resource, since: slot as u32 };
            if !state.acquire(held, self.memory)? {
                return Err(self.refuse(Reason::TooManyHeld));
            }
        }
        Ok(Value { nullable: true, symbol, ..Value::pointer(kind) })
    }
}
