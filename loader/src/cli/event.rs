//! `tidegate event`: the records of a ring buffer, as they come.

use std::fmt;
use std::io;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::MapKind;

use super::{Report, live, map};
use crate::client::Client;
use crate::error::Error;
use crate::scenario::literal;
use crate::tally::count;

#[derive(Args)]
pub(super) struct Options {
    /// The ring buffer, by its id or its name
    map: String,
    /// End after so many records, and those that came with the last of them
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print what waits already, and end
    #[arg(long, conflicts_with = "count")]
    once: bool,
}

/// Something that happened in a ring buffer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Line {
    /// A record.
    Record { map: String, data: Vec<u8> },
    /// Records did not fit: so many since the map was made.
    Dropped { map: String, dropped: u64 },
}

/// What came in all.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Summary {
    records: u64,
    /// Records that did not fit, since the map was made.
    dropped: u64,
}

/// Takes records until there are enough; each goes to `tell` when it comes.
pub(super) fn watch(
    client: &mut Client,
    options: &Options,
    tell: impl FnMut(&Line) -> io::Result<()>,
) -> Result<Summary, Error> {
    let (id, info) = map::find(client, &options.map)?;
    if info.def.kind != MapKind::RingBuf {
        let message =
            format!("map `{}` has entries, not records: it is of kind {}", info.name, info.def.kind.name());
        return Err(Error::usage("map-kind", message).with_help("`tidegate map dump` prints entries"));
    }
    let next = || {
        let taken = if options.once { client.events(id) } else { client.wait(id) };
        taken.map_err(|refused| live::refused(&format!("read `{}`", info.name), &refused))
    };
    follow(&info.name, if options.once { Some(0) } else { options.count }, next, tell)
}

/// Takes what `next` gives (records, and how many were dropped in all) until there are `enough`, or nobody listens.
fn follow(
    map: &str,
    enough: Option<u64>,
    mut next: impl FnMut() -> Result<(Vec<Vec<u8>>, u64), Error>,
    mut tell: impl FnMut(&Line) -> io::Result<()>,
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    loop {
        let (records, dropped) = next()?;
        summary.records += records.len() as u64;
        let mut lines: Vec<_> =
            records.into_iter().map(|data| Line::Record { map: map.to_owned(), data }).collect();
        // What did not fit came behind what did.
        if dropped != summary.dropped {
            summary.dropped = dropped;
            lines.push(Line::Dropped { map: map.to_owned(), dropped });
        }
        let heard = lines.iter().try_for_each(&mut tell).is_ok();
        if !heard || enough.is_some_and(|enough| summary.records >= enough) {
            return Ok(summary);
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { map, data } => write!(f, "{map}: {}", literal::describe(data)),
            Self::Dropped { map, dropped } => write!(f, "{map}: {dropped} records dropped since it was made"),
        }
    }
}

impl Report for Summary {}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} dropped", count(self.records as usize, "record"), self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows `batches`, and fails when more are asked for. Gives what was told, and what came in all.
    fn followed(batches: &[(&[&[u8]], u64)], enough: Option<u64>) -> (Vec<String>, Result<Summary, Error>) {
        let mut batches = batches.iter();
        let next = || match batches.next() {
            Some((records, dropped)) => {
                Ok((records.iter().map(|record| record.to_vec()).collect(), *dropped))
            }
            None => Err(Error::usage("over", "nothing more")),
        };
        let mut told = Vec::new();
        let summary = follow("m", enough, next, |line| {
            told.push(line.to_string());
            if told.len() < 10 { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
        (told, summary)
    }

    #[test]
    fn every_record_is_told_and_every_rise_of_the_drops_behind_those_before_it() {
        let batches: &[(&[&[u8]], u64)] = &[(&[b"one"], 0), (&[b"two", b"three"], 5), (&[b"four"], 5)];
        let (told, summary) = followed(batches, Some(4));
        let dropped = "m: 5 records dropped since it was made";
        assert_eq!(told, ["m: 6f6e65", "m: 74776f", "m: \"three\"", dropped, "m: \"four\""]);
        assert_eq!(summary, Ok(Summary { records: 4, dropped: 5 }));
    }

    #[test]
    fn it_ends_with_enough_records_with_what_waits_or_with_an_error() {
        assert_eq!(followed(&[(&[b"a", b"b"], 0)], Some(1)).1, Ok(Summary { records: 2, dropped: 0 }));
        assert_eq!(followed(&[(&[], 3)], Some(0)).1, Ok(Summary { records: 0, dropped: 3 }));
        assert_eq!(followed(&[(&[b"a"], 0)], None).1.expect_err("asks for ever").code, "over");
        assert!(followed(&[(&[b"a".as_slice(); 10], 0)], None).1.is_ok(), "whoever listened has gone");
    }
}
