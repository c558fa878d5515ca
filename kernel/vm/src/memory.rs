//! Memory that a program may touch. The only place where an address of a program becomes a reference.
//!
//! Addresses in registers are real ones. What a program was given is a handful of spans: the bytes shown (read-only), its
//! context, its stack, and the memory of its maps. The checked engine holds every access against them. Maps may change
//! under a program, as under Linux's: a plain load that races with a store of another processor sees any mix of both.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64};

use tidegate_abi::{SendContext, StreamContext, limits};

use crate::Executable;
use crate::fault::{Cause, Fault};
use crate::op::SHIFT;
use crate::shared::Shared;

/// Memory of a map that programs get pointers into: words that live, unmoved, as long as anyone holds them.
#[derive(Debug)]
pub struct MapMemory {
    words: alloc::boxed::Box<[AtomicU64]>,
}

impl MapMemory {
    /// Zeroed memory of `words` 64-bit words; `None` when there is not so much.
    pub fn new(words: usize) -> Option<Shared<Self>> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(words).ok()?;
        memory.resize_with(words, AtomicU64::default);
        let memory = Self { words: memory.into_boxed_slice() };
        Shared::new(memory)
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// Address of the first byte, as programs see it.
    pub fn address(&self) -> u64 {
        self.words.as_ptr().expose_provenance() as u64
    }

    fn span(&self) -> Span {
        Span { start: self.address(), size: size_of_val(&*self.words) as u64 }
    }
}

/// What a program's map index stands for in one executable.
#[derive(Clone, Debug)]
pub struct MapBinding {
    /// What helpers get as their map argument. Never an address.
    pub handle: u64,
    /// Memory that pointers to the map's values or records lead to; an array's first value is at its start.
    pub memory: Option<Shared<MapMemory>>,
    /// Whether programs may write through such pointers.
    pub writable: bool,
}

/// The stack of one run: program frames and what calls save. The caller owns it (one for each processor, say), so that it
/// is not on a kernel stack. What a run finds in it does not matter.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Stack {
    saved: Saved,
    bytes: [u64; limits::STACK_SIZE / 8],
}

/// What a run keeps beside the frames of the program.
#[derive(Debug)]
pub(crate) struct Saved {
    frames: [Frame; limits::MAX_CALL_DEPTH],
    /// Calls that the program is in.
    pub(crate) depth: usize,
    /// Where the ops of the program are.
    pub(crate) ops: usize,
    /// What the budget came to at the end: bytes of ops, `ops` not yet added.
    pub(crate) left: i64,
    pub(crate) fault: Fault,
    /// Where the run was last, when it is one that is watched.
    pub(crate) path: Path,
}

/// The ops that a watched run came by last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    slots: [u32; Path::LENGTH],
    /// All that it came by.
    count: usize,
}

impl Path {
    const LENGTH: usize = limits::MAX_PATH;

    /// A run begins.
    pub(crate) fn begin(&mut self) {
        self.count = 0;
    }

    /// It comes by the op in `slot`.
    // Out of line, so that the engine stays small.
    #[inline(never)]
    pub(crate) fn visit(&mut self, slot: u32) {
        if let Some(place) = self.slots.get_mut(self.count % Self::LENGTH) {
            *place = slot;
        }
        self.count = self.count.wrapping_add(1);
    }

    fn read(&self) -> impl Iterator<Item = u32> {
        let first = self.count.saturating_sub(Self::LENGTH);
        (first..self.count).filter_map(|at| self.slots.get(at % Self::LENGTH).copied())
    }
}

/// What a call between functions of a program saves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frame {
    /// Slot to return to.
    pub(crate) back: u32,
    /// r6 to r9.
    pub(crate) saved: [u64; 4],
}

// Out of line, so that the engine's hot paths keep their registers.
impl Saved {
    /// Keeps what a call saves; returns the depth of the callee, or `None` when that is too deep.
    #[inline(never)]
    pub(crate) fn push(&mut self, frame: Frame) -> Option<usize> {
        let depth = self.depth + 1;
        if depth >= limits::MAX_CALL_DEPTH {
            return None;
        }
        *self.frames.get_mut(self.depth)? = frame;
        self.depth = depth;
        Some(depth)
    }

    /// What the innermost call saved; `None` in the entry function.
    #[inline(never)]
    pub(crate) fn pop(&mut self) -> Option<Frame> {
        self.depth = self.depth.checked_sub(1)?;
        self.frames.get(self.depth).copied()
    }
}

