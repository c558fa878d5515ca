//! What fwps-sys declares, held against mingw-w64's headers as far as those have it too: sizes, offsets, numbers.
//!
//! The rows are those of fwps-sys itself; a C compiler that reads mingw-w64's headers checks each by a static assertion. What
//! these headers lack (most of fwpsk.h, NET_BUFFER) stands on the tables of fwps-sys alone.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use crate::driver;
use crate::shell;

/// Structs that both have, by the header that has them.
const MANAGEMENT: [&str; 15] = [
    "FWP_VALUE0",
    "FWP_CONDITION_VALUE0",
    "FWP_BYTE_BLOB",
    "FWP_BYTE_ARRAY16",
    "FWP_V4_ADDR_AND_MASK",
    "FWP_V6_ADDR_AND_MASK",
    "FWP_RANGE0",
    "FWPM_DISPLAY_DATA0",
    "FWPM_SESSION0",
    "FWPM_PROVIDER0",
    "FWPM_SUBLAYER0",
    "FWPM_CALLOUT0",
    "FWPM_ACTION0",
    "FWPM_FILTER_CONDITION0",
    "FWPM_FILTER0",
];
const KERNEL: [&str; 1] = ["MDL"];

/// Statuses that mingw-w64's headers lack.
const LACKING: [&str; 1] = ["FWP_DROP_NOICMP"];

/// Members that stand for a union without a name in C, and a member of that.
const UNIONS: [(&str, &str, &str); 3] = [
    ("FWP_VALUE0", "data", "uint8"),
    ("FWP_CONDITION_VALUE0", "data", "uint8"),
    ("FWPM_FILTER0", "context", "rawContext"),
];

/// Holds everything that both have together. Returns how many facts that were.
pub(crate) fn check() -> Result<u64> {
    let sources = shell::root().join("kernel/fwps-sys/src");
    let read = |name: &str| fs::read_to_string(sources.join(name)).with_context(|| name.to_owned());
    let (layout, status, packet) = (read("layout.rs")?, read("status.rs")?, read("packet.rs")?);

    let mut management = String::from("#include <windows.h>\n#include <fwpmtypes.h>\n#include <stddef.h>\n");
    let mut kernel = String::from("#include <ntddk.h>\n#include <stddef.h>\n");
    let mut facts = layouts(&layout, &MANAGEMENT, &mut management);
    facts += layouts(&layout, &KERNEL, &mut kernel);
    for (name, value) in constants(&status, "statuses! {").filter(|(name, _)| !LACKING.contains(name)) {
        // The statuses of remote calls carry the prefix of their facility instead.
        let prefix = if name.starts_with("EPT_NT_") { "" } else { "STATUS_" };
        let _ = writeln!(kernel, "_Static_assert({prefix}{name} == (NTSTATUS){value}, \"{name}\");");
        facts += 1;
    }
    for (name, value) in constants(&packet, "MDL_FLAG: i16 {") {
        let _ = writeln!(kernel, "_Static_assert(MDL_{name} == {value}, \"{name}\");");
        facts += 1;
    }
    for (file, text) in [("management.c", management), ("kernel.c", kernel)] {
        let path = driver::folder().join(file);
        fs::write(&path, text)?;
        let include = "/usr/share/mingw-w64/include";
        let mut clang = shell::command(&["clang-19", "--target=x86_64-w64-mingw32", "-fsyntax-only", "-w"]);
        clang.args([
            "-fms-extensions",
            "-D_AMD64_",
            "-DAMD64",
            "-D_WIN32_WINNT=0x0A00",
            "-DNTDDI_VERSION=0x0A000000",
        ]);
        clang.args(["-isystem", &format!("{include}/ddk"), "-isystem", include]).arg(path);
        shell::run(&mut clang)?;
    }
    Ok(facts)
}

/// Static assertions for the rows of `wanted` in the table of layouts. Returns how many were written.
fn layouts(table: &str, wanted: &[&str], to: &mut String) -> u64 {
    let mut facts = 0;
    let mut name = None;
    for line in table.lines().map(str::trim) {
        if let Some((head, numbers)) = line.strip_suffix('{').and_then(|line| line.split_once(": ")) {
            name = Some(head).filter(|head| wanted.contains(head));
            if let Some(name) = name
                && let Some(size) = numbers.split_whitespace().next()
            {
                let _ = writeln!(to, "_Static_assert(sizeof({name}) == {size}, \"{name}\");");
                facts += 1;
            }
        } else if let Some(name) = name {
            for member in line.split(',').filter_map(|member| member.trim().split_once(' ')) {
                let (offset, member) = (member.0, member.1.trim_start_matches("r#"));
                let union = UNIONS.iter().find(|union| union.0 == name && union.1 == member);
                let member = union.map_or(member, |union| union.2);
                let _ = writeln!(
                    to,
                    "_Static_assert(offsetof({name}, {member}) == {offset}, \"{name}.{member}\");"
                );
                facts += 1;
            }
        }
        if line == "}" {
            name = None;
        }
    }
    facts
}

/// The rows `NAME = VALUE,` behind the line that holds `start`, up to the closing brace.
fn constants<'s>(source: &'s str, start: &str) -> impl Iterator<Item = (&'s str, String)> + use<'s> {
    let rows = source.split_once(&format!("\n{start}")).or_else(|| source.split_once(start));
    let rows = rows.map_or("", |(_, rest)| rest.split_once('}').map_or(rest, |(rows, _)| rows));
    rows.lines().filter_map(|row| row.trim().strip_suffix(',')?.split_once(" = ")).map(|(name, value)| {
        let value = value.trim_end_matches("_u32").replace('_', "");
        (name, value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_assertions() {
        let table = "layouts! {\n    FWP_RANGE0: 32 align 8 {\n        0 valueLow, 16 valueHigh,\n    }\n    OTHER: 8 align 8 {\n        0 x,\n    }\n\
                     FWP_VALUE0: 16 align 8 {\n        0 r#type, 8 data,\n    }\n}";
        let mut text = String::new();
        assert_eq!(layouts(table, &["FWP_RANGE0", "FWP_VALUE0"], &mut text), 6);
        assert!(text.contains("offsetof(FWP_RANGE0, valueHigh) == 16"), "{text}");
        assert!(
            text.contains("offsetof(FWP_VALUE0, uint8) == 8")
                && text.contains("offsetof(FWP_VALUE0, type) == 0"),
            "{text}"
        );
        assert!(!text.contains("OTHER"));
    }

    #[test]
    fn constants_are_read_up_to_the_brace() {
        let source =
            "x\nstatuses! {\n    SUCCESS = 0,\n    BUSY = 0x8000_0011_u32,\n}\nother {\n    NOT = 1,\n}";
        let rows: Vec<_> = constants(source, "statuses! {").collect();
        assert_eq!(rows, [("SUCCESS", "0".to_owned()), ("BUSY", "0x80000011".to_owned())]);
    }
}
