//! What a program can ask of the packet: edits, clones, searching and copying. Everything else is the runtime's.

use tidegate_abi::{Verdict, errno, helper, limits};
use tidegate_runtime::{Calls, Link, RunError, Sight};
use tidegate_vm::{Cause, Context, Fault, Host, Memory, Stack};

use crate::ask::Ask;
use crate::edit::Changes;
use crate::envelope::Envelope;
use crate::flow::Marks;
use crate::search;

/// Which edits of the bytes shown can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Editable {
    /// None: a helper that would edit answers `EOPNOTSUPP`.
    No,
    /// Those that put as many bytes as they remove.
    SameLength,
    /// All.
    Yes,
}

/// What became of the program's clone. A clone is a plan of edits: the packet is touched when the run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clone {
    /// There is none.
    None,
    /// The program holds it.
    Held,
    /// It is to be injected.
    Injected,
}

/// The only clone that a run holds at a time, as a program sees it: a number that is no address.
const CLONE: u64 = 1;
const _: () = assert!(limits::MAX_CLONES == 1);

/// Answers the helper calls of runs that are shown the same bytes, one after the other.
pub(crate) struct PacketHost<'r> {
    calls: Calls<'r>,
    about: About<'r>,
    changes: &'r mut Changes,
    clone: Clone,
}

/// What is shown.
pub(crate) enum About<'r> {
    Stream(&'r Ask<'r>),
    Packet {
        window: &'r [u8],
        /// Number of its connection; 0 for none.
        flow: u64,
        editable: Editable,
        /// What its envelope becomes, if it has one.
        envelope: Option<&'r mut Envelope>,
    },
}

impl<'r> PacketHost<'r> {
    /// A host for runs that are shown something; `calls` are those of the first. What `changes` has is forgotten.
    #[inline]
    pub(crate) fn new(calls: Calls<'r>, about: About<'r>, changes: &'r mut Changes) -> Self {
        changes.clear();
        Self { calls, about, changes, clone: Clone::None }
    }

    /// Runs a link on this processor, which is shown `window`. What the run before wanted changed was forgotten.
    #[inline(always)]
    pub(crate) fn run<C: Context>(
        &mut self,
        link: &'r Link,
        stack: &mut Stack,
        context: &mut C,
        window: &'r [u8],
        processor: u32,
    ) -> Result<Verdict, RunError> {
        self.calls.turn_to(link);
        link.run(self, stack, context, window, processor)
    }

    /// As [`run`](Self::run), and `sight` is had of it, which says how a run without a verdict ended. Slower.
    #[cold]
    #[inline(never)]
    pub(crate) fn run_watched<C: Context>(
        &mut self,
        link: &'r Link,
        stack: &mut Stack,
        context: &mut C,
        window: &'r [u8],
        processor: u32,
        sight: &mut Sight,
    ) -> Option<Verdict> {
        self.calls.turn_to(link);
        let ended = link.run_watched(&mut Watched { host: self, sight }, stack, context, window, processor);
        sight.ended(&ended, stack);
        ended.ok()
    }

    /// Notes what a helper looked up.
    #[cold]
    #[inline(never)]
    fn note(&self, number: u32, args: [u64; 5], result: u64, memory: &Memory<'_>, sight: &mut Sight) {
        match number {
            helper::MAP_LOOKUP_ELEM => {
                let [map, key, ..] = args;
                if let Ok(key) = memory.read(key, self.calls.key_size(map)) {
                    self.calls.note(map, key, result, memory, sight);
                }
            }
            helper::FLOW_STORAGE_GET => {
                let [_, map, ..] = args;
                self.calls.note(map, &self.flow().to_le_bytes(), result, memory, sight);
            }
            _ => {}
        }
    }