impl Stack {
    /// A stack.
    pub const fn new() -> Self {
        const FRAME: Frame = Frame { back: 0, saved: [0; 4] };
        let frames = [FRAME; limits::MAX_CALL_DEPTH];
        let path = Path { slots: [0; Path::LENGTH], count: 0 };
        let saved = Saved { frames, depth: 0, ops: 0, left: 0, fault: Fault::new(Cause::Budget), path };
        Self { bytes: [0; limits::STACK_SIZE / 8], saved }
    }

    /// Instructions of its budget that the last run left, when it had a result. A 64-bit load takes two, as it takes two
    /// slots. (Less than none when a run went over its budget on the last stretch, where nobody asks any more.)
    pub const fn left(&self) -> i64 {
        self.saved.left.wrapping_add_unsigned(self.saved.ops as u64) >> SHIFT
    }

    /// The slots that the last run which was [watched](Executable::run_watched) came by last, the oldest first: at most
    /// [`limits::MAX_PATH`]. Instructions that run as one have the slot of the first of them.
    pub fn path(&self) -> impl Iterator<Item = u32> {
        self.saved.path.read()
    }

    /// Why the last run had no result.
    #[cold]
    pub(crate) const fn fault(&self) -> Fault {
        self.saved.fault
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

/// What r1 of a program points to. Implemented for the contexts of the program types, and for [`Raw`] bytes.
pub trait Context: sealed::Expose {}

mod sealed {
    /// Keeps [`Context`](super::Context) to plain integers, which may take any bytes.
    pub trait Expose {
        /// Points the context at the bytes shown, and gives its address and size.
        fn expose(&mut self, window: &[u8]) -> (u64, u64);
    }
}

macro_rules! context {
    ($name:ty) => {
        impl Context for $name {}
        impl sealed::Expose for $name {
            #[inline]
            fn expose(&mut self, window: &[u8]) -> (u64, u64) {
                self.data = window.as_ptr().expose_provenance() as u64;
                self.data_end = self.data + window.len() as u64;
                (ptr::from_mut(self).expose_provenance() as u64, size_of::<Self>() as u64)
            }
        }
    };
}

context!(StreamContext);
context!(SendContext);

/// Bytes as a context: r1 is their address, r2 their number. For programs that were not written for a hook.
#[derive(Debug)]
pub struct Raw<'a>(pub &'a mut [u8]);

impl Context for Raw<'_> {}
impl sealed::Expose for Raw<'_> {
    fn expose(&mut self, _window: &[u8]) -> (u64, u64) {
        (self.0.as_mut_ptr().expose_provenance() as u64, self.0.len() as u64)
    }
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    size: u64,
}

impl Span {
    #[inline]
    const fn holds(self, address: u64, size: u64) -> bool {
        let offset = address.wrapping_sub(self.start);
        offset <= self.size && self.size - offset >= size
    }
}

/// A span in the form that quick checks want: an offset below `limit` has eight bytes of the span behind it.
#[derive(Clone, Copy, Debug)]
struct Quick {
    start: u64,
    limit: u64,
}

impl Quick {
    #[inline(always)]
    const fn of(span: Span) -> Self {
        Self { start: span.start, limit: span.size.saturating_sub(7) }
    }

    #[inline(always)]
    const fn holds(self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.limit
    }
}

/// What a program may touch during one run. Helpers read and write their memory arguments through it.
#[derive(Debug)]
pub struct Memory<'a> {
    window: Span,
    context: Span,
    stack: &'a mut Stack,
    program: &'a Executable,
    given: PhantomData<&'a mut [u8]>,
}

impl<'a> Memory<'a> {
    #[inline]
    pub(crate) fn new<C: Context>(
        window: &'a [u8],
        context: &'a mut C,
        stack: &'a mut Stack,
        program: &'a Executable,
    ) -> Self {
        let (start, size) = context.expose(window);
        let context = Span { start, size };
        let window = Span { start: window.as_ptr().expose_provenance() as u64, size: window.len() as u64 };
        let _ = stack.bytes.as_mut_ptr().expose_provenance();
        Self { window, context, stack, program, given: PhantomData }
    }

    /// Address and size of the context: what r1 and r2 are at the start.
    #[inline]
    pub(crate) fn context(&self) -> (u64, u64) {
        (self.context.start, self.context.size)
    }

    /// Address of the lowest byte of the stack.
    #[inline]
    pub(crate) fn stack(&self) -> u64 {
        self.stack.bytes.as_ptr().addr() as u64
    }

