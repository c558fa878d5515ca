//! What a proxy tells while it runs, and in the end.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};

use schemars::JsonSchema;
use serde::Serialize;

use crate::cli;
use crate::error::Exit;
use crate::tally::{Tally, count};

use super::connection::{Closed, End};

/// Takes what a proxy tells while it runs.
pub trait Output {
    /// Something happened.
    fn line(&mut self, line: &Line);
}

/// The relaying's end of the report. It never waits for the other end.
pub(super) struct Report {
    lines: SyncSender<Line>,
    /// Lines that were lost since the last that was not.
    missing: u64,
    lost: u64,
}

impl Report {
    /// A report of which so many lines wait at most, and where they come out.
    pub(super) fn new(room: usize) -> (Self, Receiver<Line>) {
        let (lines, read) = mpsc::sync_channel(room);
        (Self { lines, missing: 0, lost: 0 }, read)
    }

    /// Tells that something happened, unless too much waits already.
    pub(super) fn line(&mut self, line: Line) {
        let lost = Line::Lost { lines: self.missing };
        if self.missing > 0 && self.lines.try_send(lost).is_ok() {
            self.missing = 0;
        }
        if self.missing > 0 || self.lines.try_send(line).is_err() {
            self.missing += 1;
            self.lost += 1;
        }
    }

    /// Lines that were lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Line {
    /// Connections are accepted from now on.
    Listening {
        /// Where.
        listen: SocketAddr,
        /// Where they go.
        upstream: SocketAddr,
    },
    /// A connection is over.
    Closed(Closed),
    /// A connection could not be accepted.
    NotAccepted {
        /// What the system said.
        reason: String,
    },
    /// A new version of the policy runs.
    Replaced {
        /// The object.
        file: PathBuf,
    },
    /// A new version of the policy was refused: the old one runs on.
    NotReplaced {
        /// The object.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Lines are missing here: whoever reads them was behind.
    Lost {
        /// How many.
        lines: u64,
    },
}

/// What it all came to.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// Connections that are over.
    pub connections: u64,
    /// Those that the policy reset.
    pub dropped: u64,
    /// Those that one of the ends reset.
    pub reset: u64,
    /// Those whose upstream was not there.
    pub unreachable: u64,
    /// Those that the machine failed.
    pub failed: u64,
    /// Those that could not be accepted.
    pub refused: u64,
    /// Those that the end of the proxy cut.
    pub cut: u64,
    /// New versions of the policy that were put into place.
    pub replaced: u64,
    /// Lines of the report that were not taken in time.
    pub lost: u64,
    /// Bytes from clients, and from upstreams, that came out.
    pub bytes: u64,
    /// What the programs did.
    #[serde(flatten)]
    pub tally: Tally,
    /// What went against the contract with the filter engine.
    pub broken: Vec<String>,
}

impl Summary {
    pub(super) fn add(&mut self, closed: &Closed) {
        self.connections += 1;
        self.bytes += closed.sent.delivered + closed.received.delivered;
        match closed.end {
            End::Closed => {}
            End::Dropped => self.dropped += 1,
            End::Reset => self.reset += 1,
            End::Unreachable(_) => self.unreachable += 1,
            End::Failed(_) => self.failed += 1,
        }
    }
}

impl cli::Report for Summary {
    fn exit(&self) -> Exit {
        if self.broken.is_empty() && self.failed == 0 && self.tally.errors == 0 {
            Exit::Ok
        } else {
            Exit::Partial
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { listen, upstream } => write!(f, "listening on {listen}, upstream {upstream}"),
            Self::Closed(closed) => closed.fmt(f),
            Self::NotAccepted { reason } => write!(f, "a connection could not be accepted: {reason}"),
            Self::Lost { lines } => {
                write!(f, "{} lost here: whoever reads was behind", count(*lines as usize, "line"))
            }
            Self::Replaced { file } => write!(f, "replaced: {} runs from now on", file.display()),
            Self::NotReplaced { file, reason } => {
                write!(f, "not replaced: {} is refused, the old version runs on: {reason}", file.display())
            }
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, peer, upstream, sent, received, tally, end } = self;
        write!(f, "#{number:<3} {peer} -> {upstream}  ")?;
        match end {
            End::Closed => f.write_str("closed ")?,
            End::Dropped => f.write_str("DROPPED")?,
            End::Reset => f.write_str("reset  ")?,
            End::Unreachable(reason) => return write!(f, "unreachable: {reason}"),
            End::Failed(reason) => return write!(f, "FAILED: {reason}"),
        }
        write!(f, "  {tally}; sent {sent} B, received {received} B")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for broken in &self.broken {
            writeln!(f, "the contract with the filter engine was broken: {broken}")?;
        }
        write!(
            f,
            "{}, {} dropped, {} reset",
            count(self.connections as usize, "connection"),
            self.dropped,
            self.reset
        )?;
        let others = [
            (self.unreachable, "unreachable"),
            (self.failed, "FAILED"),
            (self.refused, "not accepted"),
            (self.cut, "cut by the end"),
            (self.replaced, "new versions"),
            (self.lost, "lines of this report lost"),
        ];
        for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        let Tally { runs, edited, errors, .. } = self.tally;
        writeln!(f, "; {} B relayed; {runs} runs of programs, {edited} edited, {errors} failed", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_takes_are_lost_and_counted_where_they_are_missing() {
        let (mut report, lines) = Report::new(2);
        let line = |number: u64| Line::NotAccepted { reason: number.to_string() };
        (0..5).for_each(|number| report.line(line(number)));
        let said = |lines: &Receiver<Line>| lines.try_iter().map(|line| line.to_string()).collect::<Vec<_>>();
        let not_accepted = |number: u64| line(number).to_string();
        assert_eq!(said(&lines), [not_accepted(0), not_accepted(1)]);
        report.line(line(5));
        assert_eq!(said(&lines), ["3 lines lost here: whoever reads was behind".into(), not_accepted(5)]);
        report.line(line(6));
        assert_eq!(said(&lines), [not_accepted(6)]);
        assert_eq!(report.lost(), 3);
    }
}
