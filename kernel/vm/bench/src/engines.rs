//! The machines that are compared, each behind the same closure.

use anyhow::{Result, anyhow};
use tidegate_abi::{ProgramType, SendContext, limits};
use tidegate_verifier::verify;
use tidegate_vm::{Executable, Fault, Host, Memory, Stack};

use crate::programs::Program;

/// The machines, in the order of the table.
pub(crate) const NAMES: [&str; 5] = ["tidegate", "tidegate-checked", "rbpf", "rbpf-jit", "native"];

/// Number of the helper that the programs call.
const HELPER: u32 = 8;

/// One run: returns the program's result.
pub(crate) type Run<'a> = Box<dyn FnMut() -> u64 + 'a>;

struct Helpers;

impl Host for Helpers {
    #[inline]
    fn call(&mut self, helper: u32, _: [u64; 5], _: &mut Memory<'_>) -> Result<u64, Fault> {
        match helper {
            HELPER => Ok(3),
            number => Err(tidegate_vm::Cause::UnknownHelper { number }.into()),
        }
    }
}

/// Makes `program` ready to run on machine `engine`, over `window`.
pub(crate) fn prepare<'a>(engine: &str, program: &'a Program, window: &'a [u8]) -> Result<Run<'a>> {
    match engine {
        "tidegate" => {
            let program = tidegate_verifier::Program {
                program_type: ProgramType::Send,
                code: &program.code,
                maps: &[],
            };
            let verified =
                verify(&program, &Default::default()).map_err(|why| anyhow!("not verified: {why}"))?;
            Ok(tidegate(Executable::proven(&verified, &[])?, window))
        }
        "tidegate-checked" => Ok(tidegate(Executable::unverified(&program.code, &[], &[])?, window)),
        "rbpf" => {
            let machine = rbpf(program)?;
            let context = bytes(&context(window));
            Ok(Box::new(move || machine.execute_program(window, &context).unwrap_or(u64::MAX)))
        }
        "rbpf-jit" => {
            let mut machine = rbpf(program)?;
            machine.jit_compile()?;
            let mut shown = window.to_vec();
            let mut context = bytes(&context(&shown));
            let context: &'a mut [u8] = Box::leak(std::mem::take(&mut context).into_boxed_slice());
            let context: *mut [u8] = context;
            Ok(Box::new(move || {
                // SAFETY: the programs touch only their context and the bytes shown, which live as long as the closure.
                unsafe { machine.execute_program_jit(&mut shown, &mut *context) }.unwrap_or(u64::MAX)
            }))
        }
        _ => {
            let context = context(window);
            // SAFETY: as above.
            Ok(Box::new(move || unsafe { (program.native)(&raw const context) }))
        }
    }
}

/// Instructions of bytecode that one run of `program` takes.
pub(crate) fn instructions(program: &Program, window: &[u8]) -> Result<u64> {
    let mut stack = Stack::new();
    let executable = Executable::unverified(&program.code, &[], &[])?;
    executable.run(&mut Helpers, &mut stack, &mut SendContext::default(), window, limits::MAX_BUDGET)?;
    Ok((i64::from(limits::MAX_BUDGET) - stack.left()) as u64)
}

fn tidegate<'a>(executable: Executable, window: &'a [u8]) -> Run<'a> {
    let mut stack = Stack::new();
    let mut context = SendContext::default();
    Box::new(move || {
        executable.run(&mut Helpers, &mut stack, &mut context, window, limits::MAX_BUDGET).unwrap_or(u64::MAX)
    })
}

fn rbpf(program: &Program) -> Result<rbpf::EbpfVmMbuff<'_>> {
    let mut machine = rbpf::EbpfVmMbuff::new(Some(&program.code))?;
    machine.register_helper(HELPER, |_, _, _, _, _| 3)?;
    Ok(machine)
}

fn context(window: &[u8]) -> SendContext {
    let range = window.as_ptr_range();
    SendContext { data: range.start as u64, data_end: range.end as u64, ..SendContext::default() }
}

fn bytes(context: &SendContext) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<SendContext>()];
    bytes[..8].copy_from_slice(&context.data.to_le_bytes());
    bytes[8..16].copy_from_slice(&context.data_end.to_le_bytes());
    bytes
}
