//! What the WFP side counts beside the links' own counters.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fwps_sys::NTSTATUS;

macro_rules! counters {
    ($( $name:ident $doc:literal )*) => {
        /// What happened since the callouts were registered.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $( #[doc = $doc] pub $name: u64, )* }

        #[derive(Default)]
        pub(crate) struct Counters { $( pub(crate) $name: Count, )* }

        impl Counters {
            /// What was counted so far.
            pub(crate) fn read(&self) -> Counts {
                Counts { $( $name: self.$name.0.load(Relaxed), )* }
            }
        }
    };
}

counters! {
    no_desk "Classifies without a free work space: no link was run."
    unreadable "Classifies whose bytes could not be looked at: no link was run."
    oversized "Classifies with more bytes than a program can be shown and that could not be shown in pieces: no link was run."
    injected "Injections that the system accepted."
    refused "Injections that the system refused."
    completed "Injections that have completed well."
    failed "Injections that were accepted and failed later. A stream is then reset."
    overflowed "Connections that were reset since more of them was kept back than may be."
    hops "Packets of another injector that were not edited, since the budget of their flow for that was spent."
    copied "Bytes that were copied to be injected."
    allocated "Bytes of memory that were asked for to inject."
    lost "Packets that were already dropped in favour of an edited copy when that was refused."
}

/// One counter.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_many(&self, count: usize) {
        self.0.fetch_add(count as u64, Relaxed);
    }
}

impl Counters {
    /// Counts an injection by its end.
    pub(crate) fn completed(&self, status: NTSTATUS) {
        match status.ok() {
            Ok(()) => self.completed.add(),
            Err(_) => self.failed.add(),
        }
    }
}
