//! Writes the page of the verifier's codes and the texts that planted mistakes are shown with. `cargo xtask test` holds
//! both against what is committed.

use anyhow::Result;

use crate::programs;
use crate::shell;

/// Writes `docs/refusals.md` and `loader/tests/planted/`, to be read before they are committed.
pub(crate) fn write() -> Result<()> {
    programs::build()?;
    let mut tests = shell::command(&["cargo", "test", "--locked", "--quiet", "--package", "tidegate"]);
    shell::run(tests.args(["--test", "explain", "--test", "planted"]).env("TIDEGATE_BLESS", "1"))?;
    println!("wrote docs/refusals.md and loader/tests/planted/");
    Ok(())
}
