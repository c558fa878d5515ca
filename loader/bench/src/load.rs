//! The clients: one request a connection, so many at once, every answer compared with what it must be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What every answer must be.
#[derive(Clone)]
pub(crate) struct Expected {
    pub(crate) body: Arc<Vec<u8>>,
    /// Value of the header `X-Seen`: what the server saw in the request.
    pub(crate) seen: Option<&'static str>,
}

/// Requests to be made.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    pub(crate) connections: usize,
    pub(crate) at_once: usize,
    pub(crate) expected: Expected,
}

/// What came of them.
pub(crate) struct Outcome {
    /// Bytes of bodies.
    pub(crate) bytes: u64,
    pub(crate) bytes_lost: u64,
    pub(crate) time: Duration,
    /// From the start of a connection to the last byte of its answer; the median.
    pub(crate) latency: Duration,
}

impl Load {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let start = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..self.at_once {
            let (load, next) = (self.clone(), Arc::clone(&next));
            tasks.spawn(async move {
                let mut done = Vec::new();
                while next.fetch_add(1, Ordering::Relaxed) < load.connections {
                    let start = Instant::now();
                    // A connection that breaks has lost all that it did not bring.
                    let answer = load.ask().await.unwrap_or_default();
                    done.push((start.elapsed(), load.lost(&answer)));
                }
                done
            });
        }
        let mut done = tasks.join_all().await.concat();
        let time = start.elapsed();
        done.sort_unstable();
        Ok(Outcome {
            bytes: (done.len() * self.expected.body.len()) as u64,
            bytes_lost: done.iter().map(|(_, lost)| lost).sum(),
            time,
            latency: done.get(done.len() / 2).map_or(Duration::ZERO, |(latency, _)| *latency),
        })
    }

    async fn ask(&self) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", self.path);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(self.expected.body.len() + 1024);
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    }

    /// Bytes of the body that are missing, wrong or too many. An answer without the expected header has lost them all.
    fn lost(&self, answer: &[u8]) -> u64 {
        let expected = &self.expected;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let Some((head, body)) = end.map(|end| (&answer[..end + 2], &answer[end + 4..])) else {
            return expected.body.len() as u64;
        };
        let head = String::from_utf8_lossy(head);
        let seen = expected.seen.is_none_or(|seen| head.contains(&format!("X-Seen: {seen}\r\n")));
        if !seen || !head.starts_with("HTTP/1.1 200 ") {
            return expected.body.len() as u64;
        }
        let wrong = body.iter().zip(&**expected.body).filter(|(got, wanted)| got != wanted).count();
        (wrong + body.len().abs_diff(expected.body.len())) as u64
    }
}
