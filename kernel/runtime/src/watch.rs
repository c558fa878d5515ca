//! Traces: what is told of runs, to whom who wants to know.
//!
//! Nothing on the way of a run that nobody watches belongs to this: while there is a trace every link is marked as special, and
//! so goes the way of those that something is tried in; there a run may be watched. What it came to is one record in the ring
//! buffer of each trace that asked for it. A record that does not fit is counted.
//!
//! A trace that nobody reads is over. Who knows it first is a run: when all traces are over it takes the mark off its link. Their
//! memory goes with the next control message.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_abi::control::{Id, RunEnd, RunInfo, RunRead, Status, TRACE_FAILED, TraceBegin};
use tidegate_abi::limits::{MAX_PATH, MAX_TRACE, MAX_TRACES, TRACE_KEY, TRACE_NS, TRACE_VALUE};
use tidegate_abi::{MapDef, MapKind, Verdict};
use tidegate_vm::{Cause, Memory, Shared, Stack};

use crate::link::{Link, RunError};
use crate::map::{Map, Ring};
use crate::memory::shared;
use crate::platform::Platform;
use crate::spin::Spin;

/// Bytes of a record: a path of the largest slots, key and value at their longest, and all else.
const RECORD: usize = 3 * MAX_PATH + TRACE_KEY + TRACE_VALUE + 224;

/// The traces that there are.
#[derive(Debug)]
pub(crate) struct Watches(Spin<[Option<Shared<Watch>>; MAX_TRACES]>);

/// One trace.
#[derive(Debug)]
pub(crate) struct Watch {
    id: Id,
    /// What it is about.
    about: TraceBegin,
    ring: Ring,
    /// When it was last read.
    read: AtomicU64,
}

impl Watch {
    fn new(id: Id, about: &TraceBegin, platform: &Platform) -> Result<Self, Status> {
        let def =
            MapDef { kind: MapKind::RingBuf, key_size: 0, value_size: 0, max_entries: about.bytes, flags: 0 };
        def.check().map_err(|_| Status::Invalid)?;
        let ends = Verdict::ALL.iter().fold(TRACE_FAILED, |ends, verdict| ends | 1 << *verdict as u32);
        if about.bytes as usize > MAX_TRACE || about.ends & !ends != 0 {
            return Err(Status::Invalid);
        }
        let read = AtomicU64::new((platform.now_ns)());
        Ok(Self { id, about: about.clone(), ring: Ring::new(&def)?, read })
    }

    fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.read.load(Relaxed)) > TRACE_NS
    }

    /// Whether it is about runs of a link that are shown this flow.
    fn is_about(&self, link: Id, flow: u64) -> bool {
        (self.about.link == 0 || self.about.link == link) && (self.about.flow == 0 || self.about.flow == flow)
    }
}

impl Watches {
    pub(crate) const fn new() -> Self {
        Self(Spin::new([const { None }; MAX_TRACES]))
    }

    /// Begins a trace.
    pub(crate) fn begin(&self, id: Id, about: &TraceBegin, platform: &Platform) -> Result<(), Status> {
        let mut new = Some(shared(Watch::new(id, about, platform)?)?);
        // What finds no place is dropped outside of the lock.
        self.0.with(platform, |all| match all.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = new.take();
                Ok(())
            }
            None => Err(Status::Full),
        })
    }

    /// Whether there is one.
    pub(crate) fn any(&self, platform: &Platform) -> bool {
        self.0.with(platform, |all| all.iter().any(Option::is_some))
    }

    /// Ends those that nobody reads. Whether there were such.
    pub(crate) fn sweep(&self, platform: &Platform) -> bool {
        let now = (platform.now_ns)();
        let mut over = [const { None }; MAX_TRACES];
        self.0.with(platform, |all| {
            for (place, over) in all.iter_mut().zip(&mut over) {
                if place.as_ref().is_some_and(|watch| watch.is_over(now)) {
                    *over = place.take();
                }
            }
        });
        over.iter().any(Option::is_some)
    }

    /// Ends a trace.
    pub(crate) fn end(&self, id: Id, platform: &Platform) -> Result<(), Status> {
        let is_it = |watch: &Option<Shared<Watch>>| watch.as_ref().is_some_and(|watch| watch.id == id);
        let ended = self.0.with(platform, |all| all.iter_mut().find(|watch| is_it(watch))?.take());
        ended.map(drop).ok_or(Status::NotFound)
    }

    /// Takes the records of a trace: see [`Ring::read`].
    pub(crate) fn read(
        &self,
        id: Id,
        max: usize,
        platform: &Platform,
        deliver: impl FnOnce(u64, &[u8]) -> Result<usize, Status>,
    ) -> Result<usize, Status> {
        let watch = self.0.with(platform, |all| {
            // Looked at behind the lock: what a run found to be over stays over.
            let now = (platform.now_ns)();
            let is_it = |watch: &&Shared<Watch>| watch.id == id && !watch.is_over(now);
            let watch = all.iter().flatten().find(is_it)?;
            watch.read.store(now, Relaxed);
            Some(Shared::clone(watch))
        });
        watch.ok_or(Status::NotFound)?.ring.read(max, deliver)
    }

    /// The trace at a place.
    fn at(&self, place: usize, platform: &Platform) -> Option<Shared<Watch>> {
        self.0.with(platform, |all| all.get(place).cloned().flatten())
    }

    /// Whether some trace is about a link's runs that are shown this flow. When no trace goes on the link is no longer marked
    /// as one whose runs may be watched. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn want(&self, link: &Link, flow: u64, platform: &Platform) -> bool {
        let now = (platform.now_ns)();
        self.0.with(platform, |all| {
            let mut going_on = all.iter().flatten().filter(|watch| !watch.is_over(now)).peekable();
            if going_on.peek().is_none() {
                // Under the lock: a trace that begins behind this marks the link again.
                link.holding.set_watched(false);
            }
            going_on.any(|watch| watch.is_about(link.id, flow))
        })
    }

    /// Tells of a run, that `sight` was had of. IRQL <= `DISPATCH_LEVEL`.
    pub(crate) fn tell(&self, run: RunInfo<'_>, sight: &mut Sight, platform: &Platform) {
        let Sight { path, length, end, read, record } = sight;
        let path = path.get(..*length).unwrap_or_default();
        let read = read.as_ref().map(Read::info);
        let (link, flow, bit) = (run.link, run.flow, RunInfo::bit(*end, run.unfit));
        let run = RunInfo { end: *end, path: path.iter().copied().collect(), read, ..run };
        // There is room for all that a run can come to.
        let record = run.write(record).ok().and_then(|length| record.get(..length)).unwrap_or_default();
        for place in 0..MAX_TRACES {
            let Some(watch) = self.at(place, platform) else { continue };
            if watch.is_about(link, flow) && (watch.about.ends == 0 || watch.about.ends & bit != 0) {
                // What does not fit is counted there.
                let _ = watch.ring.output(record, platform);
            }
        }
    }

    /// A run that is to be told of is not, for want of memory.
    pub(crate) fn lose(&self, link: Id, flow: u64, platform: &Platform) {
        for place in 0..MAX_TRACES {
            if let Some(watch) = self.at(place, platform).filter(|watch| watch.is_about(link, flow)) {
                watch.ring.drop_one();
            }
        }
    }
}

