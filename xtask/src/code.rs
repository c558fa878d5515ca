//! The machine code of an image: its functions, what they call, how much stack they take, and what they must not hold.
//!
//! Names and sizes come from the image's PDB, instructions from its text, both by LLVM's tools. A call through a pointer
//! leads to functions whose address is taken somewhere; how deep these few go is counted from where they begin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// A function, its place in the image's code, and what its instructions say.
#[derive(Default, Debug)]
struct Function {
    name: String,
    size: u64,
    /// Bytes of stack: what is pushed, what is reserved, and the return address.
    frame: u64,
    /// Places of the functions that it calls or jumps to.
    calls: BTreeSet<u64>,
}

/// The code of an image.
pub(crate) struct Code {
    functions: BTreeMap<u64, Function>,
    /// Instructions that a kernel's code must not hold, each with its function.
    foreign: Vec<String>,
}

impl Code {
    /// Reads the code of `image`, whose PDB lies beside it.
    pub(crate) fn read(image: &Path) -> Result<Self> {
        let symbols = image.with_extension("pdb");
        let symbols = shell::output(shell::command(&["llvm-pdbutil-22", "dump", "--symbols"]).arg(symbols))?;
        let listing = ["llvm-objdump-22", "--disassemble", "--no-show-raw-insn", "--x86-asm-syntax=intel"];
        let listing = shell::output(shell::command(&listing).arg(image))?;
        Self::parse(&symbols, &listing)
    }

    fn parse(symbols: &str, listing: &str) -> Result<Self> {
        let mut functions = functions(symbols);
        ensure!(!functions.is_empty(), "the PDB names no function");
        let mut code = Self { functions: BTreeMap::new(), foreign: Vec::new() };
        let mut start = None;
        for (address, instruction) in listing.lines().filter_map(instruction) {
            // The first instruction lies at the start of the code, where the PDB counts from.
            let at = address - *start.get_or_insert(address);
            let Some((&place, function)) = functions.range_mut(..=at).next_back() else { continue };
            if at >= place + function.size {
                continue;
            }
            let (mnemonic, operands) =
                instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
            if is_foreign(mnemonic, operands) {
                code.foreign.push(format!("{instruction} in {}", function.name));
            }
            if mnemonic == "push" {
                function.frame += 8;
            } else if mnemonic == "sub"
                && let Some(bytes) = operands.strip_prefix("rsp, ")
            {
                function.frame += number(bytes).context("a frame of a size that is not known")?;
            } else if (mnemonic == "call" || mnemonic.starts_with('j'))
                && let Some(target) = number(operands.trim())
            {
                let target = target - start.unwrap_or_default();
                if !(place..place + function.size).contains(&target) {
                    function.calls.insert(target);
                }
            }
        }
        code.functions = functions;
        Ok(code)
    }

    /// Instructions that a kernel's code must not hold.
    pub(crate) fn foreign(&self) -> &[String] {
        &self.foreign
    }

    /// The place of the function of this name.
    fn place(&self, name: &str) -> Result<u64> {
        let found = self.functions.iter().find(|(_, function)| function.name == name);
        Ok(*found.with_context(|| format!("the image has no function {name}"))?.0)
    }

    fn name(&self, place: u64) -> &str {
        self.functions.get(&place).map_or("(an import)", |function| &function.name)
    }

    /// Who calls a function that `wanted` names, and is none itself: both names.
    pub(crate) fn callers(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let callers = self.functions.values().filter(|caller| !wanted(&caller.name));
        let calls =
            callers.flat_map(|caller| caller.calls.iter().map(|place| (&caller.name, self.name(*place))));
        calls
            .filter(|(_, called)| wanted(called))
            .map(|(caller, called)| (caller.clone(), called.to_owned()))
            .collect()
    }

    /// Bytes of stack that `from` and all that it calls take at most, and the circles of calls on the way, whose rounds are
    /// counted once.
    pub(crate) fn depth(&self, from: &str) -> Result<(u64, BTreeSet<String>)> {
        let mut depths = BTreeMap::new();
        let mut circles = BTreeSet::new();
        let depth = self.depth_at(self.place(from)?, &mut Vec::new(), &mut depths, &mut circles);
        Ok((depth, circles))
    }

    fn depth_at(
        &self,
        place: u64,
        path: &mut Vec<u64>,
        depths: &mut BTreeMap<u64, u64>,
        circles: &mut BTreeSet<String>,
    ) -> u64 {
        if let Some(depth) = depths.get(&place) {
            return *depth;
        }
        // What is imported takes stack of its own, which is the system's to bound: no more than its return address here.
        let Some(function) = self.functions.get(&place) else { return 8 };
        if let Some(first) = path.iter().position(|other| *other == place) {
            circles
                .insert(path[first..].iter().map(|place| self.name(*place)).collect::<Vec<_>>().join(" -> "));
            return 0;
        }
        path.push(place);
        let below = function.calls.iter().map(|next| self.depth_at(*next, path, depths, circles)).max();
        path.pop();
        let depth = function.frame + below.unwrap_or(0);
        depths.insert(place, depth);
        depth
    }
}

/// The functions of `llvm-pdbutil dump --symbols`: a line with the name, then one with place and size.
fn functions(symbols: &str) -> BTreeMap<u64, Function> {
    let mut functions = BTreeMap::new();
    let mut name = None;
    for line in symbols.lines() {
        if let Some((kind, rest)) = line.split_once(" [size = ") {
            let is_function = kind.ends_with("S_GPROC32") || kind.ends_with("S_LPROC32");
            name = rest.split_once('`').filter(|_| is_function).and_then(|(_, name)| name.strip_suffix('`'));
        } else if let Some(name) = name.take()
            && let Some((place, size)) = place_and_size(line)
        {
            let function = Function { name: name.to_owned(), size, frame: 8, calls: BTreeSet::new() };
            functions.insert(place, function);
        }
    }
    functions
}

