//! `cargo xtask lab`: the real driver in a Wine process, over doubles of the kernel and of the filter engine.
//!
//! `docs/lab.md` says what it proves and how it works.

mod images;
mod wine;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{driver, programs, setup, shell};
use wine::Session;

/// What `cargo xtask lab` was asked to do.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
    /// Only scenarios whose name has this text in it
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Abuse the driver instead: requests that no client makes, clients that are killed, memory that is short
    #[arg(long)]
    abuse: bool,
    /// How long to abuse it
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Run everything so many times, each in a prefix of its own; print a line for each, and stop at the first that fails
    #[arg(long, value_name = "TIMES", conflicts_with_all = ["json", "abuse"])]
    repeat: Option<u32>,
}

/// Where the lab is in the file system that drivers and programs see.
const HERE: &str = r"C:\tidegate-lab";

/// What came of it.
struct Found {
    rows: Vec<Value>,
    speed: Vec<Value>,
    /// What the driver left behind, each time that it was unloaded.
    unloads: Vec<Unload>,
}

/// What a driver left behind.
struct Unload {
    when: &'static str,
    bytes: u64,
    violations: Vec<String>,
}

/// What a file of the project is called by programs in the lab.
fn here(path: &str) -> String {
    format!("Z:{}", shell::root().join(path).display().to_string().replace('/', "\\"))
}

fn folder() -> PathBuf {
    shell::root().join("target/lab")
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let built = Built::new(Pace::Fast)?;
    let filter = options.filter.as_deref();
    if let Some(times) = options.repeat {
        return repeat(&built, times, filter);
    }
    let lab = Lab::start(&built, options.json)?;
    if options.abuse {
        return lab.abuse(options.seconds);
    }
    let found = lab.run(filter, true)?;
    if options.json {
        println!("{}", found.json());
    } else {
        print!("{}", found.closing());
    }
    ensure!(found.holds(), "the driver did not do what the user-space host does");
    Ok(())
}

/// Runs everything again and again. What the run that fails leaves is kept.
fn repeat(built: &Built, times: u32, filter: Option<&str>) -> Result<()> {
    for run in 1..=times {
        let begun = Instant::now();
        let found = Lab::start(built, true).and_then(|lab| lab.run(filter, true));
        let seconds = begun.elapsed().as_secs_f64();
        let said = match found {
            Ok(found) if found.holds() => {
                println!("run {run} of {times}: {seconds:.1} s, {} passed", found.counts().0);
                continue;
            }
            Ok(found) => found.json().to_string(),
            Err(error) => format!("{error:#}"),
        };
        println!("run {run} of {times}: {seconds:.1} s, FAILED");
        let log = folder().join("failed.log");
        fs::copy(folder().join("wine.log"), &log)?;
        bail!(
            "{said}\n{} of {times} runs held, and then one failed; what drivers said is kept in {}",
            run - 1,
            log.display()
        );
    }
    println!("ok: {times} runs in a row");
    Ok(())
}

/// Builds what [`check`] runs.
pub(crate) fn prepare() -> Result<Built> {
    Built::new(Pace::Quick)
}

/// How many scenarios, and unloads, were as they must be, and how many were not.
pub(crate) fn check(built: &Built) -> Result<(u64, u64)> {
    let found = Lab::start(built, true)?.run(None, false)?;
    let (passed, failed) = found.counts();
    if failed > 0 {
        println!("{}", found.json());
    }
    Ok((passed, failed))
}

/// How the programs of the lab are built. The driver is always the one that ships.
#[derive(Clone, Copy)]
enum Pace {
    /// To be compared with the driver in its speed.
    Fast,
    /// To be there soon: half of the work.
    Quick,
}

/// What is built, before there is a prefix of Wine.
pub(crate) struct Built {
    image: PathBuf,
    programs: PathBuf,
}

impl Built {
    fn new(pace: Pace) -> Result<Self> {
        setup::need(&[&setup::POLICIES, &setup::DRIVER, &setup::LAB])?;
        programs::build()?;
        Ok(Self { image: driver::build()?, programs: build(pace)? })
    }
}

/// A prefix of Wine with everything in its place.
struct Lab {
    session: Session,
    quiet: bool,
}