    /// The program that runs.
    #[inline]
    pub(crate) fn program(&self) -> &'a Executable {
        self.program
    }

    /// What the run keeps.
    #[inline]
    pub(crate) fn saved(&mut self) -> &mut Saved {
        &mut self.stack.saved
    }

    /// Gets what the run keeps ready, and the entry function's frame.
    #[inline(always)]
    pub(crate) fn start(&mut self) {
        let ops = self.program.ops().as_ptr().addr();
        let saved = self.saved();
        (saved.depth, saved.ops) = (0, ops);
        if self.program.clear != 0 {
            self.clear_entry();
        }
    }

    #[cold]
    #[inline(never)]
    fn clear_entry(&mut self) {
        self.clear_frame(0, self.program.clear);
    }

    /// Zeroes `bytes` at the end of the frame at call depth `depth`.
    #[inline(never)]
    pub(crate) fn clear_frame(&mut self, depth: usize, bytes: u16) {
        let size = usize::from(bytes);
        if size != 0 && depth < limits::MAX_CALL_DEPTH && size <= limits::STACK_FRAME {
            let end = self.stack() as usize + (depth + 1) * limits::STACK_FRAME;
            // SAFETY: the frame lies in the stack, which this borrows exclusively.
            unsafe { ptr::with_exposed_provenance_mut::<u8>(end - size).write_bytes(0, size) }
        }
    }

    /// The bytes shown.
    pub fn window(&self) -> &[u8] {
        // SAFETY: the span was made of a shared slice that lives and does not change for 'a.
        unsafe { slice(self.window.start, self.window.size as usize) }
    }

    /// Reads a helper's argument: `size` bytes at `address`.
    ///
    /// # Errors
    /// [`Cause::Access`] when they are not all the program's.
    pub fn read(&self, address: u64, size: usize) -> Result<&[u8], Fault> {
        self.check(address, size as u64, false)?;
        // SAFETY: the bytes lie in one span of live memory, and `&self` keeps `write` and the program away meanwhile.
        Ok(unsafe { slice(address, size) })
    }

    /// Gives a helper an argument to fill: `size` bytes at `address`.
    ///
    /// # Errors
    /// [`Cause::Access`] when they are not all the program's to write.
    pub fn write(&mut self, address: u64, size: usize) -> Result<&mut [u8], Fault> {
        self.check(address, size as u64, true)?;
        // SAFETY: the bytes lie in one span of live, writable memory, and `&mut self` is the only way to it meanwhile.
        Ok(unsafe {
            core::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(address as usize), size)
        })
    }

    fn check(&self, address: u64, size: u64, write: bool) -> Result<(), Fault> {
        match self.find(address, size, write) {
            Some(_) => Ok(()),
            None => Err(Cause::Access { address, size, write }.into()),
        }
    }

    /// The span that `size` bytes at `address` lie in, when they are the program's to read, or to write.
    fn find(&self, address: u64, size: u64, write: bool) -> Option<Span> {
        let maps = self.program.maps().iter().filter(|binding| binding.writable || !write);
        let maps = maps.filter_map(|binding| Some(binding.memory.as_ref()?.span()));
        let window = (!write).then_some(self.window);
        let stack = Span { start: self.stack(), size: limits::STACK_SIZE as u64 };
        let mut spans = [stack, self.context].into_iter().chain(window).chain(maps);
        spans.find(|span| span.holds(address, size)).filter(|_| address != 0)
    }

    #[inline(never)]
    fn find_quick(&self, address: u64, size: u64, write: bool) -> Option<Quick> {
        self.find(address, size, write).map(Quick::of)
    }
}

/// How an engine touches memory. `CHECKED` ones refuse what is not the program's; the others rely on the verifier's proof.
pub(crate) struct Access<const CHECKED: bool> {
    /// The window, for loads.
    window: Quick,
    /// Where a load that was not in the window found its bytes last.
    read: Quick,
    /// Where a store found its bytes last.
    written: Quick,
}

impl<const CHECKED: bool> Access<CHECKED> {
    #[inline(always)]
    pub(crate) fn new(memory: &Memory<'_>) -> Self {
        // Programs load from their context first. Nothing is stored yet; a start that is at hand costs least.
        let read = Quick::of(memory.context);
        Self { window: Quick::of(memory.window), read, written: Quick { limit: 0, ..read } }
    }