/// What is noted of a run that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    path: [u32; MAX_PATH],
    /// Slots of it.
    length: usize,
    /// How the run ended.
    end: RunEnd,
    read: Option<Read>,
    /// Where the record is put together.
    record: [u8; RECORD],
}

/// An entry that was looked up.
#[derive(Clone, Copy, Debug)]
struct Read {
    map: Id,
    key: Cut<TRACE_KEY>,
    value: Option<Cut<TRACE_VALUE>>,
}

impl Read {
    fn info(&self) -> RunRead<'_> {
        RunRead { map: self.map, key: self.key.bytes(), value: self.value.as_ref().map(Cut::bytes) }
    }
}

/// The first bytes of something.
#[derive(Clone, Copy, Debug)]
struct Cut<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Cut<N> {
    fn of(from: &[u8]) -> Self {
        let mut bytes = [0; N];
        bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        Self { bytes, length: from.len().min(N) }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Sight {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { path: [0; MAX_PATH], length: 0, end: RunEnd::Fault(0), read: None, record: [0; RECORD] }
    }

    /// The run is over: how it ended, and where it was.
    pub fn ended(&mut self, ended: &Result<Verdict, RunError>, stack: &Stack) {
        self.end = match *ended {
            Ok(verdict) => RunEnd::Verdict(verdict),
            Err(RunError::Fault(fault)) if fault.cause == Cause::Budget => RunEnd::Budget(fault.insn),
            Err(RunError::Fault(fault)) => RunEnd::Fault(fault.insn),
            Err(RunError::Verdict(r0)) => RunEnd::NoVerdict(r0),
        };
        self.length = 0;
        for (place, slot) in self.path.iter_mut().zip(stack.path()) {
            *place = slot;
            self.length += 1;
        }
    }

    /// An entry of `map` was looked up: the address of its value, or 0.
    pub(crate) fn looked_up(&mut self, map: &Map, key: &[u8], value: u64, memory: &Memory<'_>) {
        let size = map.sizes().1.min(TRACE_VALUE);
        let value = if value == 0 { None } else { memory.read(value, size).ok() };
        self.read = Some(Read { map: map.id, key: Cut::of(key), value: value.map(Cut::of) });
    }
}

impl Default for Sight {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;
    use crate::platform::tests::platform;

    std::thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    #[test]
    fn a_trace_that_is_over_is_not_read_any_more_though_nobody_ended_it() {
        let platform = Platform { now_ns: || NOW.get(), ..platform(1) };
        let (watches, about) = (Watches::new(), TraceBegin { link: 0, flow: 0, ends: 0, bytes: 4096 });
        watches.begin(7, &about, &platform).expect("room");
        for (later, read) in [(TRACE_NS, Ok(0)), (TRACE_NS, Ok(0)), (TRACE_NS + 1, Err(Status::NotFound))] {
            NOW.set(NOW.get() + later);
            assert_eq!(watches.read(7, 100, &platform, |_, records| Ok(records.len())), read);
        }
    }
}
