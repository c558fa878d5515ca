//! The WFP side: classify to context, chain, verdict, edit and injection.
//!
//! ```text
//! filter engine --classify--> layer      what the engine says about the data, by layer
//!   -> packet                            its bytes: a window, not copied when they lie together
//!   -> stream | send                     the chain of programs is run, host answers their helpers
//!   -> edit                              what the programs want changed, as a plan
//!   -> outcome, injection                the answer, and the owners of what is sent instead
//! filter engine --complete--> injection  everything is freed
//! ```
//!
//! [`Callouts::register`] makes one callout for each [`Hook`] known to the filter engine. The functions called are those that
//! `fwps-sys` declares: on Windows fwpkclnt.sys answers them, everywhere else the simulator, and the code here is the same.
//!
//! Nothing allocates while data is permitted or blocked, and nothing of a program's size is on the stack. An edit allocates,
//! and when that fails, or anything else that the edit needs, the link's `on_error` decides.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod ask;
mod atomic {
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
}
mod checksum;
#[expect(unsafe_code, reason = "the callbacks that the filter engine calls")]
mod classify;
mod counters;
mod edit;
#[expect(unsafe_code, reason = "handles are shared between threads")]
mod engine;
mod envelope;
#[expect(unsafe_code, reason = "flow contexts are references that travel through the system as numbers")]
mod flow;
#[expect(unsafe_code, reason = "calls of the system")]
mod handles;
#[expect(unsafe_code, reason = "a call of the system")]
mod held;
mod hops;
mod host;
#[expect(unsafe_code, reason = "calls of the system, and owners that travel through it")]
mod injection;
#[expect(unsafe_code, reason = "a pointer in a static")]
mod instances;
#[expect(unsafe_code, reason = "what the engine says lies behind pointers")]
mod layer;
#[expect(unsafe_code, reason = "a box is made without aborting")]
mod memory;
#[expect(unsafe_code, reason = "the callbacks that the filter engine calls")]
mod notice;
#[cfg(test)]
mod os;
mod outcome;
#[expect(unsafe_code, reason = "the bytes lie behind pointers")]
mod packet;
mod scratch;
mod search;
mod send;
mod stream;
#[cfg(test)]
mod tests;
mod wake;
mod watch;
#[expect(unsafe_code, reason = "the worker is a callback")]
mod worker;

use alloc::vec::Vec;
use core::ffi::c_void;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use fwps_sys::{FWP_ACTION, FWP_CALLOUT_FLAG, FWPS_CALLOUT1, FWPS_INJECTION_TYPE, GUID, NTSTATUS};
use tidegate_abi::{Hook, ProgramType, limits};
use tidegate_runtime::Runtime;
use tidegate_vm::Shared;

use crate::counters::Counters;
use crate::engine::{Engine, Handles};
use crate::flow::Flows;
use crate::handles::{InjectionHandle, NblPool, NdisObject, Registered, System, WorkItem};
use crate::hops::Hops;
use crate::memory::NoMemory;
use crate::scratch::Scratch;
use crate::worker::Worker;

pub use crate::counters::Counts;
pub use crate::notice::{NOTICES, Notice};

/// The key of a hook's callout, as filters name it.
pub const fn key(hook: Hook) -> GUID {
    GUID::from_u128(match hook {
        Hook::StreamV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c001,
        Hook::StreamV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c002,
        Hook::OutboundTransportV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c003,
        Hook::OutboundTransportV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c004,
        Hook::DatagramDataV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c005,
        Hook::DatagramDataV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c006,
        Hook::OutboundIcmpErrorV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c007,
        Hook::OutboundIcmpErrorV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c008,
    })
}

/// The action of a filter that leads to a hook's callout. Whether a terminating one may reset a connection the documents don't
/// agree on (S4.3-15); one that says nothing of what its callout answers may, and blocks as well without its callout.
pub const fn filter_action(hook: Hook) -> FWP_ACTION {
    match hook.program_type() {
        ProgramType::Stream => FWP_ACTION::CALLOUT_UNKNOWN,
        ProgramType::Send => FWP_ACTION::CALLOUT_TERMINATING,
    }
}

/// The layer of a hook, as classify knows it: `FWPS_LAYER_*`.
pub fn layer_of(hook: Hook) -> u16 {
    layer::Layer::of(hook).id
}

/// The driver's own objects.
#[derive(Clone, Copy, Debug)]
pub struct Objects {
    /// `DRIVER_OBJECT`: owner of the pool that packets are made from.
    pub driver: *mut c_void,
    /// `DEVICE_OBJECT`: whose callouts and work items they are.
    pub device: *mut c_void,
}

