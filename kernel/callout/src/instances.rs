//! The registrations that live, by number.
//!
//! A classify finds its instance in its filter's context. What a filter's maker writes there is a number, so that nobody
//! learns an address of the kernel; notifyFn looks it up and puts the instance in its place, and refuses a filter that names
//! none. Only touched at PASSIVE_LEVEL.

use alloc::vec::Vec;

use spin::Mutex;

use crate::engine::Engine;
use crate::memory::{self, NoMemory};

struct Instance {
    number: u64,
    engine: *const Engine,
}

// SAFETY: the pointer is only compared and handed on here.
unsafe impl Send for Instance {}

struct Instances {
    last: u64,
    live: Vec<Instance>,
}

static INSTANCES: Mutex<Instances> = Mutex::new(Instances { last: 0, live: Vec::new() });

/// Makes an instance known. Returns its number, which is never given twice.
pub(crate) fn add(engine: *const Engine) -> Result<u64, NoMemory> {
    let mut instances = INSTANCES.lock();
    memory::reserve(&mut instances.live, 1)?;
    instances.last += 1;
    let number = instances.last;
    memory::push(&mut instances.live, Instance { number, engine })?;
    Ok(number)
}

/// Forgets an instance.
pub(crate) fn remove(number: u64) {
    let mut instances = INSTANCES.lock();
    instances.live.retain(|instance| instance.number != number);
    // The driver may be unloaded next, and no memory of its pool may stay: a static is never dropped.
    if instances.live.is_empty() {
        instances.live = Vec::new();
    }
}

/// The instance that a filter's context names: by its number, or by the address that was put in its place before.
pub(crate) fn find(context: u64) -> Option<*const Engine> {
    let instances = INSTANCES.lock();
    let named = |instance: &&Instance| instance.number == context || instance.engine.addr() as u64 == context;
    instances.live.iter().find(named).map(|instance| instance.engine)
}