    /// Loads a number.
    #[inline(always)]
    pub(crate) fn load<T: Number>(&mut self, memory: &Memory<'_>, address: u64) -> Option<T> {
        if CHECKED && !self.window.holds(address) && !self.read.holds(address) {
            self.read = memory.find_quick(address, size_of::<T>() as u64, false)?;
        }
        // SAFETY: the bytes are the program's: just checked, or proven by the verifier for this instruction.
        Some(unsafe { ptr::with_exposed_provenance::<T>(address as usize).read_unaligned() })
    }

    /// Loads the first of two numbers that lie within eight bytes, and says whether those are known to be the program's.
    #[inline(always)]
    pub(crate) fn load_first<T: Number>(&mut self, memory: &Memory<'_>, address: u64) -> Option<(T, bool)> {
        let value = self.load(memory, address)?;
        Some((value, !CHECKED || self.window.holds(address) || self.read.holds(address)))
    }

    /// Loads the second, at `address`; the fusing has seen that it is no further than that, where it fits at all.
    #[inline(always)]
    pub(crate) fn load_second<T: Number>(
        &mut self,
        memory: &Memory<'_>,
        address: u64,
        known: bool,
    ) -> Option<T> {
        if !known || size_of::<T>() == 8 {
            return self.load(memory, address);
        }
        // SAFETY: the bytes are among the eight that `load_first` found to be the program's.
        Some(unsafe { ptr::with_exposed_provenance::<T>(address as usize).read_unaligned() })
    }

    /// Stores a number.
    #[inline(always)]
    pub(crate) fn store<T: Number>(&mut self, memory: &mut Memory<'_>, address: u64, value: T) -> Option<()> {
        self.may_write(memory, address, size_of::<T>())?;
        // SAFETY: as for loads, and writable.
        unsafe { ptr::with_exposed_provenance_mut::<T>(address as usize).write_unaligned(value) };
        Some(())
    }

    /// The cell of an atomic operation, at an aligned address.
    #[inline(always)]
    pub(crate) fn atomic<'a, T: Number>(
        &mut self,
        memory: &'a mut Memory<'_>,
        address: u64,
    ) -> Result<&'a T::Atomic, Cause> {
        let size = size_of::<T>() as u64;
        if !address.is_multiple_of(size) {
            return Err(Cause::Unaligned { address });
        }
        let ours = self.may_write(memory, address, size as usize);
        ours.ok_or(Cause::Access { address, size, write: true })?;
        // SAFETY: aligned, and writable memory of the program as for stores.
        Ok(unsafe { &*ptr::with_exposed_provenance::<T::Atomic>(address as usize) })
    }

    #[inline(always)]
    fn may_write(&mut self, memory: &Memory<'_>, address: u64, size: usize) -> Option<()> {
        if CHECKED && !self.written.holds(address) {
            self.written = memory.find_quick(address, size as u64, true)?;
        }
        Some(())
    }

    /// Loads a number from the frame that ends at `frame`; the decoder has seen that `offset` lies in it.
    #[inline(always)]
    pub(crate) fn load_frame<T: Number>(&self, _: &Memory<'_>, frame: u64, offset: i16) -> T {
        let address = frame.wrapping_add_signed(offset.into()) as usize;
        // SAFETY: r10 is the end of a frame of the stack at all times, and the offset lies in the frame.
        unsafe { ptr::with_exposed_provenance::<T>(address).read_unaligned() }
    }

    /// Stores a number to the frame that ends at `frame`; the decoder has seen that `offset` lies in it.
    #[inline(always)]
    pub(crate) fn store_frame<T: Number>(&self, _: &mut Memory<'_>, frame: u64, offset: i16, value: T) {
        let address = frame.wrapping_add_signed(offset.into()) as usize;
        // SAFETY: as for loads.
        unsafe { ptr::with_exposed_provenance_mut::<T>(address).write_unaligned(value) };
    }
}

/// # Safety
/// The bytes must be live, and nobody may write them through another way for `'a`.
unsafe fn slice<'a>(address: u64, size: usize) -> &'a [u8] {
    // SAFETY: what this function asks for.
    unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(address as usize), size) }
}

/// The sizes of memory accesses.
pub(crate) trait Number: Copy {
    type Atomic;
}

impl Number for u8 {
    type Atomic = ();
}
impl Number for u16 {
    type Atomic = ();
}
impl Number for u32 {
    type Atomic = AtomicU32;
}
impl Number for u64 {
    type Atomic = AtomicU64;
}
