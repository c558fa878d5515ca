//! `tidegate proxy` beside a plain copy loop of the same asynchronous runtime, both before a real nginx.
//!
//! Every answer is compared byte for byte with what nginx has, and every file that clients bring with what nginx got. Copy
//! loop and proxy take turns, so that a ratio compares what ran within the same second or so, and the median of the rounds is
//! told. In one case two versions of the policy that edits, which write different headers, take each other's place again and
//! again while it is under load: nginx must see both, and nothing else.
#![forbid(unsafe_code)]

mod copy;
mod curl;
mod load;
mod servers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use load::{Load, Request};
use servers::{Child, Nginx};

/// Turns that copy loop and proxy take.
const ROUNDS: usize = 5;

#[derive(Parser)]
enum Cli {
    /// Measure
    Run {
        /// The command that is measured
        #[arg(long)]
        tidegate: PathBuf,
        /// Where the compiled policies are
        #[arg(long)]
        programs: PathBuf,
        /// Only cases whose name has this in it
        #[arg(long, default_value = "")]
        only: String,
        /// Print one JSON document instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Ask nginx with curl through the proxy: a header is changed, a name that is not allowed is cut
    Curl {
        /// The command
        #[arg(long)]
        tidegate: PathBuf,
        /// Where the compiled policies are
        #[arg(long)]
        programs: PathBuf,
    },
    /// Relay without looking: what a proxy is measured against
    Copy {
        /// Where connections go
        upstream: SocketAddr,
    },
}

/// What is measured: a policy, and how it is asked.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    object: &'static str,
    arguments: &'static [&'static str],
    /// Bytes of what is asked for.
    body: usize,
    /// Bytes of what is brought first, in a request of its own; 0 for none.
    brought: usize,
    /// How often it is asked for on one connection.
    times: usize,
    /// Connections in all rounds.
    connections: usize,
    at_once: usize,
    /// What nginx may see in the header of the policy; the policy is there once for each, and they take turns.
    seen: &'static [&'static str],
}

const VIA: &str = "tidegate";
const REWRITE: &[&str] = &["--map", "header.0=X-Via: tidegate", "--remote", "127.0.0.1:80"];
const LOOK: &[&str] = &["--map", "patterns.0={where = 3, size = 9, bytes = \"nowhere!!\"}"];
const PERMIT: &[&str] = &["--prog", "permit_all_stream"];

/// 4 KiB answers, one on each connection.
const SMALL: Case = Case {
    name: "",
    object: "http_hdr_rewrite.o",
    arguments: REWRITE,
    body: 4 << 10,
    brought: 0,
    times: 1,
    connections: 10_000,
    at_once: 64,
    seen: &[VIA],
};
/// The same with answers that take their time.
const LARGE: Case = Case { body: 4 << 20, connections: 200, at_once: 8, ..SMALL };

const CASES: [Case; 8] = [
    Case { name: "permit_all, 4 KiB answers", object: "permit_all.o", arguments: PERMIT, seen: &[], ..SMALL },
    Case { name: "permit_all, 4 MiB answers", object: "permit_all.o", arguments: PERMIT, seen: &[], ..LARGE },
    Case {
        name: "kill_on_pattern looks at every byte, 4 KiB answers",
        object: "kill_on_pattern.o",
        arguments: LOOK,
        seen: &[],
        ..SMALL
    },
    Case { name: "http_hdr_rewrite, 4 KiB answers", ..SMALL },
    Case { name: "http_hdr_rewrite, 10 requests a connection", times: 10, connections: 2_000, ..SMALL },
    Case { name: "http_hdr_rewrite, 64 KiB brought before", brought: 64 << 10, connections: 2_000, ..SMALL },
    Case {
        name: "http_hdr_rewrite, two versions take turns",
        arguments: &["--remote", "127.0.0.1:80"],
        seen: &["the old one", "the new one"],
        ..SMALL
    },
    Case { name: "http_hdr_rewrite, 4 MiB answers", ..LARGE },
];

/// What came of a case.
struct Row {
    case: &'static str,
    connections: usize,
    bytes_lost: u64,
    throughput_ratio: f64,
    /// Negative: the proxy was the quicker one, by chance.
    added_latency_us: i64,
    /// How often another version was put into place.
    replaced: u64,
    /// How many answers came of each of them.
    seen: Vec<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Copy { upstream } => copy::run(upstream).await,
        Cli::Curl { tidegate, programs } => {
            println!("ok: {} passed, 0 failed", curl::run(&tidegate, &programs).await?);
            Ok(())
        }
        Cli::Run { tidegate, programs, only, json } => {
            let nginx = Nginx::start(&CASES.map(|case| case.body)).await?;
            let copy = Child::start(&std::env::current_exe()?, &["copy", &nginx.address.to_string()]).await?;
            let mut rows = Vec::new();
            for case in CASES.iter().filter(|case| case.name.contains(&only)) {
                rows.push(measure(case, &tidegate, &programs, &nginx, copy.address).await?);
                if !json {
                    tell(rows.last());
                }
            }
            copy.interrupt().await?;
            if json {
                println!("{}", document(&rows));
            }
            ensure!(rows.iter().all(|row| row.bytes_lost == 0), "bytes were lost");
            Ok(())
        }
    }
}

