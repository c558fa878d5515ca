//! The answers to control messages.
//!
//! A request is taken apart whole before anything is done, and what it asks for is done whole or not at all: every refused
//! message changes nothing. Everything here runs at `PASSIVE_LEVEL`.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use tidegate_abi::control::{
    self, Change, Events, Filters, Flows, HEADER_SIZE, Id, LinkAttach, Loaded, ProgramLoad, Request,
    StateReply, Status, Traced, VersionReply,
};
use tidegate_abi::{Hook, limits};
use tidegate_vm::Shared;

use crate::Runtime;
use crate::map::Map;
use crate::memory::{push, room, shared, vector};
use crate::objects::Objects;
use crate::program::{LoadError, Program, in_words};

/// Bytes that a reply to a change may take. A buffer that has not so many is refused before the change is made, so that
/// no id gets lost on its way back.
const SMALL_REPLY: usize = tidegate_abi::device::MIN_REPLY;
/// Bytes of a reply to `EventRead` beside the records: header, count and length at their longest.
const EVENTS_HEAD: usize = HEADER_SIZE + 10 + 5;
/// The same of a reply to `FlowList`.
const FLOWS_HEAD: usize = HEADER_SIZE + 5 + 5;

impl Runtime {
    /// Answers a control message: takes the `request` apart, does what it says, and writes the reply. Returns the bytes of the
    /// reply; 0 when not even its header fits. `PASSIVE_LEVEL`. Requests may come from several threads at a time.
    ///
    /// A request that is answered with another status than [`Status::Ok`] has changed nothing.
    pub fn handle(&self, request: &[u8], reply: &mut [u8]) -> usize {
        self.handle_until(&AtomicU8::new(0), request, reply)
    }

    /// [`handle`](Self::handle), for a sender who may stop waiting: `cancelled` then becomes other than 0, and a program that is
    /// being verified is refused soon after.
    pub fn handle_until(&self, cancelled: &AtomicU8, request: &[u8], reply: &mut [u8]) -> usize {
        // Whatever is asked: traces that nobody reads any more end.
        if self.watches.sweep(&self.platform) {
            self.watch();
        }
        let done = if reply.len() < SMALL_REPLY {
            Err(Status::ReplyTooLarge)
        } else {
            Request::parse(request).and_then(|request| self.answer(cancelled, &request, reply))
        };
        done.or_else(|status| control::write(status as u16, &(), reply)).unwrap_or(0)
    }

