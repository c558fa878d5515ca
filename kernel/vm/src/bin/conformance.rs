//! A plugin for the public BPF conformance suite (`bpf_conformance`).
//!
//! `conformance [memory-hex] [options]`: the program comes as hexadecimal bytes on standard input; r1 is the address of the
//! memory and r2 its size. Writes r0 in hexadecimal. Options are for other machines and are ignored.

use std::io::Read;
use std::process::ExitCode;

use tidegate_abi::limits;
use tidegate_vm::{Cause, Executable, Fault, Host, Memory, Raw, Stack};

/// The one helper that the suite's vectors call: 5 gives its argument back.
struct Suite;

impl Host for Suite {
    fn call(&mut self, helper: u32, args: [u64; 5], _: &mut Memory<'_>) -> Result<u64, Fault> {
        match helper {
            5 => Ok(args[0]),
            number => Err(Cause::UnknownHelper { number }.into()),
        }
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = hex.chars().filter(|char| !char.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    if !digits.len().is_multiple_of(2) {
        return Err("an odd number of hexadecimal digits".into());
    }
    digits
        .chunks(2)
        .map(|pair| byte(pair).map_err(|_| format!("{pair:?} is no byte in hexadecimal")))
        .collect()
}

fn run() -> Result<u64, String> {
    let memory = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut memory = bytes(&memory)?;
    let mut program = String::new();
    std::io::stdin()
        .read_to_string(&mut program)
        .map_err(|error| format!("cannot read the program: {error}"))?;
    let program = Executable::unverified(&bytes(&program)?, &[], &[]).map_err(|error| error.to_string())?;
    let mut stack = Box::new(Stack::new());
    program
        .run(&mut Suite, &mut stack, &mut Raw(&mut memory), &[], limits::MAX_BUDGET)
        .map_err(|fault| fault.to_string())
}

fn main() -> ExitCode {
    match run() {
        Ok(result) => {
            println!("{result:x}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("conformance: {why}");
            ExitCode::FAILURE
        }
    }
}
