//! What a program can ask of the packet: edits, clones, searching and copying. Everything else is the runtime's.

use tidegate_abi::{errno, helper, limits};
use tidegate_runtime::Calls;
use tidegate_vm::{Cause, Fault, Host, Memory};

use crate::edit::{Own, Plan};
use crate::envelope::Envelope;
use crate::flow::{Flow, Marks};
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

/// Answers the helper calls of one run.
pub(crate) struct PacketHost<'r> {
    calls: Calls<'r>,
    /// The connection's number; 0 for none.
    flow: u64,
    window: &'r [u8],
    editable: Editable,
    edits: &'r mut Plan,
    clone_edits: &'r mut Plan,
    clone: Clone,
    connection: Option<Connection<'r>>,
    envelope: Option<&'r mut Envelope>,
    scan_left: usize,
}

/// What a program can do with the connection around the bytes shown.
pub(crate) struct Connection<'r> {
    pub(crate) flow: &'r Flow,
    pub(crate) own: &'r mut Own,
    /// Directions that data can be sent in.
    pub(crate) open: [bool; 2],
    /// The direction whose end is what is shown.
    pub(crate) ends: Option<usize>,
}

impl<'r> PacketHost<'r> {
    /// A host for a run that is shown `window`. Both plans are cleared.
    pub(crate) fn new(
        calls: Calls<'r>,
        window: &'r [u8],
        editable: Editable,
        edits: &'r mut Plan,
        clone_edits: &'r mut Plan,
    ) -> Self {
        edits.clear();
        clone_edits.clear();
        let scan_left = limits::MAX_SCAN;
        Self {
            calls,
            flow: 0,
            window,
            editable,
            edits,
            clone_edits,
            clone: Clone::None,
            connection: None,
            envelope: None,
            scan_left,
        }
    }

    /// The same for a run about a connection. Its own data is cleared.
    pub(crate) fn with(self, connection: Connection<'r>) -> Self {
        connection.own.clear();
        Self { flow: connection.flow.id, connection: Some(connection), ..self }
    }

    /// The same for a run about a packet, of a connection if it has a number, whose envelope may be written on.
    pub(crate) fn with_envelope(self, flow: u64, envelope: Option<&'r mut Envelope>) -> Self {
        Self { flow, envelope, ..self }
    }

    /// Whether the program wants its clone injected.
    pub(crate) fn injects(&self) -> bool {
        self.clone == Clone::Injected
    }

    /// Counts `bytes` that a helper is about to look at. A run that looks at too many is over its budget.
    fn scan(&mut self, bytes: usize) -> Result<(), Fault> {
        self.scan_left = self.scan_left.checked_sub(bytes).ok_or(Cause::Budget)?;
        Ok(())
    }

    fn find(&mut self, offset: u64, pattern: u64, size: u64, memory: &Memory<'_>) -> Result<u64, Fault> {
        let pattern = memory.read(pattern, size_of_memory(size)?)?;
        let behind = usize::try_from(offset).ok().and_then(|offset| self.window.get(offset..));
        let Some(behind) = behind else { return Ok(negated(errno::ENOENT)) };
        // To look at a long pattern is work too, where there is little to look through.
        self.scan(behind.len().max(pattern.len()))?;
        Ok(search::find(behind, pattern).map_or(negated(errno::ENOENT), |at| offset + at as u64))
    }

    fn load_bytes(&mut self, offset: u64, to: u64, size: u64, memory: &mut Memory<'_>) -> Result<u64, Fault> {
        let size = size_of_memory(size)?;
        self.scan(size)?;
        let to = if size == 0 { &mut [] } else { memory.write(to, size)? };
        let from = usize::try_from(offset).ok().and_then(|offset| self.window.get(offset..)?.get(..size));
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
        let possible = match self.editable {
            Editable::No => false,
            Editable::SameLength => remove == new.len() as u64,
            Editable::Yes => true,
        };
        if !possible {
            return Err(errno::EOPNOTSUPP);
        }
        let plan = match of {
            Of::Shown => &mut *self.edits,
            Of::Clone => &mut *self.clone_edits,
        };
        plan.record(self.window.len(), offset, remove, new)
    }

    fn inject_data(&mut self, direction: u64, data: &[u8], flags: u64) -> Result<(), i64> {
        let Some(connection) = &mut self.connection else { return Err(errno::EOPNOTSUPP) };
        let at = usize::try_from(direction).unwrap_or(usize::MAX);
        let (open, end) = (connection.open.get(at).ok_or(errno::EINVAL)?, flags & 1 != 0);
        if !open || (end && connection.ends != Some(at)) {
            return Err(errno::EOPNOTSUPP);
        }
        connection.own.send(at, data, end)
    }

    fn remove_ahead(&mut self, bytes: u64) -> Result<(), i64> {
        match &mut self.connection {
            Some(connection) if self.editable == Editable::Yes && connection.ends.is_none() => {
                connection.own.remove_ahead(bytes);
                Ok(())
            }
            _ => Err(errno::EOPNOTSUPP),
        }
    }

    fn flow_storage(&mut self, map: u64, flags: u64) -> Result<u64, Fault> {
        if self.flow == 0 {
            return Ok(0);
        }
        // Only what is known to end has something that ends with it.
        let makes = self.connection.as_ref().filter(|_| flags & 1 != 0);
        if let Some(connection) = makes {
            connection.flow.mark(Marks::STORED);
        }
        self.calls.flow_storage(map, self.flow, makes.is_some())
    }

    fn envelope(&mut self) -> Result<&mut Envelope, i64> {
        match &mut self.envelope {
            Some(envelope) if self.editable == Editable::Yes => Ok(envelope),
            _ => Err(errno::EOPNOTSUPP),
        }
    }

    fn application(&self, to: &mut [u8]) -> u64 {
        let path = self.connection.as_ref().map_or(&[][..], |connection| &connection.flow.application);
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
                self.scan(size)?;
                Ok(self.application(if size == 0 { &mut [] } else { memory.write(a, size)? }))
            }
            helper::FLOW_STORAGE_GET => self.flow_storage(a, b),
            helper::FLOW_STORAGE_DELETE => self.calls.delete_flow_storage(a, self.flow),
            helper::SET_REMOTE => {
                let address = memory.read(a, size_of_memory(b)?)?;
                Ok(status(self.envelope().and_then(|envelope| envelope.set_remote(address, c))))
            }
            helper::SET_TOS => Ok(status(self.envelope().and_then(|envelope| envelope.set_tos(a)))),
            helper::CLONE_STREAM_DATA | helper::CLONE_NET_BUFFER_LIST => {
                if self.clone != Clone::None || self.editable == Editable::No {
                    return Ok(0);
                }
                self.clone_edits.clear();
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
