//! A session of Wine that leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell;

const WINE: &str = "/usr/lib/wine/wine64";
const SERVER: &str = "/usr/lib/wine/wineserver";

/// How long a command may take, in seconds: far more than any needs. What hangs is an invisible dialog.
const PATIENCE: u64 = 120;

/// What the program says that holds a session open.
const HOLDING: &str = "holding";

/// What a program of Wine is started with. Debian's loader lies at 0x7d000000, Linux puts a program's heap up to 1 GiB
/// behind it, and Wine wants the page at 0x7ffe0000 for itself: now and then a process could not start ("failed to map the
/// shared user data"). So addresses are not drawn by lot, unless this machine forbids to ask for that.
static STILL: LazyLock<&[&str]> = LazyLock::new(|| {
    let still: &[&str] = &["setarch", "--addr-no-randomize"];
    let allowed = Command::new(still[0]).args(&still[1..]).arg("true").stderr(Stdio::null()).status();
    if allowed.is_ok_and(|status| status.success()) { still } else { &[] }
});

/// Gives a command the environment of a prefix.
fn environment(mut command: Command, prefix: &Path) -> Command {
    command
        .env("WINEPREFIX", prefix)
        .env("WINEDEBUG", "-all,err+all,+debugstr")
        // No downloads of runtimes that nobody needs.
        .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
        .env_remove("DISPLAY")
        .stdin(Stdio::null());
    command
}

/// A command in a prefix, with so many seconds until it is taken for hanging.
fn command(prefix: &Path, seconds: u64, program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &seconds.to_string()]).args(*STILL).arg(program);
    environment(command, prefix)
}

/// Makes a prefix at `path`. What was there before goes: an earlier run's drivers and services are not this one's.
pub(crate) fn make(path: &Path) -> Result<()> {
    if path.exists() {
        end(path)?;
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path)?;
    // Services inherit the output: a pipe would never see its end.
    let log = path.with_extension("log");
    let mut boot = command(path, PATIENCE, WINE);
    boot.args(["wineboot", "--init"]).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
    let made = shell::run(&mut boot);
    end(path)?;
    made.with_context(|| format!("Wine said:\n{}", fs::read_to_string(&log).unwrap_or_default()))
}

/// Ends every process of a prefix.
fn end(prefix: &Path) -> Result<()> {
    let mut server = command(prefix, 30, SERVER);
    // It fails when there is nothing to end.
    let _ = server.arg("--kill").stdout(Stdio::null()).stderr(Stdio::null()).status();
    // A process that was on its way up while the server ended waits for its answer for ever.
    let start = Instant::now();
    loop {
        let left = processes(prefix)?;
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(1) {
            let left: Vec<_> = left.iter().map(u32::to_string).collect();
            // One that has ended meanwhile is as good.
            let _ = Command::new("kill").arg("-KILL").args(left).stderr(Stdio::null()).status();
        }
        sleep(Duration::from_millis(20));
    }
}

/// The processes that live in a prefix.
fn processes(prefix: &Path) -> Result<Vec<u32>> {
    let mark = [b"WINEPREFIX=", prefix.as_os_str().as_encoded_bytes()].concat();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let Some(id) = process.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // One that is gone by now, or is another user's, is not ours.
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            found.push(id);
        }
    }
    Ok(found)
}

/// A session: services and drivers live until it ends, and do so too when this process is killed.
pub(crate) struct Session {
    prefix: PathBuf,
    log: PathBuf,
    /// Wine ends a session with its last program. This one waits for the end of what it reads, which comes with ours.
    holder: Child,
}

impl Session {
    /// Starts a session, which lasts as long as `holder` does; what it says, and what drivers say, goes to `log`. It says
    /// something when it runs.
    pub(crate) fn start(prefix: &Path, log: &Path, holder: &[&str]) -> Result<Self> {
        // Services inherit the output of the first process: a pipe would never see its end.
        let file = fs::File::create(log)?;
        let mut first = environment(Command::new("env"), prefix);
        first
            .args(*STILL)
            .arg(WINE)
            .args(holder)
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file);
        let holder = first.spawn().with_context(|| format!("cannot start {WINE}"))?;
        let mut session = Self { prefix: prefix.to_owned(), log: log.to_owned(), holder };
        let start = Instant::now();
        // Until then the next process might be the first.
        while !fs::read_to_string(log)?.lines().any(|line| line.trim() == HOLDING) {
            if session.holder.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(PATIENCE) {
                bail!("Wine does not start; the last lines of {}:\n{}", log.display(), session.last_lines());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(session)
    }

    fn last_lines(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The folder that programs see as `C:\`.
    pub(crate) fn drive(&self) -> PathBuf {
        self.prefix.join("drive_c")
    }

    /// Runs a program to its end; what it printed. Fails when it does, with what it and the drivers said.
    pub(crate) fn run(&self, program: &str, words: &[&str]) -> Result<String> {
        self.run_for(PATIENCE, program, words)
    }

    /// As [`run`](Self::run), with so many seconds until it is taken for hanging.
    pub(crate) fn run_for(&self, seconds: u64, program: &str, words: &[&str]) -> Result<String> {
        self.end_of(program, words, self.begin(seconds, program, words)?)
    }

    /// Starts a program, which [`end_of`](Self::end_of) waits for.
    pub(crate) fn begin(&self, seconds: u64, program: &str, words: &[&str]) -> Result<Child> {
        let mut command = command(&self.prefix, seconds, WINE);
        command.arg(program).args(words).env("WINEDEBUG", "-all,err+all");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("cannot start {WINE}"))
    }

    /// Runs a program to its end; its exit code, and what it printed.
    pub(crate) fn ask(&self, program: &str, words: &[&str]) -> Result<(Option<i32>, String)> {
        let out = self.begin(PATIENCE, program, words)?.wait_with_output()?;
        Ok((out.status.code(), String::from_utf8_lossy(&out.stdout).replace('\r', "")))
    }

    /// Waits for a program; what it printed. Fails when it does.
    pub(crate) fn end_of(&self, program: &str, words: &[&str], running: Child) -> Result<String> {
        let out = running.wait_with_output()?;
        let text = String::from_utf8_lossy(&out.stdout).replace('\r', "");
        if out.status.success() {
            return Ok(text);
        }
        bail!(
            "{program} {} ended with {}\n{text}{}the last lines of {}:\n{}",
            words.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr),
            self.log.display(),
            self.last_lines()
        );
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = end(&self.prefix) {
            eprintln!("processes of Wine may be left: {error:#}");
        }
        // Ended with the rest.
        let _ = self.holder.wait();
    }
}