impl Lab {
    fn start(built: &Built, quiet: bool) -> Result<Self> {
        let prefix = folder().join("prefix");
        wine::make(&prefix)?;
        let drive = prefix.join("drive_c");
        let here = drive.join("tidegate-lab");
        fs::create_dir_all(here.join("objects"))?;
        let system = drive.join("windows/system32");
        images::stage(
            &built.image,
            &built.programs.join("fwpkclnt.dll"),
            &here.join("tidegate.sys"),
            &system.join("drivers"),
        )?;
        fs::copy(shell::root().join("inf/tidegate.inf"), here.join("tidegate.inf"))?;
        for name in ["tidegate.exe", "traffic.exe"] {
            fs::copy(built.programs.join(name), here.join(name))?;
        }
        shell::run(
            shell::command(&["x86_64-w64-mingw32-gcc", "-O2", "-s", "-shared", "-o"])
                .arg(system.join("bcryptprimitives.dll"))
                .args(["kernel/sim/lab/bcryptprimitives.c", "-ladvapi32"]),
        )?;
        for object in fs::read_dir(shell::root().join("target/programs"))? {
            let object = object?.path();
            if object.extension().is_some_and(|extension| extension == "o") {
                fs::copy(&object, here.join("objects").join(object.file_name().unwrap_or_default()))?;
            }
        }
        let hold = [&format!("{HERE}\\traffic.exe"), "hold"];
        Ok(Self { session: Session::start(&prefix, &folder().join("wine.log"), &hold)?, quiet })
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            println!("{text}");
        }
    }

    /// Runs one of the lab's programs; what it printed.
    fn program(&self, name: &str, words: &[&str]) -> Result<String> {
        self.session.run(&format!("{HERE}\\{name}.exe"), words)
    }

    /// A command of `tidegate.exe`, shown with its answer.
    fn tidegate(&self, words: &[&str]) -> Result<String> {
        let answer = self.program("tidegate", words)?;
        self.show(words, &answer);
        Ok(answer)
    }

    /// Shows a command of `tidegate.exe` with its answer.
    fn show(&self, words: &[&str], answer: &str) {
        self.say(&format!("> tidegate {}\n  {}", words.join(" "), answer.trim_end().replace('\n', "\n  ")));
    }

    /// Lines of JSON that the traffic printed.
    fn traffic(&self, words: &[&str]) -> Result<Vec<Value>> {
        let printed = self.program("traffic", words)?;
        printed.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    fn run(&self, filter: Option<&str>, speed: bool) -> Result<Found> {
        let objects = format!("{HERE}\\objects");
        self.tidegate(&["driver", "install", &format!("{HERE}\\tidegate.inf")])?;
        self.tidegate(&["driver", "start"])?;
        self.engine_restarts()?;
        self.command_line(&objects)?;

        self.say("\nscenarios: the driver beside the user-space host");
        let policies = here("programs");
        let mut words = vec!["scenarios", "--objects", &objects, &policies];
        if let Some(filter) = filter {
            words.extend(["--filter", filter]);
        }
        let rows = self.traffic(&words)?;
        for row in &rows {
            self.say(&line_of(row));
        }
        let speed = if speed { self.traffic(&["speed", &objects])? } else { Vec::new() };

        let mut unloads = Vec::new();
        self.traffic(&["leave", &objects])?;
        unloads.push(self.stop("with injections pending")?);
        self.tidegate(&["driver", "start"])?;
        self.tidegate(&["prog", "show"])?;
        unloads.push(self.stop("after a restart")?);

        let parameters = r"HKLM\SYSTEM\CurrentControlSet\Services\tidegate\Parameters";
        self.session.run(
            "reg.exe",
            &["add", parameters, "/v", "BootPersistent", "/t", "REG_DWORD", "/d", "1", "/f"],
        )?;
        let started = self.tidegate(&["driver", "start"])?;
        ensure!(started.contains("outlive"), "its filters are persistent: {started}");
        unloads.push(self.stop("with persistent filters")?);
        self.tidegate(&["driver", "uninstall"])?;
        Ok(Found { rows, speed, unloads })
    }

    /// The filters go and come with the base filtering engine, and the driver says so.
    fn engine_restarts(&self) -> Result<()> {
        let status = ["driver", "status"];
        for (runs, code) in [("false", Some(3)), ("true", Some(0))] {
            self.traffic(&["service", runs])?;
            // The driver follows in a work item.
            let mut last = (None, String::new());
            for _ in 0..50 {
                last = self.session.ask(&format!("{HERE}\\tidegate.exe"), &status)?;
                if last.0 == code {
                    break;
                }
            }
            ensure!(last.0 == code, "the filter engine runs: {runs}, and the driver says {last:?}");
            self.show(&status, &last.1);
        }
        Ok(())
    }

    /// Loads, shows and takes out policies as a user does.
    fn command_line(&self, objects: &str) -> Result<()> {
        let object = |name: &str| format!("{objects}\\{name}.o");
        self.tidegate(&[
            "prog",
            "load",
            &object("tls_sni_allow"),
            "--map",
            "allowed.example.com=1",
            "--attach",
        ])?;
        self.tidegate(&["prog", "load", &object("http_hdr_rewrite"), "--map", "header.0=X-Via: tidegate"])?;
        self.tidegate(&["prog", "load", &object("dns_filter")])?;
        self.tidegate(&["link", "attach", "http_hdr_rewrite", "--priority", "10"])?;
        let links = self.tidegate(&["link", "show"])?;
        let programs: Value = serde_json::from_str(&self.program("tidegate", &["-j", "prog", "show"])?)?;
        let programs = programs["programs"].as_array().cloned().unwrap_or_default();
        ensure!(programs.len() == 3, "three programs were loaded: {programs:?}");
        self.events()?;
        self.tidegate(&["map", "dump", "allowed"])?;
        self.tidegate(&["map", "update", "allowed", "example.net", "1"])?;
        self.tidegate(&["map", "lookup", "allowed", "example.net"])?;
        self.tidegate(&["map", "delete", "allowed", "example.net"])?;
        for link in links.lines().filter_map(|line| line.split_once(": ")) {
            if link.0.chars().all(|digit| digit.is_ascii_digit()) {
                self.tidegate(&["link", "detach", link.0])?;
            }
        }
        for program in programs {
            self.tidegate(&["prog", "unload", program["name"].as_str().unwrap_or_default()])?;
        }
        let left = self.tidegate(&["map", "show"])?;
        ensure!(left.trim() == "0 maps", "maps are left: {left}");
        Ok(())
    }

    /// A policy's records come to who waits for them, while a real client's connection is refused.
    fn events(&self) -> Result<()> {
        let program = format!("{HERE}\\tidegate.exe");
        let words = ["event", "refused", "--count", "1"];
        let waits = self.session.begin(60, &program, &words)?;
        // Long enough that it waits; when it does not yet, the record waits for it.
        sleep(Duration::from_millis(300));
        self.traffic(&["replay", &here("examples/captures/tls13.pcap")])?;
        let came = self.session.end_of(&program, &words, waits)?;
        self.show(&words, &came);
        ensure!(came.contains("refused: ") && came.contains("1 record, 0 dropped"), "no record came: {came}");
        Ok(())
    }

    /// Stops the driver, and reads what it left behind.
    fn stop(&self, when: &'static str) -> Result<Unload> {
        let file = self.session.drive().join("tidegate-lab/unloaded");
        let _ = fs::remove_file(&file);
        self.tidegate(&["driver", "stop"])?;
        // What the driver frees last it may free a moment after it has said that it is gone.
        let mut unload = Unload::read(when, &file)?;
        for _ in 0..50 {
            if unload.bytes == 0 {
                break;
            }
            sleep(Duration::from_millis(10));
            unload = Unload::read(when, &file)?;
        }
        self.say(&format!("  {unload}"));
        Ok(unload)
    }

    fn abuse(&self, seconds: u64) -> Result<()> {
        let objects = format!("{HERE}\\objects");
        self.tidegate(&["driver", "install", &format!("{HERE}\\tidegate.inf")])?;
        self.tidegate(&["driver", "start"])?;
        let words = ["abuse", &objects, "--seconds", &seconds.to_string()];
        let printed = self.session.run_for(seconds + 120, &format!("{HERE}\\traffic.exe"), &words)?;
        println!("{}", printed.trim_end());
        self.tidegate(&["driver", "status"])?;
        let unload = self.stop("after the abuse")?;
        ensure!(unload.holds(), "{unload}");
        Ok(())
    }
}

