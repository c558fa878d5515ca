//! The processes of a measurement: nginx, and those that relay to it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// A web server with one file for each size of answers, in a folder that goes away with it.
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    /// The same over TLS.
    pub(crate) secure: SocketAddr,
    scratch: PathBuf,
    _process: tokio::process::Child,
}

impl Nginx {
    pub(crate) async fn start(bodies: &[usize]) -> Result<Self> {
        let scratch = std::env::temp_dir().join(format!("tidegate-bench-proxy-{}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        for body in bodies {
            fs::write(scratch.join(Self::path(*body).trim_start_matches('/')), content(1, *body))?;
        }
        // Both at once, so that they are two.
        let free = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [address, secure] = [free[0].local_addr()?, free[1].local_addr()?];
        drop(free);
        certificate(&scratch).await?;
        let at = scratch.display();
        let configuration = scratch.join("nginx.conf");
        fs::write(
            &configuration,
            format!(
                "daemon off; master_process off; pid {at}/nginx.pid; error_log stderr crit;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{\n\
                   access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
                   fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
                   ssl_certificate {at}/certificate.pem; ssl_certificate_key {at}/key.pem;\n\
                   server {{ listen {address} backlog=1024; listen {secure} ssl; root {at};\n\
                     add_header X-Seen $http_x_via;\n\
                     location /put {{ dav_methods PUT; create_full_put_path on; client_max_body_size 64m; }} }}\n\
                 }}\n"
            ),
        )?;
        let process = Command::new("/usr/sbin/nginx")
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(&scratch)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start nginx")?;
        let nginx = Self { address, secure, scratch, _process: process };
        for _ in 0..100 {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(nginx);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("nginx does not listen on {address}")
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// What its certificate is signed with: itself.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.scratch.join("certificate.pem")
    }

    /// Where an answer of `body` bytes is.
    pub(crate) fn path(body: usize) -> String {
        format!("/{body}.bin")
    }

    /// What an answer of `body` bytes is.
    pub(crate) fn body(&self, body: usize) -> Arc<Vec<u8>> {
        Arc::new(content(1, body))
    }
}

/// The names that the server has over TLS.
pub(crate) const NAMES: [&str; 2] = ["good.example", "bad.example"];

/// Makes a certificate for [`NAMES`], and its key.
async fn certificate(folder: &Path) -> Result<()> {
    let names = NAMES.map(|name| format!("DNS:{name}")).join(",");
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tidegate \
                 -keyout key.pem -out certificate.pem";
    let made = Command::new("openssl")
        .args(words.split_whitespace())
        .arg("-addext")
        .arg(format!("subjectAltName={names}"))
        .current_dir(folder)
        .output()
        .await
        .context("cannot start openssl")?;
    ensure!(made.status.success(), "no certificate: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // What stays behind is in the temporary folder, and small.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Bytes in which no piece stands twice, nearly; others for each seed.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A process that says on its first line where it listens, and on its last what it came to.
pub(crate) struct Child {
    pub(crate) address: SocketAddr,
    process: tokio::process::Child,
    /// Reads all that it says, so that it never waits for a reader, and keeps the last line.
    last: JoinHandle<io::Result<String>>,
}

impl Child {
    pub(crate) async fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let out = process.stdout.take().context("its output is a pipe")?;
        let mut lines = BufReader::new(out).lines();
        let first = lines.next_line().await?.unwrap_or_default();
        let told: Value = serde_json::from_str(&first).with_context(|| format!("it said `{first}`"))?;
        let listen = told["listen"].as_str().with_context(|| format!("it said `{first}`"))?;
        let last = tokio::spawn(async move {
            let mut last = String::new();
            while let Some(line) = lines.next_line().await? {
                last = line;
            }
            Ok(last)
        });
        Ok(Self { address: listen.parse()?, process, last })
    }

    /// Ends the process as Ctrl-C would, and gives back its last line.
    pub(crate) async fn interrupt(mut self) -> Result<String> {
        let id = self.process.id().context("it has ended already")?;
        let asked = Command::new("sh").arg("-c").arg(format!("kill -INT {id}")).status().await?;
        ensure!(asked.success(), "it can't be interrupted");
        let last = self.last.await??;
        self.process.wait().await?;
        Ok(last)
    }
}