    fn answer(&self, cancelled: &AtomicU8, request: &Request<'_>, reply: &mut [u8]) -> Result<usize, Status> {
        const OK: u16 = Status::Ok as u16;
        match request {
            Request::Version(_) => {
                let processors = self.platform.count() as u32;
                control::write(OK, &VersionReply { api: tidegate_abi::API_VERSION, processors }, reply)
            }

            Request::State(_) => apart(|| {
                let (maps, programs, links) = self.objects(|objects| objects.counts());
                let mut release = heapless::String::new();
                // A release has a short name; one that had not would go without.
                let _ = release.push_str(env!("CARGO_PKG_VERSION"));
                let state = StateReply { release, filters: self.filters(), maps, programs, links };
                control::write(OK, &state, reply)
            }),

            Request::MapCreate(request) => apart(|| {
                let id = self.new_id()?;
                let map = shared(Map::new(id, request.name.clone(), request.def, self.platform)?)?;
                self.objects(|objects| objects.add_map(&map))?;
                control::write(OK, &id, reply)
            }),
            Request::MapRelease(request) => apart(|| {
                drop(self.objects(|objects| objects.release_map(request.map))?);
                control::write(OK, &(), reply)
            }),
            Request::MapUpdate(request) => apart(|| {
                self.map(request.map)?.control_update(request.key, request.value, request.flags)?;
                self.changed();
                control::write(OK, &(), reply)
            }),
            Request::MapLookup(request) => apart(|| {
                let map = self.map(request.map)?;
                let mut value = vector(map.control_value_size(), || 0_u8)?;
                map.control_lookup(request.key, &mut value)?;
                control::write(OK, value.as_slice(), reply)
            }),
            Request::MapDelete(request) => {
                self.map(request.map)?.control_delete(request.key)?;
                self.changed();
                control::write(OK, &(), reply)
            }
            Request::MapNextKey(request) => apart(|| {
                let map = self.map(request.map)?;
                let mut key = vector(map.def.key_size as usize, || 0_u8)?;
                map.next_key(request.key, &mut key)?;
                control::write(OK, key.as_slice(), reply)
            }),
            Request::MapInfo(request) => apart(|| control::write(OK, &self.map(request.map)?.info(), reply)),
            Request::MapList(request) => {
                apart(|| control::write(OK, &self.objects(|objects| objects.map_ids(request.after)), reply))
            }
            Request::MapFreeze(request) => {
                self.map(request.map)?.freeze();
                control::write(OK, &(), reply)
            }

            Request::ProgramLoad(request) => match apart(|| self.load(cancelled, request)) {
                Ok(loaded) => control::write(OK, &loaded, reply),
                Err(LoadError::Status(status)) => Err(status),
                Err(LoadError::Refused(refusal)) => {
                    apart(|| control::write(Status::Refused as u16, &in_words(&refusal), reply))
                }
            },
            Request::ProgramUnload(request) => apart(|| {
                drop(self.objects(|objects| objects.remove_program(request.program))?);
                control::write(OK, &(), reply)
            }),
            Request::ProgramInfo(request) => apart(|| {
                let program = self.objects(|objects| objects.program(request.program))?;
                control::write(OK, &program.info(), reply)
            }),
            Request::ProgramList(request) => apart(|| {
                control::write(OK, &self.objects(|objects| objects.program_ids(request.after)), reply)
            }),
            Request::ProgramCode(request) => apart(|| {
                let program = self.objects(|objects| objects.program(request.program))?;
                control::write(OK, program.code(), reply)
            }),

            Request::LinkAttach(request) => apart(|| {
                self.is_shown(request.hook)?;
                let id = self.new_id()?;
                drop(self.objects(|objects| objects.attach(id, request, &self.chains, &self.platform))?);
                self.changed();
                control::write(OK, &id, reply)
            }),
            Request::LinkDetach(request) => apart(|| {
                let link = request.link;
                let (held, removed) =
                    self.objects(|objects| objects.detach(link, &self.chains, &self.platform))?;
                drop(removed);
                self.changed();
                control::write(OK, &held, reply)
            }),
            Request::LinkReplace(request) => apart(|| {
                let (link, program) = (request.link, request.program);
                drop(self.objects(|objects| {
                    let done = objects.replace(link, program, &self.chains, &self.platform);
                    self.newest.store(objects.newest(), Ordering::Relaxed);
                    done
                })?);
                self.changed();
                control::write(OK, &(), reply)
            }),
            Request::LinkCommit(request) => apart(|| {
                let mut rest = request.changes;
                while let Ok((change, next)) = Change::take(rest) {
                    if let Change::Attach(LinkAttach { hook, .. }) = change {
                        self.is_shown(hook)?;
                    }
                    rest = next;
                }
                let (committed, removed) = self.objects(|objects| {
                    let done = objects.commit(request.changes, &self.chains, &self.platform);
                    self.newest.store(objects.newest(), Ordering::Relaxed);
                    done
                })?;
                drop(removed);
                self.changed();
                control::write(OK, &committed, reply)
            }),
            Request::LinkTry(request) => apart(|| {
                let (link, trial) = (request.link, request.trial);
                drop(self.objects(|objects| {
                    let done = objects.set_trial(link, trial, &self.chains, &self.platform);
                    self.newest.store(objects.newest(), Ordering::Relaxed);
                    done
                })?);
                self.changed();
                control::write(OK, &(), reply)
            }),
            Request::LinkInfo(request) => apart(|| {
                let link = self.objects(|objects| objects.link(request.link))?;
                control::write(OK, &link.info(), reply)
            }),
            Request::LinkList(request) => {
                apart(|| control::write(OK, &self.objects(|objects| objects.link_ids(request.hook)), reply))
            }

            Request::LinkTimes(request) => apart(|| {
                let link = self.objects(|objects| objects.link(request.link))?;
                control::write(OK, &link.times(request.verdict), reply)
            }),

            Request::EventRead(request) => apart(|| {
                let fits = reply.len().min(limits::MAX_MESSAGE).saturating_sub(EVENTS_HEAD);
                self.map(request.map)?.read_events(fits.min(request.max as usize), |dropped, records| {
                    control::write(OK, &Events { dropped, records }, reply)
                })
            }),

            Request::FlowList(request) => apart(|| {
                let room = reply.len().min(limits::MAX_MESSAGE).saturating_sub(FLOWS_HEAD);
                let mut rows = vector(room, || 0_u8)?;
                let (next, length) = self.flows(request.from, &mut rows)?;
                let flows = rows.get(..length).unwrap_or_default();
                control::write(OK, &Flows { next, flows }, reply)
            }),

            Request::TraceBegin(request) => apart(|| {
                let id = self.new_id()?;
                self.watches.begin(id, request, &self.platform)?;
                self.watch();
                control::write(OK, &id, reply)
            }),
            Request::TraceRead(request) => apart(|| {
                let fits = reply.len().min(limits::MAX_MESSAGE).saturating_sub(EVENTS_HEAD + 10);
                let max = fits.min(request.max as usize);
                let now = (self.platform.now_ns)();
                self.watches.read(request.trace, max, &self.platform, |lost, records| {
                    control::write(OK, &Traced { now, lost, records }, reply)
                })
            }),
            Request::TraceEnd(request) => apart(|| {
                self.watches.end(request.trace, &self.platform)?;
                self.watch();
                control::write(OK, &(), reply)
            }),
        }
    }

    /// Whether traffic of this hook ever comes here.
    fn is_shown(&self, hook: Hook) -> Result<(), Status> {
        match self.filters() {
            Filters::Only(kind) if kind != hook.program_type() => Err(Status::NoTraffic),
            _ => Ok(()),
        }
    }

    /// Verifies outside of the lock: it may take long, and nobody waits for it.
    fn load(&self, cancelled: &AtomicU8, request: &ProgramLoad<'_>) -> Result<Loaded, LoadError> {
        let mut maps: Vec<_> = room(request.maps.len())?;
        for id in &request.maps {
            push(&mut maps, self.map(*id)?)?;
        }
        let id = self.new_id()?;
        let program = shared(Program::load(id, request, maps, &self.platform, cancelled, self.kind)?)?;
        self.objects(|objects| objects.add_program(&program))?;
        Ok(Loaded { program: id, max_cost: program.max_cost })
    }

    /// Has runs watched while there is a trace, and no longer.
    fn watch(&self) {
        self.objects(|objects| objects.watch(self.watches.any(&self.platform)));
    }

    fn map(&self, id: Id) -> Result<Shared<Map>, Status> {
        self.objects(|objects| objects.map(id))
    }

    pub(crate) fn objects<R>(&self, section: impl FnOnce(&mut Objects) -> R) -> R {
        self.objects.with(&self.platform, section)
    }
}

/// Runs `section` in a stack frame of its own. A kernel's stack is small, and the frames of all answers inlined into one
/// would be more than its share.
#[inline(never)]
fn apart<R>(section: impl FnOnce() -> R) -> R {
    section()
}