/// Builds the doubles and the programs for Windows; the folder that they are in.
fn build(pace: Pace) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-pc-windows-gnu";
    let target = folder().join("build");
    let mut cargo = shell::command(&["cargo", "build", "--locked", "--quiet", "-Zbuild-std=std,panic_abort"]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(&target);
    for package in ["tidegate", "tidegate-lab-traffic", "tidegate-lab-doubles"] {
        cargo.args(["--package", package]);
    }
    cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTFLAGS");
    let profile = match pace {
        Pace::Fast => {
            // What is measured here is measured side by side.
            cargo.arg("--release");
            cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
            cargo.env("CARGO_PROFILE_RELEASE_PANIC", "abort");
            "release"
        }
        Pace::Quick => {
            // In the place of std's usual features: none that print backtraces, which would be half of std's work.
            cargo.arg("-Zbuild-std-features=optimize_for_size");
            cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_PROFILE_DEV_DEBUG", "0");
            cargo.env("CARGO_PROFILE_DEV_PANIC", "abort").env("CARGO_INCREMENTAL", "0");
            "debug"
        }
    };
    shell::run(&mut cargo)?;
    Ok(target.join(TARGET).join(profile))
}

fn holds(row: &Value) -> bool {
    row["equal"] == true && row["violations"] == 0 && row["leaked_bytes"] == 0
}