    #[inline]
    pub(crate) fn window(&self) -> &'r [u8] {
        match self.about {
            About::Stream(ask) => ask.window,
            About::Packet { window, .. } => window,
        }
    }

    fn editable(&self) -> Editable {
        match self.about {
            About::Stream(ask) => ask.editable(),
            About::Packet { editable, .. } => editable,
        }
    }

    /// What the run wants changed.
    #[inline]
    pub(crate) fn changes(&self) -> &Changes {
        self.changes
    }

    /// Whether the run wants the packet that is shown to be another one.
    pub(crate) fn edits(&self) -> bool {
        let resends = match &self.about {
            About::Packet { envelope: Some(envelope), .. } => !envelope.is_empty(),
            _ => false,
        };
        resends || !self.changes.edits.is_empty()
    }

    /// Forgets what it wants changed.
    pub(crate) fn forget(&mut self) {
        self.changes.clear();
        self.clone = Clone::None;
    }

    /// Whether the program wants its clone injected.
    pub(crate) fn injects(&self) -> bool {
        self.clone == Clone::Injected
    }

    fn find(&mut self, offset: u64, pattern: u64, size: u64, memory: &Memory<'_>) -> Result<u64, Fault> {
        let pattern = memory.read(pattern, size_of_memory(size)?)?;
        let behind = usize::try_from(offset).ok().and_then(|offset| self.window().get(offset..));
        let Some(behind) = behind else { return Ok(negated(errno::ENOENT)) };
        // To look at a long pattern is work too, where there is little to look through.
        self.calls.moves(behind.len().max(pattern.len()))?;
        Ok(search::find(behind, pattern).map_or(negated(errno::ENOENT), |at| offset + at as u64))
    }

    fn load_bytes(&mut self, offset: u64, to: u64, size: u64, memory: &mut Memory<'_>) -> Result<u64, Fault> {
        let size = size_of_memory(size)?;
        self.calls.moves(size)?;
        let to = if size == 0 { &mut [] } else { memory.write(to, size)? };
        let from = usize::try_from(offset).ok().and_then(|offset| self.window().get(offset..)?.get(..size));
        match from {
            Some(from) if from.len() == to.len() => {
                to.copy_from_slice(from);
                Ok(0)
            }
            _ => {
                to.fill(0);
                Ok(negated(errno::EINVAL))
            }
        }
    }

    fn edit(&mut self, of: Of, offset: u64, remove: u64, new: &[u8]) -> Result<(), i64> {
        let possible = match self.editable() {
            Editable::No => false,
            Editable::SameLength => remove == new.len() as u64,
            Editable::Yes => true,
        };
        if !possible {
            return Err(errno::EOPNOTSUPP);
        }
        let (shown, changes) = (self.window().len(), self.changes.touch());
        let plan = match of {
            Of::Shown => &mut changes.edits,
            Of::Clone => &mut changes.clone,
        };
        plan.record(shown, offset, remove, new)
    }

    fn inject_data(&mut self, direction: u64, data: &[u8], flags: u64) -> Result<(), i64> {
        let About::Stream(ask) = self.about else { return Err(errno::EOPNOTSUPP) };
        let (direction, end) = (usize::try_from(direction).map_err(|_| errno::EINVAL)?, flags & 1 != 0);
        if direction > 1 {
            return Err(errno::EINVAL);
        }
        let here = ask.is_end() && direction == ask.direction();
        if self.editable() != Editable::Yes || !ask.is_open(direction) || (end && !here) {
            return Err(errno::EOPNOTSUPP);
        }
        self.changes.touch().own.send(direction, data, end)
    }

    fn remove_ahead(&mut self, bytes: u64) -> Result<(), i64> {
        match self.about {
            About::Stream(ask) if self.editable() == Editable::Yes && !ask.is_end() => {
                self.changes.touch().own.remove_ahead(bytes);
                Ok(())
            }
            _ => Err(errno::EOPNOTSUPP),
        }
    }

    fn flow_storage(&mut self, map: u64, flags: u64) -> Result<u64, Fault> {
        let flow = self.flow();
        if flow == 0 {
            return Ok(0);
        }
        // Only what is known to end has something that ends with it.
        let makes = match self.about {
            About::Stream(ask) if flags & 1 != 0 => {
                ask.flow.mark(Marks::STORED);
                true
            }
            _ => false,
        };
        self.calls.flow_storage(map, flow, makes)
    }

    /// The connection's number; 0 for none.
    fn flow(&self) -> u64 {
        match self.about {
            About::Stream(ask) => ask.flow.id,
            About::Packet { flow, .. } => flow,
        }
    }

    fn envelope(&mut self) -> Result<&mut Envelope, i64> {
        match &mut self.about {
            About::Packet { envelope: Some(envelope), editable: Editable::Yes, .. } => Ok(envelope),
            _ => Err(errno::EOPNOTSUPP),
        }
    }

    fn application(&self, to: &mut [u8]) -> u64 {
        let path = match self.about {
            About::Stream(ask) => &ask.flow.get().application[..],
            About::Packet { .. } => &[],
        };
        let (copied, rest) = to.split_at_mut(path.len().min(to.len()));
        copied.iter_mut().zip(path).for_each(|(to, from)| *to = *from);
        rest.fill(0);
        if path.is_empty() { negated(errno::ENOENT) } else { path.len() as u64 }
    }

    /// The clone that `handle` names, when the program holds it.
    fn held(&self, handle: u64) -> Result<(), Fault> {
        if handle == CLONE && self.clone == Clone::Held { Ok(()) } else { Err(misuse()) }
    }
}

