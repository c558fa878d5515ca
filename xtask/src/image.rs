//! What an image for the kernel must be: rules, held against the file that the linker wrote.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use goblin::pe::PE;
use serde_json::json;

use crate::code::Code;
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

/// What runs at DISPATCH_LEVEL, in the middle of the machine's network.
const DISPATCH: [&str; 4] = [
    "tidegate_callout::classify::stream",
    "tidegate_callout::classify::send",
    "tidegate_callout::injection::send_completed",
    "tidegate_callout::injection::stream_completed",
];
/// What takes a program from whoever may load one.
const VERIFY: &str = "tidegate_verifier::verify";
/// What registers the trace provider, once.
const TRACE: &str = "tidegate_sys::trace::register";

/// A driver image.
pub(crate) struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Bytes of stack, by function, as the rules found them.
    depths: RefCell<BTreeMap<String, u64>>,
}

/// A rule, and what breaks it.
pub(crate) struct Rule {
    name: &'static str,
    broken: Vec<String>,
}

impl Rule {
    pub(crate) fn of(name: &'static str, broken: Vec<String>) -> Self {
        Self { name, broken }
    }

    pub(crate) fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

/// Whether `made` is missing or not newer than `source`.
pub(crate) fn newer(source: &Path, made: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    time(made).is_none_or(|made| time(source).is_none_or(|source| made <= source))
}

/// Gives an image and its PDB an identity that is made of the image alone. The linker makes it of the PDB, which holds names of
/// folders that are new with every build.
pub(crate) fn identify(path: &Path) -> Result<()> {
    let (mut bytes, symbols) = (fs::read(path)?, path.with_extension("pdb"));
    let image = PE::parse(&bytes)?;
    let stamp = image.header.coff_header.time_date_stamp.to_le_bytes();
    let at = image.header.dos_header.pe_pointer as usize + 8;
    let debug = image.debug_data.as_ref().context("the image has no debug directory")?;
    let guid = debug.codeview_pdb70_debug_info.context("the image names no PDB")?.signature;
    let mut pdb = fs::read(&symbols)?;
    let places = |of: &[u8], bytes: &[u8]| -> Vec<usize> {
        bytes
            .windows(of.len())
            .enumerate()
            .filter(|(_, window)| *window == of)
            .map(|(place, _)| place)
            .collect()
    };
    // The stamp stands in the file header, and again with each entry of the debug directory, of which lld writes two.
    let (stamps, guids, symbols_guids) = (places(&stamp, &bytes), places(&guid, &bytes), places(&guid, &pdb));
    ensure!(stamps.contains(&at) && stamps.len() <= 3, "the time stamp stands at {stamps:?}");
    ensure!(guids.len() == 1 && symbols_guids.len() == 1, "the identity stands more than once");
    for (places, length) in [(&stamps, stamp.len()), (&guids, guid.len())] {
        places.iter().for_each(|place| bytes[*place..place + length].fill(0));
    }
    let hash = |seed: u64| {
        bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let halves = [hash(0xcbf2_9ce4_8422_2325), hash(0x8422_2325_cbf2_9ce4)].map(u64::to_le_bytes);
    let identity = halves.concat();
    stamps.iter().for_each(|place| bytes[*place..place + 4].copy_from_slice(&identity[..4]));
    bytes[guids[0]..guids[0] + 16].copy_from_slice(&identity);
    pdb[symbols_guids[0]..symbols_guids[0] + 16].copy_from_slice(&identity);
    fs::write(path, bytes)?;
    Ok(fs::write(symbols, pdb)?)
}

impl Image {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), bytes: fs::read(path)?, depths: RefCell::default() })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
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

        let code = Code::read(&self.path)?;
        rule("no floating point, and no register that the kernel does not save", code.foreign().to_vec());
        rule("no panic, not even without memory; but for a trace provider that is registered twice", {
            code.callers(is_panic)
                .into_iter()
                .filter(|(caller, _)| caller != TRACE)
                .map(|(caller, panic)| format!("{caller} -> {panic}"))
                .collect()
        });
        let mut circles = BTreeSet::new();
        for (name, roots, most) in [
            ("classify and completions take no more stack than 4 KiB", &DISPATCH[..], 4096),
            ("a verification takes no more stack than 4 KiB", &[VERIFY], 4096),
            (
                "a request takes no more stack than 8 KiB, of the kernel's 24",
                &["tidegate_sys::device::control"],
                8192,
            ),
        ] {
            let mut broken = Vec::new();
            for root in roots {
                let (depth, round) = code.depth(root)?;
                circles.extend(round);
                self.depths.borrow_mut().insert((*root).to_owned(), depth);
                if depth > most {
                    broken.push(format!("{root}: {depth} bytes"));
                }
            }
            rules.push(Rule { name, broken });
        }
        let circles = circles.into_iter().filter(|circle| !is_glue(circle)).collect();
        rules.push(Rule::of("no recursion", circles));
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

    pub(crate) fn text(&self, rules: &[Rule]) -> Result<String> {
        let mut text = String::new();
        let image = self.parsed()?;
        let _ = writeln!(text, "{}: {} bytes", self.path.display(), self.bytes.len());
        for section in &image.sections {
            let (read, write, execute) =
                ("r", if section.characteristics & WRITE != 0 { "w" } else { "-" }, {
                    if section.characteristics & EXECUTE != 0 { "x" } else { "-" }
                });
            let name = section.name().unwrap_or("?");
            let _ = writeln!(text, "  {name:<8} {:>7} bytes {read}{write}{execute}", section.virtual_size);
        }
        for (image, names) in self.imports()? {
            let _ = writeln!(text, "  imports {:>2} of {image}", names.len());
        }
        for (function, bytes) in self.depths.borrow().iter() {
            let _ = writeln!(text, "  {bytes:>6} bytes of stack: {function}");
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
        Ok(text)
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
            "stack": *self.depths.borrow(),
            "guard_cf": header.dll_characteristics & GUARD_CF != 0,
            "rules": rules,
        });
        Ok(serde_json::to_string_pretty(&all)?)
    }
}

/// Whether a function's name says that it stops the machine.
fn is_panic(name: &str) -> bool {
    const PANICS: [&str; 6] = [
        "core::panicking::",
        "core::option::unwrap_failed",
        "core::option::expect_failed",
        "core::result::unwrap_failed",
        "alloc::raw_vec::handle_error",
        "alloc::alloc::handle_alloc_error",
    ];
    PANICS.iter().any(|panic| name.starts_with(panic))
        || name.ends_with("_fail")
        || name.ends_with("::assert_failed")
        || name == "tidegate_sys::panic"
}

/// A circle of drop glue that is none when it runs: a packet that waits and a connection hold their engine, so that an engine
/// which goes has none of them to drop.
fn is_glue(circle: &str) -> bool {
    const HELD: [&str; 3] = ["Engine", "callout::injection::", "callout::flow::"];
    circle.split(" -> ").all(|name| name.contains("drop") && HELD.iter().any(|held| name.contains(held)))
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
