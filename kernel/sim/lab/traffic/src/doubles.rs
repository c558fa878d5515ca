//! The simulator in the driver's process, over loopback.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidegate_lab_wire::{self as wire, Delivery, Fate, PORT_FILE, Packet, Reply, Report, Request, Stream};

/// A connection to it.
pub(crate) struct Doubles(TcpStream);

/// How long the driver's process may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

impl Doubles {
    pub(crate) fn connect() -> Result<Self> {
        let start = Instant::now();
        loop {
            match Self::try_connect() {
                Ok(doubles) => return Ok(doubles),
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => sleep(Duration::from_millis(10)),
            }
        }
    }

    fn try_connect() -> Result<Self> {
        let port = fs::read_to_string(PORT_FILE).context("no driver has written where it listens")?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.trim().parse()?))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        wire::write(&mut self.0, request)?;
        wire::read(&mut self.0).context("the driver's process is gone")
    }

    pub(crate) fn stream(&mut self, stream: Stream) -> Result<Delivery> {
        match self.ask(&Request::Stream(stream))? {
            Reply::Stream(delivery) => Ok(delivery),
            other => bail!("a stream was answered with {other:?}"),
        }
    }

    pub(crate) fn packets(&mut self, seed: u64, now: u64, packets: Vec<Packet>) -> Result<Vec<Fate>> {
        match self.ask(&Request::Packets { seed, now, packets })? {
            Reply::Packets(fates) => Ok(fates),
            other => bail!("packets were answered with {other:?}"),
        }
    }

    /// Calls of classifyFn and the time that they took.
    pub(crate) fn time(&mut self, count: u32, bytes: &[u8]) -> Result<(u64, Duration)> {
        match self.ask(&Request::Time { count, bytes: bytes.into() })? {
            Reply::Time { count, nanoseconds } => Ok((count, Duration::from_nanos(nanoseconds))),
            other => bail!("a measurement was answered with {other:?}"),
        }
    }

    pub(crate) fn leave(&mut self, stream: Stream) -> Result<Report> {
        self.reported(&Request::Leave(stream))
    }

    pub(crate) fn fail_pool(&mut self, per_mille: u32) -> Result<Report> {
        self.reported(&Request::FailPool { per_mille })
    }

    pub(crate) fn service(&mut self, runs: bool) -> Result<Report> {
        self.reported(&Request::Service { runs })
    }

    pub(crate) fn report(&mut self) -> Result<Report> {
        self.reported(&Request::Report)
    }

    fn reported(&mut self, request: &Request) -> Result<Report> {
        match self.ask(request)? {
            Reply::Report(report) => Ok(report),
            other => bail!("a question was answered with {other:?}"),
        }
    }
}