async fn measure(
    case: &Case,
    tidegate: &Path,
    programs: &Path,
    nginx: &Nginx,
    copy: SocketAddr,
) -> Result<Row> {
    let object = programs.join(case.object);
    let (object, upstream) = (object.to_string_lossy(), nginx.address.to_string());
    let control = nginx.scratch().join("control");
    let control = control.to_string_lossy();
    let takes_turns = case.seen.len() > 1;
    let what = if takes_turns { ["--control", &control] } else { ["--", &object] };
    let arguments = ["-j", "proxy", "--listen", "127.0.0.1:0", "--upstream", &upstream];
    let proxy = Child::start(tidegate, &[&arguments, case.arguments, &what].concat()).await?;
    let turns = match takes_turns {
        true => Some(Turns::begin(tidegate, &control, &object, case.seen).await?),
        false => None,
    };

    let mut requests =
        vec![Request::Get { path: Nginx::path(case.body), body: nginx.body(case.body) }; case.times];
    if case.brought > 0 {
        requests.insert(0, Request::Put { folder: nginx.scratch().join("put"), size: case.brought });
    }
    let load = |address, seen: &[&'static str]| Load {
        address,
        connections: case.connections / ROUNDS,
        at_once: case.at_once,
        requests: requests.clone(),
        seen: seen.into(),
    };
    let (mut ratios, mut added, mut lost, mut seen) = (Vec::new(), Vec::new(), 0, vec![0; case.seen.len()]);
    for _ in 0..ROUNDS {
        let plain = load(copy, &[]).run().await?;
        let policy = load(proxy.address, case.seen).run().await?;
        ratios.push(policy.throughput() / plain.throughput());
        added.push(policy.latency.as_secs_f64() - plain.latency.as_secs_f64());
        lost += policy.bytes_lost;
        seen.iter_mut().zip(policy.seen).for_each(|(all, these)| *all += these);
        ensure!(plain.bytes_lost == 0, "the copy loop lost bytes: the measurement is broken");
    }
    let replaced = match turns {
        Some(turns) => turns.end().await?,
        None => 0,
    };
    let summary = proxy.interrupt().await?;
    let summary: Value = serde_json::from_str(&summary)?;
    let of = |field: &str| summary[field].as_u64().unwrap_or(u64::MAX);
    ensure!(summary["broken"].as_array().is_some_and(Vec::is_empty), "broken rules: {}", summary["broken"]);
    for count in ["errors", "failed", "dropped", "reset", "unreachable", "refused", "cut"] {
        ensure!(of(count) == 0, "{count}: {summary}");
    }
    ensure!(of("connections") as usize == case.connections, "connections are missing: {summary}");
    ensure!(seen.iter().all(|answers| *answers > 0), "a version was never in its place: {seen:?}");
    Ok(Row {
        case: case.name,
        connections: case.connections,
        bytes_lost: lost,
        throughput_ratio: median(ratios),
        added_latency_us: (median(added) * 1e6).round() as i64,
        replaced,
        seen,
    })
}

/// Versions of a policy that take each other's place in the links of a host, until it is enough.
struct Turns {
    stop: oneshot::Sender<()>,
    going: JoinHandle<Result<u64>>,
}

impl Turns {
    /// Loads the policy once for each header that it is to write, and attaches the first.
    async fn begin(tidegate: &Path, control: &str, object: &str, headers: &[&str]) -> Result<Self> {
        let tidegate = tidegate.to_owned();
        let control = control.to_owned();
        let ask = async move |arguments: &[&str]| -> Result<Value> {
            let first = ["-j", "--host", &control];
            let out = Command::new(&tidegate).args(first).args(arguments).kill_on_drop(true).output().await?;
            ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            Ok(serde_json::from_slice(&out.stdout)?)
        };
        let mut versions = Vec::new();
        for header in headers {
            let header = format!("header.0=X-Via: {header}");
            let attach = if versions.is_empty() { ["--attach"].as_slice() } else { &[] };
            let loaded = ask(&[&["prog", "load", object, "--map", &header], attach].concat()).await?;
            versions.push(loaded["programs"][0]["id"].to_string());
        }
        let links = ask(&["link", "show"]).await?;
        let links: Vec<_> =
            links["links"].as_array().into_iter().flatten().map(|link| link["id"].to_string()).collect();
        ensure!(!links.is_empty(), "nothing was attached");
        let (stop, mut stopped) = oneshot::channel();
        let going = tokio::spawn(async move {
            let mut replaced = 0;
            loop {
                for version in versions.iter().rev() {
                    for link in &links {
                        ask(&["link", "replace", link, version]).await?;
                    }
                    replaced += 1;
                    // Not closed, nothing sent: go on.
                    if timeout(Duration::from_millis(100), &mut stopped).await.is_ok() {
                        return Ok(replaced);
                    }
                }
            }
        });
        Ok(Self { stop, going })
    }

    /// How often another version was put into place.
    async fn end(self) -> Result<u64> {
        drop(self.stop);
        self.going.await?
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tell(row: Option<&Row>) {
    let Some(row) = row else { return };
    print!(
        "{:<50} {:>6} connections, {} bytes lost; {:.2}x the throughput of a copy loop, {} us later",
        row.case, row.connections, row.bytes_lost, row.throughput_ratio, row.added_latency_us
    );
    if row.replaced > 0 {
        print!("; replaced {} times, {:?} answers of each", row.replaced, row.seen);
    }
    println!();
}

fn document(rows: &[Row]) -> Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "case": row.case,
                "connections": row.connections,
                "bytes_lost": row.bytes_lost,
                "throughput_ratio": row.throughput_ratio,
                "added_latency_us": row.added_latency_us,
                "replaced": row.replaced,
                "seen": row.seen,
            })
        })
        .collect();
    json!({ "schema": 1, "rows": rows })
}
