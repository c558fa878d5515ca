//! The images of the lab: the driver with its imports led elsewhere, and the image that hands them on.
//!
//! The driver in the lab is the one that ships but for one thing: what it imports from `ntoskrnl.exe` and `ndis.sys` comes from
//! `labkrnl.sys`, which has no code of its own. Each of its exports is forwarded: to the doubles in `fwpkclnt.sys` where they
//! have it, else to Wine's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use goblin::pe::PE;
use goblin::pe::options::ParseOptions;
use goblin::pe::utils::find_offset;

use crate::shell;

/// Stands in for these.
const DOUBLE: &str = "labkrnl.sys";
const STOOD_IN_FOR: [&str; 2] = ["ntoskrnl.exe", "ndis.sys"];
const WINE: &str = "/usr/lib/x86_64-linux-gnu/wine/x86_64-windows/ntoskrnl.exe";

/// Puts the driver at `driver`, and the doubles and what forwards to them into the folder `drivers`.
pub(crate) fn stage(image: &Path, doubles: &Path, driver: &Path, drivers: &Path) -> Result<()> {
    let mut bytes = fs::read(image)?;
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for import in &PE::parse(&bytes)?.imports {
        wanted.entry(import.dll.to_owned()).or_default().insert(import.name.to_string());
    }
    let ours = fs::read(doubles)?;
    let ours: BTreeSet<String> = exports(&ours)?.into_keys().collect();
    let missing: Vec<_> =
        wanted.get("fwpkclnt.sys").into_iter().flatten().filter(|name| !ours.contains(*name)).collect();
    ensure!(
        missing.is_empty(),
        "the doubles have no {missing:?}, which the driver imports from fwpkclnt.sys"
    );

    let names = STOOD_IN_FOR.iter().filter_map(|image| wanted.get(*image)).flatten();
    forward(names, &ours, &drivers.join(DOUBLE))?;
    redirect(&mut bytes)?;
    fs::write(driver, bytes)?;
    fs::copy(doubles, drivers.join("fwpkclnt.sys"))?;
    Ok(())
}

/// Makes the image that forwards `names`.
fn forward<'a>(names: impl Iterator<Item = &'a String>, ours: &BTreeSet<String>, to: &Path) -> Result<()> {
    let wine = fs::read(WINE)?;
    let wine = exports(&wine)?;
    let mut list = format!("LIBRARY {DOUBLE}\nEXPORTS\n");
    let mut missing = Vec::new();
    for name in names {
        // One that checks something and hands on to Wine's has a name of its own.
        let guard = format!("Lab{name}");
        if ours.contains(&guard) {
            list += &format!("  {name}=fwpkclnt.sys.{guard}\n");
        } else if ours.contains(name) {
            list += &format!("  {name}=fwpkclnt.sys.{name}\n");
        } else if wine.get(name).is_some_and(|implemented| *implemented) {
            list += &format!("  {name}=ntoskrnl.exe.{name}\n");
        } else {
            missing.push(name);
        }
    }
    ensure!(missing.is_empty(), "neither the doubles nor Wine have {missing:?}, which the driver imports");
    let folder = shell::root().join("target/lab");
    let (definition, object) = (folder.join("labkrnl.def"), folder.join("empty.o"));
    fs::write(&definition, list)?;
    shell::run(shell::command(&["x86_64-w64-mingw32-gcc", "-c", "-x", "c", "/dev/null", "-o"]).arg(&object))?;
    shell::run(
        shell::command(&["lld-link-19", "/dll", "/noentry", "/machine:x64"])
            .arg(format!("/def:{}", definition.display()))
            .arg(format!("/out:{}", to.display()))
            .arg(&object),
    )
}

/// Leads the imports that are stood in for to the double: the name that their directory entries say is changed.
fn redirect(bytes: &mut [u8]) -> Result<()> {
    let (entries, name) = {
        let image = PE::parse(bytes)?;
        let optional = image.header.optional_header.context("an image has an optional header")?;
        let table = optional.data_directories.get_import_table().context("a driver imports something")?;
        let alignment = optional.windows_fields.file_alignment;
        let offset = |rva: u32| {
            find_offset(rva as usize, &image.sections, alignment, &ParseOptions::default())
                .context("an address lies in a section")
        };
        let mut entries = Vec::new();
        let mut name = None;
        let data = image.import_data.as_ref().context("a driver imports something")?;
        for (at, import) in data.import_data.iter().enumerate() {
            if !STOOD_IN_FOR.contains(&import.name) {
                continue;
            }
            let rva = import.import_directory_entry.name_rva;
            // The longest of the names has room for the double's.
            if import.name.len() >= DOUBLE.len() {
                name = Some((rva, offset(rva)?, import.name.len()));
            }
            const ENTRY: usize = 20;
            const NAME: usize = 12;
            entries.push(offset(table.virtual_address)? + at * ENTRY + NAME);
        }
        (entries, name.context("the driver imports from ntoskrnl.exe")?)
    };
    let (rva, at, length) = name;
    let place = bytes.get_mut(at..at + length).context("a name lies in the file")?;
    place.fill(0);
    place[..DOUBLE.len()].copy_from_slice(DOUBLE.as_bytes());
    for entry in entries {
        let place = bytes.get_mut(entry..entry + 4).context("the import table lies in the file")?;
        place.copy_from_slice(&rva.to_le_bytes());
    }
    Ok(())
}

/// What an image exports, and whether that is implemented: of the rest Wine has only the names.
fn exports(bytes: &[u8]) -> Result<BTreeMap<String, bool>> {
    let image = PE::parse(bytes)?;
    let named = image.exports.iter().filter_map(|export| Some((export.name?, export)));
    Ok(named
        .map(|(name, export)| {
            let code = export.offset.filter(|_| export.reexport.is_none());
            let stub = code.is_some_and(|offset| is_stub(&image, bytes, offset, export.rva, name));
            (name.to_owned(), !stub)
        })
        .collect())
}

/// Whether the code at `offset` is one of Wine's stubs: it loads the address of its own name, to complain with it.
fn is_stub(image: &PE<'_>, bytes: &[u8], offset: usize, rva: usize, name: &str) -> bool {
    let alignment = image.header.optional_header.map_or(4096, |header| header.windows_fields.file_alignment);
    // lea rcx or rdx, [rip + distance]
    const LOADS: [[u8; 3]; 2] = [[0x48, 0x8d, 0x0d], [0x48, 0x8d, 0x15]];
    const LENGTH: usize = 7;
    (0..28).any(|at| {
        let Some(code) = bytes.get(offset + at..offset + at + LENGTH) else { return false };
        let Some((head, distance)) = code.split_first_chunk::<3>() else { return false };
        let Ok(distance) = <[u8; 4]>::try_from(distance) else { return false };
        if !LOADS.contains(head) {
            return false;
        }
        let target = (rva + at + LENGTH) as i64 + i64::from(i32::from_le_bytes(distance));
        let found = usize::try_from(target)
            .ok()
            .and_then(|target| find_offset(target, &image.sections, alignment, &ParseOptions::default()));
        let text = found.and_then(|found| bytes.get(found..found + name.len() + 1));
        text.is_some_and(|text| text.strip_suffix(&[0]) == Some(name.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doubles_name_has_room_in_the_name_that_it_replaces() {
        assert!(STOOD_IN_FOR.iter().any(|name| name.len() >= DOUBLE.len()));
    }
}