/// What an edit is of.
#[derive(Clone, Copy)]
enum Of {
    Shown,
    Clone,
}

impl Host for PacketHost<'_> {
    #[inline]
    fn call(&mut self, number: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        if number < helper::TIDEGATE_BASE
            && let Some(result) = self.calls.call(number, args, memory)
        {
            return result;
        }
        let [_, a, b, c, d] = args;
        match number {
            helper::REPLACE => {
                let new = memory.read(c, size_of_memory(d)?)?;
                Ok(status(self.edit(Of::Shown, a, b, new)))
            }
            helper::INSERT => {
                let new = memory.read(b, size_of_memory(c)?)?;
                Ok(status(self.edit(Of::Shown, a, 0, new)))
            }
            helper::REMOVE => Ok(status(self.edit(Of::Shown, a, b, &[]))),
            helper::FIND => self.find(a, b, c, memory),
            helper::LOAD_BYTES => self.load_bytes(a, b, c, memory),
            helper::STREAM_INJECT_DATA => {
                let data = memory.read(b, size_of_memory(c)?)?;
                Ok(status(self.inject_data(a, data, d)))
            }
            helper::REMOVE_AHEAD => Ok(status(self.remove_ahead(a))),
            helper::STREAM_APPLICATION => {
                let size = size_of_memory(b)?;
                self.calls.moves(size)?;
                Ok(self.application(if size == 0 { &mut [] } else { memory.write(a, size)? }))
            }
            helper::FLOW_STORAGE_GET => self.flow_storage(a, b),
            helper::FLOW_STORAGE_DELETE => self.calls.delete_flow_storage(a, self.flow()),
            helper::SET_REMOTE => {
                let address = memory.read(a, size_of_memory(b)?)?;
                Ok(status(self.envelope().and_then(|envelope| envelope.set_remote(address, c))))
            }
            helper::SET_TOS => Ok(status(self.envelope().and_then(|envelope| envelope.set_tos(a)))),
            helper::CLONE_STREAM_DATA | helper::CLONE_NET_BUFFER_LIST => {
                if self.clone != Clone::None || self.editable() == Editable::No {
                    return Ok(0);
                }
                self.changes.touch().clone.clear();
                self.clone = Clone::Held;
                Ok(CLONE)
            }
            helper::STREAM_INJECT | helper::INJECT_TRANSPORT_SEND => {
                self.held(a)?;
                self.clone = Clone::Injected;
                Ok(0)
            }
            helper::CLONE_REPLACE => {
                let [handle, offset, remove, data, size] = args;
                self.held(handle)?;
                let new = if size == 0 { &[] } else { memory.read(data, size_of_memory(size)?)? };
                Ok(status(self.edit(Of::Clone, offset, remove, new)))
            }
            helper::CLONE_DISCARD => {
                let [handle, ..] = args;
                self.held(handle)?;
                self.clone = Clone::None;
                Ok(0)
            }
            _ => Err(Cause::UnknownHelper { number }.into()),
        }
    }
}

/// Answers as its host does, and notes what the run looks up.
struct Watched<'w, 'r> {
    host: &'w mut PacketHost<'r>,
    sight: &'w mut Sight,
}

impl Host for Watched<'_, '_> {
    fn call(&mut self, number: u32, args: [u64; 5], memory: &mut Memory<'_>) -> Result<u64, Fault> {
        let result = self.host.call(number, args, memory)?;
        self.host.note(number, args, result, memory, self.sight);
        Ok(result)
    }
}

/// A size argument. Verified programs stay far below any machine's limit.
fn size_of_memory(size: u64) -> Result<usize, Fault> {
    usize::try_from(size).map_err(|_| misuse())
}

fn status(result: Result<(), i64>) -> u64 {
    result.map_or_else(negated, |()| 0)
}

fn negated(errno: i64) -> u64 {
    errno.wrapping_neg() as u64
}

/// An argument that no verified program passes.
fn misuse() -> Fault {
    Cause::Helper { status: errno::EINVAL as i32 }.into()
}