fn line_of(row: &Value) -> String {
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let mut line = format!(
        "  {}  {:<20} {}  ({} runs)",
        if holds(row) { "equal" } else { "FAIL " },
        text("object"),
        text("scenario"),
        row["runs"]
    );
    for wrong in row["wrong"].as_array().into_iter().flatten() {
        line += &format!("\n         {}", wrong.as_str().unwrap_or_default().replace('\n', "\n         "));
    }
    if row["leaked_bytes"] != 0 {
        line += &format!("\n         {} bytes of pool leaked", row["leaked_bytes"]);
    }
    line
}

impl Unload {
    /// Reads the doubles' last words: bytes and blocks of pool and the number of violations, then those.
    fn read(when: &'static str, file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).context("the doubles saw no end of the driver")?;
        let mut lines = text.lines();
        let Some(bytes) = lines.next().and_then(|head| head.split(' ').next()?.parse().ok()) else {
            bail!("the doubles said something else: {text}");
        };
        Ok(Self { when, bytes, violations: lines.map(str::to_owned).collect() })
    }

    fn holds(&self) -> bool {
        self.bytes == 0 && self.violations.is_empty()
    }
}

impl std::fmt::Display for Unload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.violations.len();
        write!(f, "unloaded {}: {} bytes of pool left, {count} rules broken", self.when, self.bytes)?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n    {violation}"))
    }
}

impl Found {
    fn counts(&self) -> (u64, u64) {
        let all = self.rows.len() + self.unloads.len();
        let passed = self.rows.iter().filter(|row| holds(row)).count()
            + self.unloads.iter().filter(|unload| unload.holds()).count();
        (passed as u64, (all - passed) as u64)
    }

    fn holds(&self) -> bool {
        !self.rows.is_empty() && self.counts().1 == 0
    }

    fn json(&self) -> Value {
        let unloads: Vec<_> = self
            .unloads
            .iter()
            .map(|unload| {
                json!({"when": unload.when, "leaked_bytes": unload.bytes, "violations": unload.violations.len()})
            })
            .collect();
        json!({"schema": 1, "rows": self.rows, "speed": self.speed, "unloads": unloads})
    }

    fn closing(&self) -> String {
        let mut text = String::from("\nspeed: the driver beside the user-space host, medians of one run\n");
        for row in &self.speed {
            let time = |field: &str| row[field].as_f64().unwrap_or_default() / 1000.0;
            text += &format!(
                "  {:<32} {:>10.2} us  host {:>10.2} us  ratio {:.2}\n",
                row["measured"].as_str().unwrap_or_default(),
                time("driver_ns"),
                time("host_ns"),
                row["ratio"].as_f64().unwrap_or_default()
            );
        }
        let (passed, failed) = self.counts();
        text + &format!("{}: {passed} passed, {failed} failed\n", if self.holds() { "ok" } else { "FAILED" })
    }
}