/// Why nothing was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is not enough memory.
    NoMemory,
    /// The system refused.
    System(NTSTATUS),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("there is not enough memory"),
            Self::System(status) => write!(f, "the system refused: {status}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<NoMemory> for Error {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl From<NTSTATUS> for Error {
    fn from(status: NTSTATUS) -> Self {
        Self::System(status)
    }
}

/// What an operator decides when the driver starts.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections that were there before a link was are shown too, from the middle on. Else the callouts are conditional on
    /// flow: a connection that no link waited for when it was established costs nothing.
    pub mid_stream: bool,
    /// Nanoseconds that an unload waits for connections of which the filter engine keeps bytes, since a program asked for
    /// more, before it resets them.
    pub grace: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { mid_stream: false, grace: limits::DRAIN_NS }
    }
}

/// The callouts can't be unregistered yet: try again later.
#[derive(Debug)]
pub struct Busy {
    /// Still registered, in part. From now on they permit everything.
    pub callouts: Callouts,
    /// What the filter engine said; `DEVICE_BUSY` when packets or connections wait.
    pub status: NTSTATUS,
    /// Connections that still have a context.
    pub flows: usize,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the callouts are in use: {}, {} connections", self.status, self.flows)
    }
}

impl core::error::Error for Busy {}

/// A callout at every hook. End it with [`Callouts::unregister`]: dropped otherwise, everything stays registered for ever,
/// since what a callback may still reach can't be freed.
#[must_use]
pub struct Callouts {
    number: u64,
    engine: Shared<Engine>,
    registered: Vec<Registered>,
    /// Taken when the last callout is unregistered.
    system: Option<System>,
}

impl Callouts {
    /// Registers a callout for each hook, which runs the hook's chain of `runtime`. `PASSIVE_LEVEL`.
    ///
    /// Filters lead to them by [`key`], those that only tell by [`NOTICES`], and carry [`Callouts::context`].
    ///
    /// # Errors
    /// No memory, or a refusal of the system. Nothing is left behind then.
    #[expect(unsafe_code, reason = "from its registration on a callback may be called at any time")]
    pub fn register(objects: Objects, runtime: Shared<Runtime>, options: Options) -> Result<Self, Error> {
        let platform = *runtime.platform();
        let scratch = Scratch::new(platform.processors)?;
        let owner = NdisObject::new(objects.driver)?;
        let pool = NblPool::new(&owner)?;
        let work_item = WorkItem::new(objects.device)?;
        let transport = InjectionHandle::new(FWPS_INJECTION_TYPE::TRANSPORT)?;
        let stream = InjectionHandle::new(FWPS_INJECTION_TYPE::STREAM)?;
        let mut registered = memory::vec(Hook::ALL.len() + NOTICES.len())?;
        let (flows, hops) = (Flows::new()?, Hops::new()?);

        let engine = memory::shared(Engine {
            runtime,
            platform,
            scratch,
            counters: Counters::default(),
            worker: Worker::new(work_item.0),
            flows,
            hops,
            streams: Hook::ALL.map(|_| AtomicU32::new(0)),
            handles: Handles { stream: stream.0, transport: transport.0, pool: pool.0 },
            changed: AtomicBool::new(false),
            closing: AtomicU64::new(0),
            grace: options.grace,
        })?;
        let number = instances::add(Shared::as_ptr(&engine))?;
        let system = System { stream, transport, work_item, pool, owner };
        let mut callouts = Self { number, engine, registered: Vec::new(), system: Some(system) };
        let hooks = Hook::ALL.map(|hook| {
            let flags = match (hook.program_type(), options.mid_stream) {
                (ProgramType::Stream, true) => FWP_CALLOUT_FLAG::ALLOW_MID_STREAM_INSPECTION,
                (ProgramType::Stream, false) => FWP_CALLOUT_FLAG::CONDITIONAL_ON_FLOW,
                // None: the stack turns off the offloads that programs could not see through.
                (ProgramType::Send, _) => FWP_CALLOUT_FLAG::NONE,
            };
            let stream = hook.program_type() == ProgramType::Stream;
            let callout = FWPS_CALLOUT1 {
                calloutKey: key(hook),
                flags,
                classifyFn: Some(if stream { classify::stream } else { classify::send }),
                notifyFn: Some(classify::notify),
                flowDeleteFn: if stream { Some(classify::flow_deleted) } else { None },
            };
            (callout, Some(hook))
        });
        let notices = NOTICES.map(|told| {
            let callout = FWPS_CALLOUT1 {
                calloutKey: told.key,
                flags: FWP_CALLOUT_FLAG::NONE,
                classifyFn: Some(notice::told),
                notifyFn: Some(classify::notify),
                flowDeleteFn: None,
            };
            (callout, None)
        });
        for (callout, hook) in hooks.into_iter().chain(notices) {
            // SAFETY: what the callbacks reach lives until `unregister` has succeeded.
            match unsafe { Registered::new(objects.device, &callout) } {
                Ok(one) => {
                    let known = hook.and_then(|hook: Hook| callouts.engine.streams.get(hook.index()));
                    if let Some(id) = known {
                        id.store(one.id(), Ordering::Relaxed);
                    }
                    // There is room for all.
                    let _ = memory::push(&mut registered, one);
                }
                Err(status) => {
                    callouts.registered = registered;
                    // No filter can lead to them yet, so that nothing holds them.
                    let _ = callouts.unregister();
                    return Err(status.into());
                }
            }
        }
        callouts.registered = registered;
        // What is kept back is shown again when a control message changed what decides on it.
        let engine = Shared::clone(&callouts.engine);
        let wake = memory::boxed(move || {
            if engine.has_waiting() {
                engine.changed.store(true, Ordering::Release);
                engine.worker.wake(engine.lend());
            }
        });
        let told = wake.and_then(|wake| callouts.engine.runtime.on_change(Some(wake)).map_err(|_| NoMemory));
        let engine = Shared::clone(&callouts.engine);
        let show = memory::boxed(move |from, out: &mut [u8]| engine.flows.show(from, out, &engine.platform));
        let told = told.and_then(|()| callouts.engine.runtime.show_flows(Some(show?)).map_err(|_| NoMemory));
        if let Err(error) = told {
            let _ = callouts.unregister();
            return Err(error.into());
        }
        Ok(callouts)
    }