/// `.. addr = 0001:4912, code size = 147`: only the first section holds code.
fn place_and_size(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once("addr = 0001:")?;
    let (place, size) = rest.split_once(", code size = ")?;
    Some((place.parse().ok()?, size.split_whitespace().next()?.parse().ok()?))
}

/// A line of a listing: address and instruction.
fn instruction(line: &str) -> Option<(u64, &str)> {
    let (address, instruction) = line.split_once(':')?;
    Some((u64::from_str_radix(address.trim(), 16).ok()?, instruction.trim()))
}

/// A number as the listing writes it.
fn number(text: &str) -> Option<u64> {
    let text = text.split_whitespace().next()?;
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

/// Whether an instruction computes with floating point, or needs registers that the kernel does not save: x87, MMX, AVX.
/// Those that only move 16 bytes about, or count with integers in them, may stay.
fn is_foreign(mnemonic: &str, operands: &str) -> bool {
    const ARITHMETIC: [&str; 13] =
        ["add", "sub", "mul", "div", "sqrt", "min", "max", "cmp", "ucomi", "comi", "cvt", "rcp", "rsqrt"];
    let float =
        ["ss", "sd", "ps", "pd"].iter().any(|kind| mnemonic.ends_with(kind)) || mnemonic.starts_with("cvt");
    let computes = float && ARITHMETIC.iter().any(|kind| mnemonic.starts_with(kind));
    let wide = ["ymm", "zmm", "mm0", "mm1", "mm2", "mm3", "mm4", "mm5", "mm6", "mm7", "st("];
    let registers = operands.split(|c: char| !c.is_alphanumeric() && c != '(');
    let wide = registers.into_iter().any(|register| wide.iter().any(|wide| register.starts_with(wide)));
    computes || wide || mnemonic.starts_with('v') && !mnemonic.starts_with("ver") || mnemonic.starts_with('f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "     256 | S_GPROC32 [size = 76] `app::entry`
           parent = 0, end = 5788, addr = 0001:0000, code size = 32
    5792 | S_LPROC32 [size = 100] `app::middle<T>`
           parent = 0, end = 8864, addr = 0001:0032, code size = 32
    5999 | S_LDATA32 [size = 100] `app::DATA`
           type = 0x1, addr = 0003:0000
    8868 | S_LPROC32 [size = 124] `core::panicking::panic`
           parent = 0, end = 10008, addr = 0001:0064, code size = 16
";
    const LISTING: &str = "
tidegate.sys:\tfile format coff-x86-64
0000000180001000 <DriverEntry>:
180001000:      \tpush\trbx
180001001:      \tsub\trsp, 0x40
180001005:      \tcall\t0x180001020 <.text+0x20>
180001020:      \tsub\trsp, 24
180001024:      \tje\t0x180001030 <.text+0x30>
180001028:      \tcall\t0x180001040 <.text+0x40>
180001030:      \tcall\t0x180002000 <.text+0x1000>
180001038:      \tmovaps\txmm0, xmmword ptr [rcx]
180001040:      \tud2
";

    fn code(listing: &str) -> Code {
        Code::parse(SYMBOLS, listing).expect("well formed")
    }

    #[test]
    fn stack_is_counted_along_the_deepest_way() {
        let code = code(LISTING);
        assert_eq!(code.depth("app::entry").expect("there").0, (8 + 8 + 0x40) + (8 + 24) + 8);
        assert_eq!(code.depth("app::middle<T>").expect("there").0, 8 + 24 + 8);
        assert!(code.depth("app::nothing").is_err(), "a name that is not there is no success");
    }

    #[test]
    fn who_calls_a_panic_is_found_and_named() {
        let is_panic = |name: &str| name.contains("panicking");
        let found = code(LISTING).callers(is_panic);
        assert_eq!(found, [("app::middle<T>".to_owned(), "core::panicking::panic".to_owned())]);
        let without = LISTING.replace("call\t0x180001040 <.text+0x40>", "nop");
        assert!(code(&without).callers(is_panic).is_empty());
    }

    #[test]
    fn circles_are_told() {
        let circle = LISTING.replace("call\t0x180002000 <.text+0x1000>", "call\t0x180001000 <DriverEntry>");
        let (_, circles) = code(&circle).depth("app::entry").expect("there");
        assert_eq!(circles.into_iter().collect::<Vec<_>>(), ["app::entry -> app::middle<T>"]);
    }

    #[test]
    fn floating_point_and_wide_registers_are_foreign_and_moves_are_not() {
        for (mnemonic, operands) in [
            ("addsd", "xmm0, xmm1"),
            ("cvtsi2sd", "xmm0, rax"),
            ("ucomiss", "xmm0, xmm1"),
            ("fld", "st(1)"),
            ("fxsave", "[rax]"),
            ("vmovdqu", "ymm0, ymmword ptr [rcx]"),
            ("movq", "mm0, rax"),
            ("sqrtps", "xmm1, xmm0"),
        ] {
            assert!(is_foreign(mnemonic, operands), "{mnemonic} {operands}");
        }
        for (mnemonic, operands) in [
            ("movaps", "xmm0, xmmword ptr [rcx]"),
            ("movsd", "xmm0, qword ptr [rcx]"),
            ("xorps", "xmm0, xmm0"),
            ("paddq", "xmm0, xmm1"),
            ("sub", "rsp, 0x20"),
            ("add", "rax, rcx"),
            ("cmp", "eax, 1"),
            ("mul", "rcx"),
        ] {
            assert!(!is_foreign(mnemonic, operands), "{mnemonic} {operands}");
        }
    }
}
