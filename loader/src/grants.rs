//! What programs may do at most, for people: read as they type it, and said in words, as is what goes beyond it.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::helper::{self, Capability};
use tidegate_abi::{Grants, Hook};
use tidegate_verifier::{Proven, Verified};

use crate::error::{Error, Exit};
use crate::object::{Object, Program};
use crate::report::{capabilities, prove};

/// Grants as they are printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Granted {
    /// What it may do.
    may: Vec<&'static str>,
    /// Where it may run.
    hooks: Vec<&'static str>,
    /// Instructions that one run may take.
    budget: u32,
    #[serde(skip)]
    grants: Grants,
}

impl From<Grants> for Granted {
    fn from(grants: Grants) -> Self {
        let hooks = Hook::ALL.into_iter().filter(|hook| grants.allows(*hook)).map(Hook::name).collect();
        Self { may: capabilities(Capability(grants.capabilities)), hooks, budget: grants.budget, grants }
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grants { capabilities, hooks, budget } = self.grants;
        if self.grants == Grants::ALL {
            return f.write_str("everything");
        }
        match capabilities {
            _ if capabilities == Grants::ALL.capabilities => f.write_str("may do everything")?,
            0 => f.write_str("may decide, nothing else")?,
            _ => write!(f, "may decide, {}", self.may.join(", "))?,
        }
        match hooks {
            _ if hooks == Grants::ALL.hooks => f.write_str("; at every hook")?,
            0 => f.write_str("; at no hook")?,
            _ => write!(f, "; at {}", self.hooks.join(", "))?,
        }
        write!(f, "; budget {budget}")
    }
}

/// The power that `text` names, with blanks or with dashes.
///
/// # Errors
/// What there is, in words.
pub fn power(text: &str) -> Result<Capability, String> {
    let named = Capability::NAMED.into_iter().find(|(_, name)| *name == text.replace('-', " "));
    named.map(|(power, _)| power).ok_or_else(|| {
        let known: Vec<_> = Capability::NAMED.iter().map(|(_, name)| *name).collect();
        format!("there is no power `{text}`: a program may {}", known.join(", "))
    })
}

/// The hook that `text` names.
///
/// # Errors
/// What there is, in words.
pub fn hook(text: &str) -> Result<Hook, String> {
    Hook::from_name(text).ok_or_else(|| {
        let known: Vec<_> = Hook::ALL.iter().map(|hook| hook.name()).collect();
        format!("there is no hook `{text}`: hooks are {}", known.join(", "))
    })
}

/// Grants of these powers, at these hooks; none named: all of them.
pub fn of(powers: Option<&[Capability]>, hooks: Option<&[Hook]>, budget: Option<u32>) -> Grants {
    Grants {
        capabilities: powers
            .map_or(Grants::ALL.capabilities, |powers| powers.iter().fold(0, |bits, power| bits | power.0)),
        hooks: hooks.map_or(Grants::ALL.hooks, Grants::hooks),
        budget: budget.unwrap_or(Grants::ALL.budget),
    }
}

/// Why the runtime does not load a program with `grants`.
pub fn not_loaded(object: &Object, program: &Program, grants: Grants) -> Error {
    let beyond = beyond(object, program, grants).join("; ");
    error(format!(
        "program `{}` goes beyond its grants: {beyond}; granted: {}",
        program.name,
        Granted::from(grants)
    ))
}

/// Why the runtime does not run a program with `grants` at `hook` within `budget`.
pub fn not_linked(program: &str, grants: Grants, hook: Hook, budget: u32) -> Error {
    let mut beyond = Vec::new();
    if !grants.allows(hook) {
        beyond.push(format!("it is to run at {}", hook.name()));
    }
    if budget > grants.budget {
        beyond.push(format!("a link has the budget {budget}"));
    }
    let (beyond, granted) = (beyond.join("; "), Granted::from(grants));
    error(format!("program `{program}` goes beyond its grants: {beyond}; granted: {granted}"))
}

