//! The line table, `.BTF.ext`: which source line an instruction came from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::types::Btf;
use super::{BtfError, header_length, range, u32_at};

/// Bytes of a record that we know: offset, file, text, line and column.
const RECORD: u32 = 16;

/// The line table of an object, by section.
#[derive(Default)]
pub struct Lines<'a> {
    sections: BTreeMap<&'a str, Vec<LineInfo>>,
    /// The section with CO-RE relocations, if there are any.
    core: Option<&'a str>,
}

/// The source of the instructions from one byte offset of a section on.
#[derive(Clone, Debug)]
pub struct LineInfo {
    /// Bytes from the start of the section.
    pub offset: u32,
    /// The file.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 when it is not known.
    pub column: u32,
    /// The text of the line; empty when it is not known.
    pub text: Arc<str>,
}

impl<'a> Lines<'a> {
    /// Reads the section `.BTF.ext`, whose names are those of `btf`.
    ///
    /// # Errors
    /// The section is cut short or of another version.
    pub fn parse(bytes: &[u8], btf: &Btf<'a>) -> Result<Self, BtfError> {
        let header = header_length(bytes, ".BTF.ext")?;
        let part = |at: usize, what: &str| {
            let (Some(offset), Some(length)) = (u32_at(bytes, at), u32_at(bytes, at + 4)) else {
                return Err(BtfError::new(".BTF.ext ends in its header"));
            };
            range(bytes, u64::from(header) + u64::from(offset), length)
                .ok_or_else(|| BtfError::new(format!("the {what} of .BTF.ext lies outside of it")))
        };
        let mut lines = Self::default();
        let mut strings = BTreeMap::new();
        for_records(part(16, "line table")?, RECORD, |section, record| {
            let mut text = |at: usize| {
                let offset = u32_at(record, at).unwrap_or(0);
                let text = || Arc::from(btf.string(offset));
                Arc::clone(strings.entry(offset).or_insert_with(text))
            };
            let place = u32_at(record, 12).unwrap_or(0);
            let line = LineInfo {
                offset: u32_at(record, 0).unwrap_or(0),
                file: text(4),
                text: text(8),
                line: place >> 10,
                column: place & 0x3ff,
            };
            lines.sections.entry(btf.string(section)).or_default().push(line);
        })?;
        // The part for CO-RE is there when the header is long enough to name it.
        if header >= 32 {
            for_records(part(24, "CO-RE table")?, RECORD, |section, _| {
                lines.core.get_or_insert(btf.string(section));
            })?;
        }
        for section in lines.sections.values_mut() {
            section.sort_by_key(|line| line.offset);
        }
        Ok(lines)
    }

    /// The lines of the section called `name`, in the order of their offsets.
    pub fn of_section(&self, name: &str) -> &[LineInfo] {
        self.sections.get(name).map_or(&[], Vec::as_slice)
    }

    /// A section with CO-RE relocations, which ask the loader to look up a kernel's types.
    pub fn core_section(&self) -> Option<&'a str> {
        self.core
    }
}

/// Calls `each` with the name of the section and the bytes of every record of a table of `.BTF.ext`.
fn for_records(table: &[u8], least: u32, mut each: impl FnMut(u32, &[u8])) -> Result<(), BtfError> {
    if table.is_empty() {
        return Ok(());
    }
    let cut = || BtfError::new("a table of .BTF.ext is cut short");
    let size = u32_at(table, 0).ok_or_else(cut)?;
    let mut rest = table.get(4..).ok_or_else(cut)?;
    if size < least {
        return Err(BtfError::new(format!("a table of .BTF.ext has records of {size} bytes, too few")));
    }
    while !rest.is_empty() {
        let (Some(section), Some(count)) = (u32_at(rest, 0), u32_at(rest, 4)) else { return Err(cut()) };
        let length = u64::from(size) * u64::from(count);
        let length = usize::try_from(length).map_err(|_| cut())?;
        let (records, after) =
            rest.get(8..).and_then(|rest| rest.split_at_checked(length)).ok_or_else(cut)?;
        for record in records.chunks_exact(size as usize) {
            each(section, record);
        }
        rest = after;
    }
    Ok(())
}
