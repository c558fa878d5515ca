//! Running other programs, and saying clearly which one failed and how.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace").to_path_buf()
}

/// A command made of `words`, to be run from the workspace's root.
pub(crate) fn command<W: AsRef<std::ffi::OsStr>>(words: &[W]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(root());
    command
}

/// `tidegate` as it was built last, with `words`.
pub(crate) fn tidegate<W: AsRef<std::ffi::OsStr>>(words: &[W]) -> Result<Command> {
    let mut command = built("tidegate")?;
    command.args(words);
    Ok(command)
}

/// A program of the workspace as it was built last: beside this one. Tests of the workspace build it, and a build for itself
/// would compile what it needs once more, with other features.
pub(crate) fn built(name: &str) -> Result<Command> {
    let ours = std::env::current_exe().context("where is this program?")?;
    let mut command = Command::new(ours.with_file_name(name));
    command.current_dir(root());
    Ok(command)
}

/// What `command` would look like when typed.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs `command` to its end, its output going where ours goes. Fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote to standard output. Fails when it does, showing its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !out.status.success() {
        bail!("`{}` failed: {}\n{}", shown(command), out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A process in the background that ends when this value goes away, however that comes about.
pub(crate) struct Background(Child);

impl Background {
    /// Starts `command` in the background; its standard error is kept for [`Background::stderr`].
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
        Ok(Self(child))
    }

    /// The process's standard error; only the first caller gets it.
    pub(crate) fn stderr(&mut self) -> Option<impl std::io::Read + use<>> {
        self.0.stderr.take()
    }

    /// Asks the process to finish (SIGINT, as Ctrl-C would) and waits until it has.
    pub(crate) fn interrupt(mut self) -> Result<()> {
        run(Command::new("sh").arg("-c").arg(format!("kill -INT {}", self.0.id())))?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only when the process is already gone, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
