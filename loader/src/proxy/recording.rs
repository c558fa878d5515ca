//! `--record`: what both ends send, in a capture that is whole up to the last thing that happened.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::flows::{Direction, Step};
use crate::host::Flow;
use crate::wire::{WHOLE, Wire, WireFlow};

/// A capture that is being written.
pub(super) struct Recording {
    path: PathBuf,
    file: File,
    wire: Wire,
    flows: HashMap<Flow, WireFlow>,
    /// Why nothing more is written.
    broken: Option<String>,
}

impl Recording {
    /// Begins the capture at `path`.
    pub(super) fn begin(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|error| Error::file("write", path, &error))?;
        let wire = Wire::new(WHOLE);
        let mut recording = Self { path: path.into(), file, wire, flows: HashMap::new(), broken: None };
        recording.put();
        Ok(recording)
    }

    /// A connection is there, with the ends that programs see.
    pub(super) fn open(&mut self, flow: Flow, local: SocketAddr, remote: SocketAddr, opened: Direction) {
        let on_wire = self.wire.open(now(), local, remote, opened);
        self.flows.insert(flow, on_wire);
        self.put();
    }

    /// Something is shown to the programs.
    pub(super) fn step(&mut self, flow: Flow, step: &Step) {
        if let Some(on_wire) = self.flows.get_mut(&flow) {
            self.wire.step(on_wire, now(), step);
            self.put();
        }
    }

    /// A connection is over.
    pub(super) fn close(&mut self, flow: Flow) {
        self.flows.remove(&flow);
    }

    /// What went wrong, if anything did.
    pub(super) fn end(self) -> Option<String> {
        self.broken
    }

    /// Connections go on when a disk is full; it is told in the end.
    fn put(&mut self) {
        let bytes = self.wire.take();
        if self.broken.is_none()
            && let Err(error) = self.file.write_all(&bytes)
        {
            self.broken = Some(Error::file("write", &self.path, &error).message);
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