    /// What every filter that leads to these callouts has as its context (`FWPM_FILTER0::rawContext`).
    pub fn context(&self) -> u64 {
        self.number
    }

    /// What was counted beside the links' own counters. Any IRQL.
    pub fn counts(&self) -> Counts {
        self.engine.counters.read()
    }

    /// Begins the end: everything passes from now on, what is kept of connections is decided on by its links' rules, and flow
    /// contexts go. Gives back how many connections still have one: call again, a moment later, until there is none. Only then
    /// may the filters go, since the filter engine may keep bytes of such a connection for us. `PASSIVE_LEVEL`.
    pub fn drain(&self) -> usize {
        let engine = &self.engine;
        let now = (engine.platform.now_ns)().max(1);
        if engine.closing.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // It fails only for want of memory, and this takes none.
            let _ = engine.runtime.on_change(None);
            let _ = engine.runtime.show_flows(None);
        }
        let mut waits = false;
        engine.flows.each(&engine.platform, |flow| {
            if flow.is_at_rest() {
                flow.end();
            } else {
                waits = true;
            }
        });
        if waits {
            engine.worker.wake(engine.lend());
        }
        engine.flows.count(&engine.platform)
    }

    /// Unregisters the callouts, waits for pending injections and gives everything back. `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Busy`]: a classify runs, or the worker has packets. Everything passes from now on; call again a moment later.
    pub fn unregister(mut self) -> Result<(), Busy> {
        match self.close() {
            Ok(()) => Ok(()),
            Err(status) => {
                let flows = self.engine.flows.count(&self.engine.platform);
                Err(Busy { callouts: self, status, flows })
            }
        }
    }

    /// The order matters. What waits is sent or reset first, while there still is a callout to permit it; then the flow
    /// contexts go, so that no stream is shown any more. After the callouts nobody injects, and destroying the injection
    /// handles waits for completions.
    fn close(&mut self) -> Result<(), NTSTATUS> {
        let flows = self.drain();
        self.idle()?;
        if flows > 0 {
            return Err(NTSTATUS::DEVICE_BUSY);
        }
        while let Some(last) = self.registered.last() {
            last.unregister()?;
            self.registered.pop();
        }
        // A classify that began before `closing` was set may have queued one more.
        self.idle()?;
        instances::remove(self.number);
        drop(self.system.take());
        Ok(())
    }

    fn idle(&self) -> Result<(), NTSTATUS> {
        if self.engine.worker.is_idle() { Ok(()) } else { Err(NTSTATUS::DEVICE_BUSY) }
    }
}

impl Drop for Callouts {
    fn drop(&mut self) {
        if let Some(system) = self.system.take() {
            core::mem::forget((system, Shared::clone(&self.engine)));
        }
    }
}

impl fmt::Debug for Callouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callouts").field("number", &self.number).field("counts", &self.counts()).finish()
    }
}
