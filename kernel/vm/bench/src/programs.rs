//! The programs of the bench: their bytecode, their host code and their input.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use goblin::elf::Elf;
use tidegate_abi::SendContext;

/// Letter and name of each program, in the order of the table.
pub(crate) const NAMES: [(&str, &str); 8] = [
    ("a", "alu"),
    ("b", "scan"),
    ("c", "rules"),
    ("d", "checksum"),
    ("e", "calls"),
    ("f", "fnv"),
    ("g", "toeplitz"),
    ("x", "empty"),
];

/// A program as host code: it takes its context and returns its result.
pub(crate) type Native = unsafe extern "C" fn(*const SendContext) -> u64;

/// One program.
pub(crate) struct Program {
    /// The letter that it goes by.
    pub(crate) letter: &'static str,
    /// What it does, in a word.
    pub(crate) name: &'static str,
    /// Bytecode.
    pub(crate) code: Vec<u8>,
    /// Host code.
    pub(crate) native: Native,
}

/// Compiles the programs for both targets, in the folder `work`.
pub(crate) fn compile(work: &Path) -> Result<Vec<Program>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs.c");
    let (object, library) = (work.join("programs.o"), work.join("programs.so"));
    clang(&source, &object, &["-target", "bpf", "-mcpu=v3", "-c"])?;
    clang(&source, &library, &["-shared", "-fPIC"])?;
    let bytes = std::fs::read(&object)?;
    let elf = Elf::parse(&bytes).context("clang's object is no ELF file")?;
    let library = open(&library)?;
    let program = |(letter, name)| {
        let code = section(&elf, &bytes, &format!("bench/{name}"))?.to_vec();
        Ok(Program { letter, name, code, native: symbol(library, name)? })
    };
    NAMES.into_iter().map(program).collect()
}

fn clang(source: &Path, output: &Path, options: &[&str]) -> Result<()> {
    let mut command = Command::new("clang-19");
    command.args(["-O2", "-Wall", "-Werror"]).args(options).arg(source).arg("-o").arg(output);
    let status = command.status().context("cannot start clang-19: install the package of that name")?;
    ensure!(status.success(), "clang-19 failed on {}", source.display());
    Ok(())
}

fn section<'a>(elf: &Elf<'_>, bytes: &'a [u8], name: &str) -> Result<&'a [u8]> {
    let header =
        elf.section_headers.iter().find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(name));
    let header = header.with_context(|| format!("the object has no section {name}"))?;
    let range = header.file_range().context("a section without bytes")?;
    bytes.get(range).context("a section outside the file")
}

fn open(library: &Path) -> Result<*mut libc::c_void> {
    let path = CString::new(library.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string, and the library that was just compiled has no constructors.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    if handle.is_null() {
        bail!("cannot load {}", library.display());
    }
    Ok(handle)
}

fn symbol(library: *mut libc::c_void, name: &str) -> Result<Native> {
    let symbol = CString::new(name)?;
    // SAFETY: a live handle, which is never closed, and a C string.
    let address = unsafe { libc::dlsym(library, symbol.as_ptr()) };
    ensure!(!address.is_null(), "the library has no function {name}");
    // SAFETY: `PROGRAM` in programs.c gives every function of these names this type.
    Ok(unsafe { std::mem::transmute::<*mut libc::c_void, Native>(address) })
}

/// What the programs are shown: 1460 bytes that begin with an IPv4 and a TCP header, behind which lie eight rules.
/// They lie high, as packets do in a kernel; what callgrind gives a program lies where proofs don't hold.
pub(crate) fn window() -> Result<&'static [u8]> {
    let mut bytes: Vec<u8> =
        (0..1460u32).map(|at| if at % 5 == 0 { b'T' } else { (at * 7 + 1) as u8 }).collect();
    let header: [u8; 40] = [
        0x45, 0, 0x05, 0xb4, 0x1c, 0x46, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7, // IPv4
        0x30, 0x39, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0, // TCP
    ];
    bytes[..40].copy_from_slice(&header);
    for rule in 0..8 {
        let at = 64 + 16 * rule;
        bytes[at..at + 4].copy_from_slice(&header[12..16]);
        bytes[at + 4..at + 8].copy_from_slice(&header[16..20]);
        bytes[at + 8..at + 10].copy_from_slice(&header[20..22]);
        bytes[at + 10..at + 12].copy_from_slice(&header[22..24]);
        bytes[at + 12] = 6;
        // All but the last differ in one field, each rule in the next.
        if rule < 7 {
            bytes[at + [0, 4, 8, 10][rule % 4]] ^= 0xff;
        }
    }
    let high = (1_u64 << 36) as *mut libc::c_void;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, at the address or at another: it takes the place of none.
    let room = unsafe { libc::mmap(high, bytes.len(), access, kind, -1, 0) };
    ensure!(room != libc::MAP_FAILED, "no memory for the window: {}", std::io::Error::last_os_error());
    // SAFETY: the mapping has room for the bytes, is this function's alone, and stays.
    let room = unsafe { std::slice::from_raw_parts_mut(room.cast::<u8>(), bytes.len()) };
    room.copy_from_slice(&bytes);
    Ok(room)
}
