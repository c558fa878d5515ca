//! What an image for the kernel must be: rules, held against the file that the linker wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use goblin::pe::PE;
use serde_json::json;

use crate::shell;

/// `IMAGE_SUBSYSTEM_NATIVE`.
const NATIVE: u16 = 1;
/// Bits of `DllCharacteristics`, by name.
const WANTED: [(&str, u16); 4] =
    [("high-entropy-va", 0x20), ("dynamic-base", 0x40), ("force-integrity", 0x80), ("nx-compat", 0x100)];
/// `GUARD_CF`: the cross build has no load configuration, so that it is said and not demanded.
const GUARD_CF: u16 = 0x4000;
const EXECUTE: u32 = 0x2000_0000;
const WRITE: u32 = 0x8000_0000;
/// Whose functions may be imported. cng.sys gives random numbers.
const ALLOWED: [&str; 4] = ["cng.sys", "fwpkclnt.sys", "ndis.sys", "ntoskrnl.exe"];
/// What wdk-sys defines for the linker's sake, and a library in Rust exports with it.
const STUBS: [&str; 4] = ["_fltused", "__CxxFrameHandler3", "__CxxFrameHandler4", "__GSHandlerCheck_EH4"];
/// The C runtime's and the compiler's names that would mean work at run time that a kernel does not have.
const RUNTIME: [&str; 5] =
    ["__chkstk", "__CxxFrameHandler3", "_Unwind_Resume", "__C_specific_handler", "malloc"];

/// A driver image.
pub(crate) struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A rule, and what breaks it.
pub(crate) struct Rule {
    name: &'static str,
    broken: Vec<String>,
}

