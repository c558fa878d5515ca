//! Programs: verified, compiled, and bound to their maps.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::AtomicU8;

use tidegate_abi::control::{Id, Name, ProgramInfoReply, ProgramLoad, Refusal, Status, tag};
use tidegate_abi::{Grants, Insn, MapDef, ProgramType};
use tidegate_verifier as verifier;
use tidegate_vm::{CompileError, Executable, MapBinding, Shared};

use crate::counters::Tally;
use crate::dice::Dice;
use crate::map::Map;
use crate::memory::{push, room, vector};
use crate::platform::Platform;

/// A program that was verified, ready to run.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) id: Id,
    pub(crate) program_type: ProgramType,
    /// Instructions that one run takes at most: proven.
    pub(crate) max_cost: u64,
    /// The maps that the bytecode names by index; a map's handle is its index and one. They live as long as the program.
    pub(crate) maps: Vec<Shared<Map>>,
    /// What it may do at most.
    pub(crate) grants: Grants,
    pub(crate) executable: Executable,
    pub(crate) tally: Tally,
    pub(crate) dice: Dice,
    name: Name,
    tag: u64,
    /// As it was verified, for whoever asks; what runs is the executable.
    code: Vec<u8>,
    capabilities: u32,
}

/// How a program is made executable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Kind {
    #[default]
    Plain,
    /// Which of its instructions run is written down.
    #[cfg(feature = "trace")]
    Traced,
}

/// Why a program was not loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    Status(Status),
    Refused(verifier::Refusal),
}

impl From<Status> for LoadError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Program {
    /// Verifies and compiles a program. `PASSIVE_LEVEL`; takes as long as the verifier's bounds allow.
    pub(crate) fn load(
        id: Id,
        request: &ProgramLoad<'_>,
        maps: Vec<Shared<Map>>,
        platform: &Platform,
        cancelled: &AtomicU8,
        kind: Kind,
    ) -> Result<Self, LoadError> {
        let grants = request.grants;
        if !grants.is_valid() {
            return Err(Status::Invalid.into());
        }
        let mut defs: Vec<MapDef> = room(maps.len())?;
        for map in &maps {
            push(&mut defs, map.def)?;
        }
        let program =
            verifier::Program { program_type: request.program_type, code: request.code, maps: &defs };
        let options = verifier::Options { cancelled: Some(cancelled), ..verifier::Options::default() };
        let verified = verifier::verify(&program, &options).map_err(LoadError::Refused)?;
        if !grants.covers(verified.capabilities()) || verified.max_cost() > u64::from(grants.budget) {
            return Err(Status::NotGranted.into());
        }
        let mut bindings: Vec<MapBinding> = room(maps.len())?;
        for (handle, map) in (1..).zip(&maps) {
            push(&mut bindings, map.binding(handle))?;
        }
        let made = match kind {
            Kind::Plain => Executable::new(&verified, &bindings),
            #[cfg(feature = "trace")]
            Kind::Traced => Executable::traced(&verified, &bindings),
        };
        let mut bytes = request.code.iter();
        let code = vector(request.code.len(), || bytes.next().copied().unwrap_or_default())?;
        let executable = made.map_err(|error| match error {
            CompileError::NoMemory => Status::NoMemory,
            // The verifier takes nothing that the machine does not: the two would disagree.
            _ => Status::Invalid,
        })?;
        Ok(Self {
            id,
            program_type: request.program_type,
            max_cost: verified.max_cost(),
            grants,
            executable,
            tally: Tally::new(platform)?,
            dice: Dice::new(platform)?,
            name: request.name.clone(),
            tag: tag(request.program_type, request.code),
            code,
            capabilities: verified.capabilities().0,
            maps,
        })
    }

    pub(crate) fn code(&self) -> &[u8] {
        &self.code
    }

    pub(crate) fn info(&self) -> ProgramInfoReply {
        let mut maps = heapless::Vec::new();
        for map in &self.maps {
            // A program names no more than a reply has room for.
            let _ = maps.push(map.id);
        }
        ProgramInfoReply {
            name: self.name.clone(),
            program_type: self.program_type,
            tag: self.tag,
            insns: (self.code.len() / Insn::SIZE) as u32,
            max_cost: self.max_cost,
            capabilities: self.capabilities,
            grants: self.grants,
            maps,
            counters: self.tally.read(),
        }
    }
}

/// The verifier's refusal as a message: a reason that is too long is cut.
pub(crate) fn in_words(refusal: &verifier::Refusal) -> Refusal {
    let mut message =
        Refusal { code: Default::default(), insn: refusal.insn as u32, reason: Default::default() };
    // Writing stops at the first character that does not fit: that is the cut.
    let _ = write!(Cut(|c| message.code.push(c).is_ok()), "{}", refusal.code);
    let _ = write!(Cut(|c| message.reason.push(c).is_ok()), "{refusal}");
    message
}

/// Text, character by character, for as long as the function takes it.
struct Cut<F: FnMut(char) -> bool>(F);

impl<F: FnMut(char) -> bool> Write for Cut<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.chars().all(&mut self.0) { Ok(()) } else { Err(fmt::Error) }
    }
}