fn error(message: String) -> Error {
    Error::new("not-granted", Exit::Denied, message).with_help(
        "grant it more, where it is loaded or its signer in the trust file, or have the program do less",
    )
}

/// What a program does that `grants` do not cover, in words: nothing, when it is within them.
pub fn beyond(object: &Object, program: &Program, grants: Grants) -> Vec<String> {
    // One that is refused goes beyond nothing.
    let Ok(proven) = prove(object, program) else { return Vec::new() };
    let missing = Capability::NAMED
        .into_iter()
        .filter(|(power, _)| power.0 & proven.capabilities().0 & !grants.capabilities != 0);
    let mut beyond: Vec<_> =
        missing.map(|(power, name)| format!("{}: may {name}", doing(program, &proven, power))).collect();
    if proven.max_cost() > u64::from(grants.budget) {
        beyond.push(format!("a run takes up to {} instructions", proven.max_cost()));
    }
    beyond
}

/// By what a program uses `power`.
fn doing(program: &Program, proven: &Verified, power: Capability) -> String {
    let is_reached = |slot| proven.proven(slot).contains(Proven::REACHED);
    let calls =
        program.insns.iter().enumerate().filter(|(slot, insn)| insn.is_helper_call() && is_reached(*slot));
    let helpers = calls.filter_map(|(_, insn)| helper::by_number(insn.imm.cast_unsigned()));
    let helpers = helpers.filter(|helper| helper.capability == power);
    let mut names: Vec<_> = helpers.map(|helper| format!("`{}`", helper.name)).collect();
    names.sort();
    names.dedup();
    match power {
        _ if !names.is_empty() => format!("it uses {}", names.join(", ")),
        Capability::SEE_PAYLOAD => "it reads the bytes that it is shown".into(),
        _ => "it blocks data or resets connections".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");

    #[test]
    fn names_are_those_that_are_printed_with_dashes_or_blanks() {
        for (wanted, name) in Capability::NAMED {
            assert_eq!(power(name), Ok(wanted));
            assert_eq!(power(&name.replace(' ', "-")), Ok(wanted));
        }
        assert!(power("fly").expect_err("no such power").contains("may see payload, edit"));
        assert!(hook("stream").expect_err("no such hook").contains("stream-v4"));
    }

    #[test]
    fn grants_are_said_as_briefly_as_they_can_be() {
        let said = |grants: Grants| Granted::from(grants).to_string();
        assert_eq!(said(Grants::ALL), "everything");
        assert_eq!(
            said(of(Some(&[]), None, None)),
            "may decide, nothing else; at every hook; budget 16777216"
        );
        let some = of(Some(&[Capability::INJECT, Capability::EDIT]), Some(&[Hook::StreamV6]), Some(9));
        assert_eq!(said(some), "may decide, edit, inject; at stream-v6; budget 9");
        assert_eq!(said(of(None, Some(&[]), Some(9))), "may do everything; at no hook; budget 9");
    }

    #[test]
    fn what_goes_beyond_is_named_by_what_does_it() {
        let object = Object::read(PROBES.as_ref()).expect("an object");
        let said = |program: &str, grants| {
            beyond(&object, object.program(program).expect("it is there"), grants).join("; ")
        };
        assert!(object.programs().iter().all(|program| said(&program.name, Grants::ALL).is_empty()));
        let nothing = of(Some(&[]), None, None);
        assert_eq!(
            said("drop_q", nothing),
            "it uses `tidegate_find`: may see payload; it blocks data or resets connections: may drop"
        );
        assert_eq!(said("account", nothing), "it uses `bpf_ringbuf_output`: may send events");
        assert_eq!(said("fails", of(Some(&[]), None, Some(1))), "a run takes up to 4 instructions");
        let error = not_loaded(&object, object.program("account").expect("it is there"), nothing);
        assert_eq!((error.code, error.exit), ("not-granted", Exit::Denied));
        assert!(
            error.message.ends_with("granted: may decide, nothing else; at every hook; budget 16777216"),
            "{error}"
        );
    }
}