impl Rule {
    pub(crate) fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

/// Whether `made` is missing or not newer than `source`.
pub(crate) fn newer(source: &Path, made: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    time(made).is_none_or(|made| time(source).is_none_or(|source| made <= source))
}

impl Image {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), bytes: fs::read(path)? })
    }

    fn parsed(&self) -> Result<PE<'_>> {
        PE::parse(&self.bytes).with_context(|| format!("{} is no image", self.path.display()))
    }

    /// Every rule that can be read off the file.
    pub(crate) fn rules(&self) -> Result<Vec<Rule>> {
        let image = self.parsed()?;
        let header = image.header.optional_header.context("an image has an optional header")?.windows_fields;
        let mut rules = Vec::new();
        let mut rule = |name, broken: Vec<String>| rules.push(Rule { name, broken });
        let unless = |holds: bool, otherwise: String| if holds { Vec::new() } else { vec![otherwise] };

        rule(
            "native subsystem",
            unless(header.subsystem == NATIVE, format!("subsystem {}", header.subsystem)),
        );
        rule("its entry is DriverEntry", {
            let entry = image.exports.iter().find(|export| export.name == Some("DriverEntry"));
            let entry = entry.is_some_and(|export| export.rva == image.entry as usize);
            unless(entry, format!("the entry {:#x} is another", image.entry))
        });
        rule("no other export than wdk-sys's own", {
            let names = image.exports.iter().filter_map(|export| export.name);
            let strangers = names.filter(|name| *name != "DriverEntry" && !STUBS.contains(name));
            strangers.map(str::to_owned).collect()
        });
        rule("sections of whole pages", {
            unless(header.section_alignment == 4096, format!("alignment {}", header.section_alignment))
        });
        rule("address space layout and no-execute bits", {
            let missing = WANTED.iter().filter(|(_, bit)| header.dll_characteristics & bit == 0);
            missing.map(|(name, _)| (*name).to_owned()).collect()
        });
        rule("nothing writable is executable", {
            let both = EXECUTE | WRITE;
            let sections = image.sections.iter().filter(|section| section.characteristics & both == both);
            sections.map(|section| section.name().unwrap_or("?").to_owned()).collect()
        });
        rule("imports from the kernel alone", {
            let strangers = self.imports()?.into_keys().filter(|name| !ALLOWED.contains(&name.as_str()));
            strangers.collect()
        });
        rule("no import that is not listed", {
            let listed = listed()?;
            let names = self.imports()?.remove("ntoskrnl.exe").unwrap_or_default();
            names.into_iter().filter(|name| !listed.contains(name)).collect()
        });
        rule("no C runtime", {
            let names: BTreeSet<_> = self.imports()?.into_values().flatten().collect();
            RUNTIME.iter().filter(|name| names.contains(**name)).map(|name| (*name).to_owned()).collect()
        });
        rule("symbols beside it", self.symbols(&image));
        rule("no path of the machine that built it", {
            let root = shell::root().display().to_string();
            let home = std::env::var("HOME").unwrap_or_default();
            let found = [root, home, "/usr/src/".to_owned()].into_iter().filter(|path| {
                path.len() > 1 && self.bytes.windows(path.len()).any(|window| window == path.as_bytes())
            });
            found.collect()
        });
        Ok(rules)
    }

    /// Imported names by image.
    fn imports(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for import in self.parsed()?.imports {
            imports.entry(import.dll.to_owned()).or_default().insert(import.name.into_owned());
        }
        Ok(imports)
    }

    /// The debug directory names the PDB, which lies there and is of this image: both carry one identity.
    fn symbols(&self, image: &PE<'_>) -> Vec<String> {
        let Some(info) = image.debug_data.as_ref().and_then(|debug| debug.codeview_pdb70_debug_info) else {
            return vec!["the image names no PDB".to_owned()];
        };
        let name = String::from_utf8_lossy(info.filename).trim_end_matches('\0').to_owned();
        let pdb = fs::read(self.path.with_file_name(&name)).unwrap_or_default();
        let same = pdb.windows(16).any(|bytes| bytes == info.signature);
        if name == "tidegate.pdb" && same { Vec::new() } else { vec![format!("{name} is not this image's")] }
    }

    pub(crate) fn text(&self, rules: &[Rule]) -> String {
        let mut text = String::new();
        let Ok(image) = self.parsed() else { return text };
        let _ = writeln!(text, "{}: {} bytes", self.path.display(), self.bytes.len());
        for section in &image.sections {
            let (read, write, execute) =
                ("r", if section.characteristics & WRITE != 0 { "w" } else { "-" }, {
                    if section.characteristics & EXECUTE != 0 { "x" } else { "-" }
                });
            let name = section.name().unwrap_or("?");
            let _ = writeln!(text, "  {name:<8} {:>7} bytes {read}{write}{execute}", section.virtual_size);
        }
        for (image, names) in self.imports().unwrap_or_default() {
            let _ = writeln!(text, "  imports {:>2} of {image}", names.len());
        }
        for rule in rules {
            let state = if rule.holds() { "ok  " } else { "FAIL" };
            let _ = writeln!(
                text,
                "{state} {}{}",
                rule.name,
                rule.broken.iter().fold(String::new(), |all, one| all + "\n       " + one)
            );
        }
        text
    }

    pub(crate) fn json(&self, rules: &[Rule]) -> Result<String> {
        let image = self.parsed()?;
        let header = image.header.optional_header.context("an image has an optional header")?.windows_fields;
        let sections: Vec<_> = image
            .sections
            .iter()
            .map(|section| {
                json!({
                    "name": section.name().unwrap_or("?"),
                    "bytes": section.virtual_size,
                    "writable": section.characteristics & WRITE != 0,
                    "executable": section.characteristics & EXECUTE != 0,
                })
            })
            .collect();
        let rules: Vec<_> = rules
            .iter()
            .map(|rule| json!({"rule": rule.name, "holds": rule.holds(), "broken": rule.broken}))
            .collect();
        let all = json!({
            "bytes": self.bytes.len(),
            "sections": sections,
            "imports": self.imports()?,
            "guard_cf": header.dll_characteristics & GUARD_CF != 0,
            "rules": rules,
        });
        Ok(serde_json::to_string_pretty(&all)?)
    }
}

/// Every name that a list of imports allows, as the image carries it.
fn listed() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for list in fs::read_dir(shell::root().join("kernel/driver/sys/imports"))? {
        let text = fs::read_to_string(list?.path())?;
        let exports = text.split_once("EXPORTS").map_or("", |(_, exports)| exports);
        // `NAME == IMPORT`: linked by the first name, imported by the second.
        names.extend(exports.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned));
    }
    Ok(names)
}
