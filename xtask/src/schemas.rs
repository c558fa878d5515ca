//! Writes the JSON schemas of what the command prints. `cargo xtask test` holds them against what is committed.

use anyhow::Result;

use crate::shell;

/// Writes `loader/schemas/`, to be read before they are committed.
pub(crate) fn write() -> Result<()> {
    let mut tests =
        shell::command(&["cargo", "test", "--locked", "--quiet", "--package", "tidegate", "--lib"]);
    shell::run(tests.args(["--", "cli::schema"]).env("TIDEGATE_BLESS", "1"))?;
    println!("wrote loader/schemas/");
    Ok(())
}
