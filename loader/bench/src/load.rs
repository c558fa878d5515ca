//! The clients: so many connections at once, one request or several on each, and every byte compared at both ends.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::servers::content;

/// Requests to be made.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) at_once: usize,
    /// What is asked for on each connection, one after the other.
    pub(crate) requests: Vec<Request>,
    /// Values that the header `X-Seen` of an answer may have: what the server saw in the request. None: anything.
    pub(crate) seen: Arc<[&'static str]>,
}

#[derive(Clone)]
pub(crate) enum Request {
    /// Asks for a file.
    Get { path: String, body: Arc<Vec<u8>> },
    /// Brings a file of so many bytes, another one each time, to the folder that the server has for them.
    Put { folder: PathBuf, size: usize },
}

/// What came of them.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Bytes of bodies, in both directions.
    pub(crate) bytes: u64,
    pub(crate) bytes_lost: u64,
    pub(crate) time: Duration,
    /// From the start of a connection to the last byte of its last answer; the median.
    pub(crate) latency: Duration,
    /// How many answers had each of the values of `seen`.
    pub(crate) seen: Vec<u64>,
}

/// What came of one connection.
#[derive(Default)]
struct Connection {
    latency: Duration,
    bytes_lost: u64,
    seen: Vec<usize>,
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
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= load.connections {
                        return done;
                    }
                    done.push(load.connection(number).await);
                }
            });
        }
        let mut done: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        let time = start.elapsed();
        done.sort_unstable_by_key(|connection| connection.latency);
        let mut seen = vec![0; self.seen.len()];
        done.iter().flat_map(|connection| &connection.seen).for_each(|value| seen[*value] += 1);
        Ok(Outcome {
            bytes: self.connections as u64 * self.bytes(),
            bytes_lost: done.iter().map(|connection| connection.bytes_lost).sum::<u64>()
                + self.not_brought()?,
            time,
            latency: done.get(done.len() / 2).map_or(Duration::ZERO, |connection| connection.latency),
            seen,
        })
    }

    /// Bytes of bodies on one connection.
    fn bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.size() as u64).sum()
    }

    async fn connection(&self, number: usize) -> Connection {
        let start = Instant::now();
        let mut connection = Connection::default();
        // A connection that breaks has lost all that it did not bring.
        let mut missing = self.bytes();
        // Why it broke is not told: the bytes are.
        let _ = self.ask(number, &mut connection, &mut missing).await;
        connection.bytes_lost += missing;
        connection.latency = start.elapsed();
        connection
    }

    async fn ask(&self, number: usize, connection: &mut Connection, missing: &mut u64) -> Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut received = Vec::new();
        for (index, request) in self.requests.iter().enumerate() {
            let last = if index + 1 == self.requests.len() { "Connection: close\r\n" } else { "" };
            stream.write_all(&request.bytes(number, last)).await?;
            let answer = Answer::read(&mut stream, &mut received).await?;
            let value =
                self.seen.iter().position(|seen| answer.head.contains(&format!("X-Seen: {seen}\r\n")));
            ensure!(self.seen.is_empty() || value.is_some(), "the server did not see what it should");
            connection.seen.extend(value);
            connection.bytes_lost += request.lost(&answer)?;
            *missing -= request.size() as u64;
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        connection.bytes_lost += (received.len() + rest.len()) as u64;
        Ok(())
    }

    /// Bytes that clients sent and the server has not, or otherwise. Takes the files away.
    fn not_brought(&self) -> Result<u64> {
        let mut lost = 0;
        for request in &self.requests {
            let Request::Put { folder, size } = request else { continue };
            for number in 0..self.connections {
                let file = folder.join(number.to_string());
                lost += different(&fs::read(&file).unwrap_or_default(), &content(number as u64, *size));
            }
            fs::remove_dir_all(folder)?;
        }
        Ok(lost)
    }
}

impl Request {
    fn size(&self) -> usize {
        match self {
            Self::Get { body, .. } => body.len(),
            Self::Put { size, .. } => *size,
        }
    }

    fn bytes(&self, number: usize, last: &str) -> Vec<u8> {
        match self {
            Self::Get { path, .. } => {
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n").into_bytes()
            }
            Self::Put { folder, size } => {
                let folder = folder.file_name().unwrap_or_default().to_string_lossy();
                let head = format!(
                    "PUT /{folder}/{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n{last}\r\n"
                );
                [head.into_bytes(), content(number as u64, *size)].concat()
            }
        }
    }

    /// Bytes of the answer's body that are missing, wrong or too many.
    fn lost(&self, answer: &Answer) -> Result<u64> {
        let (status, body) = match self {
            Self::Get { body, .. } => ("HTTP/1.1 200 ", &**body),
            Self::Put { .. } => ("HTTP/1.1 201 ", &Vec::new()),
        };
        ensure!(answer.head.starts_with(status), "another answer: {}", answer.head);
        Ok(different(&answer.body, body))
    }
}

/// Bytes in which two bodies differ.
fn different(got: &[u8], wanted: &[u8]) -> u64 {
    let wrong = got.iter().zip(wanted).filter(|(got, wanted)| got != wanted).count();
    (wrong + got.len().abs_diff(wanted.len())) as u64
}

/// One answer of several on a connection.
struct Answer {
    /// Its lines, each with its end.
    head: String,
    body: Vec<u8>,
}

impl Answer {
    /// Takes the next answer off a connection; `received` is what came behind the one before.
    async fn read(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<Self> {
        let end = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(stream.read_buf(received).await? > 0, "it ended within a header");
        };
        let mut body = received.split_off(end);
        let head = String::from_utf8(std::mem::take(received))?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.context("an answer without a length")?.parse()?;
        body.reserve(length.saturating_sub(body.len()));
        while body.len() < length {
            ensure!(stream.read_buf(&mut body).await? > 0, "it ended within a body");
        }
        *received = body.split_off(length);
        Ok(Self { head, body })
    }
}

impl Outcome {
    pub(crate) fn throughput(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }
}
