//! curl through the proxy, before a real nginx: what policies change and cut is seen with somebody else's client and server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::REWRITE;
use crate::servers::{Child, NAMES, Nginx};

/// Bytes of the answers.
const BODY: usize = 4 << 10;

/// What curl says when the other end resets the connection during the handshake (`CURLE_SSL_CONNECT_ERROR`).
const NO_HANDSHAKE: i32 = 35;

/// Does all of it. How many checks held.
pub(crate) async fn run(tidegate: &Path, programs: &Path) -> Result<usize> {
    let nginx = Nginx::start(&[BODY]).await?;
    let proxy = start(tidegate, &programs.join("http_hdr_rewrite.o"), nginx.address, REWRITE).await?;
    let answer = curl(&nginx, "http", "127.0.0.1", proxy.address).await?;
    ensure!(answer.exit == 0 && answer.body == *nginx.body(BODY), "the answer is another one");
    ensure!(answer.head.contains("X-Seen: tidegate\r\n"), "nginx saw no new header: {}", answer.head);
    ended(proxy, 1, 0).await?;

    let [good, bad] = NAMES;
    let allowed = format!("allowed.{good}=1");
    let arguments = ["--map", &allowed, "--remote", "127.0.0.1:443"];
    let objects = ["tls_sni_allow.o", "tls_sni_allow-rs.o"];
    for object in objects {
        let proxy = start(tidegate, &programs.join(object), nginx.secure, &arguments).await?;
        let answer = curl(&nginx, "https", good, proxy.address).await?;
        ensure!(answer.exit == 0 && answer.body == *nginx.body(BODY), "{object}: {good} is not let through");
        let answer = curl(&nginx, "https", bad, proxy.address).await?;
        ensure!(answer.exit == NO_HANDSHAKE, "{object}: {bad} is not cut: curl ended with {}", answer.exit);
        ended(proxy, 2, 1).await?;
    }
    Ok(1 + 2 * objects.len())
}

async fn start(tidegate: &Path, object: &Path, upstream: SocketAddr, arguments: &[&str]) -> Result<Child> {
    let (object, upstream) = (object.to_string_lossy(), upstream.to_string());
    let first = ["-j", "proxy", &object, "--listen", "127.0.0.1:0", "--upstream", &upstream];
    Child::start(tidegate, &[&first, arguments].concat()).await
}

/// The proxy has seen so many connections, and dropped so many; nothing went wrong.
async fn ended(proxy: Child, connections: u64, dropped: u64) -> Result<()> {
    let summary: Value = serde_json::from_str(&proxy.interrupt().await?)?;
    let of = |field: &str| summary[field].as_u64().unwrap_or(u64::MAX);
    let seen = (of("connections"), of("dropped"), of("errors"), of("failed"));
    ensure!(seen == (connections, dropped, 0, 0), "the proxy tells of something else: {summary}");
    Ok(())
}

/// What curl got.
struct Answer {
    exit: i32,
    head: String,
    body: Vec<u8>,
}

/// Asks a server of this name, which is at `address`.
async fn curl(nginx: &Nginx, scheme: &str, name: &str, address: SocketAddr) -> Result<Answer> {
    let [head, body] = ["answer.head", "answer.body"].map(|file| nginx.scratch().join(file));
    fs::write(&head, "")?;
    fs::write(&body, "")?;
    let port = address.port();
    let status = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*"])
        .arg("--resolve")
        .arg(format!("{name}:{port}:{}", address.ip()))
        .arg("--cacert")
        .arg(nginx.certificate())
        .arg("--dump-header")
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .arg(format!("{scheme}://{name}:{port}{}", Nginx::path(BODY)))
        .status()
        .await
        .context("cannot start curl")?;
    let exit = status.code().context("curl was killed")?;
    Ok(Answer { exit, head: fs::read_to_string(head)?, body: fs::read(body)? })
}
