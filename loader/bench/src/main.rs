//! `tidegate proxy` beside a plain copy loop of the same asynchronous runtime, both before a real nginx.
//!
//! Every answer is compared byte for byte with what nginx has. Copy loop and proxy take turns, so that a ratio compares what
//! ran within the same second or so, and the median of the rounds is told. While the policy that edits is under load its
//! object is written anew again and again, and the proxy puts each version into place.
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

use load::{Expected, Load, Outcome};
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
struct Case {
    name: &'static str,
    object: &'static str,
    arguments: &'static [&'static str],
    /// Bytes of an answer's body.
    body: usize,
    /// Connections in all rounds, one request each.
    connections: usize,
    at_once: usize,
    /// A header that nginx saw in the request, and tells.
    seen: Option<&'static str>,
    /// The object is written anew all the time.
    replaced: bool,
}

const REWRITE: &[&str] = &["--map", "header.0=X-Via: tidegate", "--remote", "127.0.0.1:80"];
const LOOK: &[&str] = &["--map", "patterns.0={where = 3, size = 9, bytes = \"nowhere!!\"}"];
const PERMIT: &[&str] = &["--prog", "permit_all_stream"];

const CASES: [Case; 6] = [
    Case {
        name: "permit_all, 4 KiB answers",
        object: "permit_all.o",
        arguments: PERMIT,
        body: 4 << 10,
        connections: 10_000,
        at_once: 64,
        seen: None,
        replaced: false,
    },
    Case {
        name: "permit_all, 4 MiB answers",
        object: "permit_all.o",
        arguments: PERMIT,
        body: 4 << 20,
        connections: 200,
        at_once: 8,
        seen: None,
        replaced: false,
    },
    Case {
        name: "kill_on_pattern looks at every byte, 4 KiB answers",
        object: "kill_on_pattern.o",
        arguments: LOOK,
        body: 4 << 10,
        connections: 10_000,
        at_once: 64,
        seen: None,
        replaced: false,
    },
    Case {
        name: "http_hdr_rewrite, 4 KiB answers",
        object: "http_hdr_rewrite.o",
        arguments: REWRITE,
        body: 4 << 10,
        connections: 10_000,
        at_once: 64,
        seen: Some("tidegate"),
        replaced: false,
    },
    Case {
        name: "http_hdr_rewrite, 4 KiB answers, replaced under load",
        object: "http_hdr_rewrite.o",
        arguments: REWRITE,
        body: 4 << 10,
        connections: 10_000,
        at_once: 64,
        seen: Some("tidegate"),
        replaced: true,
    },
    Case {
        name: "http_hdr_rewrite, 4 MiB answers",
        object: "http_hdr_rewrite.o",
        arguments: REWRITE,
        body: 4 << 20,
        connections: 200,
        at_once: 8,
        seen: Some("tidegate"),
        replaced: false,
    },
];

/// What came of a case.
struct Row {
    case: &'static str,
    connections: usize,
    bytes_lost: u64,
    throughput_ratio: f64,
    /// Negative: the proxy was the quicker one, by chance.
    added_latency_us: i64,
    replaced: u64,
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
    // A copy of the object: it is written to while it runs.
    let source = programs.join(case.object);
    let object = nginx.scratch().join(case.object);
    std::fs::copy(&source, &object)?;
    let upstream = nginx.address.to_string();
    let mut arguments = vec!["-j", "proxy", object.to_str().unwrap_or_default()];
    arguments.extend(["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    arguments.extend(case.arguments);
    arguments.extend(case.replaced.then_some("--watch"));
    let proxy = Child::start(tidegate, &arguments).await?;

    let rewriter = case.replaced.then(|| {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                // What can't be written now is written the next time.
                let _ = std::fs::copy(&source, &object);
            }
        })
    });
    let expected = Expected { body: nginx.body(case.body), seen: case.seen };
    let load = |address, expected| Load {
        address,
        path: Nginx::path(case.body),
        connections: case.connections / ROUNDS,
        at_once: case.at_once,
        expected,
    };
    let (mut ratios, mut added, mut lost) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let plain = load(copy, Expected { seen: None, ..expected.clone() }).run().await?;
        let policy = load(proxy.address, expected.clone()).run().await?;
        ratios.push(policy.throughput() / plain.throughput());
        added.push(policy.latency.as_secs_f64() - plain.latency.as_secs_f64());
        lost += plain.bytes_lost + policy.bytes_lost;
        ensure!(plain.bytes_lost == 0, "the copy loop lost bytes: the measurement is broken");
    }
    if let Some(rewriter) = rewriter {
        rewriter.abort();
    }
    let summary = proxy.interrupt().await?;
    let summary: Value = serde_json::from_str(&summary)?;
    let of = |field: &str| summary[field].as_u64().unwrap_or(u64::MAX);
    ensure!(summary["broken"].as_array().is_some_and(Vec::is_empty), "broken rules: {}", summary["broken"]);
    for count in ["errors", "failed", "dropped", "reset", "unreachable", "refused", "cut"] {
        ensure!(of(count) == 0, "{count}: {summary}");
    }
    ensure!(of("connections") as usize == case.connections, "connections are missing: {summary}");
    ensure!(!case.replaced || of("replaced") > 0, "no new version was put into place");
    Ok(Row {
        case: case.name,
        connections: case.connections,
        bytes_lost: lost,
        throughput_ratio: median(ratios),
        added_latency_us: (median(added) * 1e6).round() as i64,
        replaced: of("replaced"),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tell(row: Option<&Row>) {
    let Some(row) = row else { return };
    println!(
        "{:<54} {:>6} connections, {} bytes lost; {:.2}x the throughput of a copy loop, {} us later; {} new versions",
        row.case, row.connections, row.bytes_lost, row.throughput_ratio, row.added_latency_us, row.replaced
    );
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
            })
        })
        .collect();
    json!({ "schema": 1, "rows": rows })
}

impl Outcome {
    fn throughput(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }
}
