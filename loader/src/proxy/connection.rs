//! One relayed connection: what is read from either end is shown, and what comes out is written to the other.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;

use crate::error::Error;
use crate::flows::{Direction, Kind, Step};
use crate::host::Flow;
use crate::tally::{Bytes, Tally};

use super::engine::Engine;

/// Bytes that are read, and shown, at a time.
const CHUNK: usize = 64 << 10;

/// Bytes that may wait to be written before no more of their direction is read.
const ROOM: usize = 256 << 10;

/// Where a connection goes, and how programs see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// Its place among the accepted ones, from 1.
    pub(super) number: u64,
    /// Who connected.
    pub(super) peer: SocketAddr,
    /// What is connected to.
    pub(super) upstream: SocketAddr,
    /// The local end, for programs.
    pub(super) local: SocketAddr,
    /// The remote end, for programs.
    pub(super) remote: SocketAddr,
    /// Who opened it, for programs: outbound when the client is the local end.
    pub(super) opened: Direction,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    /// Both ends have closed their side.
    Closed,
    /// The policy reset it.
    Dropped,
    /// One of the ends reset it.
    Reset,
    /// The upstream can't be reached.
    Unreachable(String),
    /// The machine does not answer.
    Failed(String),
}

/// What became of a connection.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Closed {
    pub(super) number: u64,
    pub(super) peer: SocketAddr,
    pub(super) upstream: SocketAddr,
    /// From the client to the upstream.
    pub(super) sent: Bytes,
    /// From the upstream to the client.
    pub(super) received: Bytes,
    #[serde(flatten)]
    pub(super) tally: Tally,
    pub(super) end: End,
}

/// What waits to be written to one end, in order.
#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes in `chunks`.
    waiting: usize,
    /// Bytes that have been written.
    written: u64,
    fin: bool,
    reset: bool,
}

/// What is to be done to an end next.
enum Next {
    Write(Vec<u8>),
    Fin,
    Reset,
}

impl Outbox {
    /// Adds what came out: bytes, then the end of the direction; a reset overtakes both.
    pub(super) fn put(&self, bytes: Vec<u8>, fin: bool, reset: bool) {
        let mut queue = self.queue();
        if !bytes.is_empty() {
            queue.waiting += bytes.len();
            queue.chunks.push_back(bytes);
        }
        queue.fin |= fin;
        queue.reset |= reset;
        drop(queue);
        self.0.filled.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held; a queue is whole between any two statements.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is to be done. A connection has one task that asks.
    async fn next(&self) -> Next {
        loop {
            {
                let mut queue = self.queue();
                if queue.reset {
                    return Next::Reset;
                }
                if let Some(bytes) = queue.chunks.pop_front() {
                    return Next::Write(bytes);
                }
                if queue.fin {
                    return Next::Fin;
                }
            }
            self.0.filled.notified().await;
        }
    }

    /// So many bytes have been written.
    fn written(&self, bytes: usize) {
        let mut queue = self.queue();
        queue.waiting -= bytes;
        queue.written += bytes as u64;
        drop(queue);
        self.0.emptied.notify_one();
    }

    /// Waits until there is room for more.
    async fn room(&self) {
        loop {
            let full = {
                let queue = self.queue();
                queue.waiting > ROOM && !queue.reset
            };
            if !full {
                return;
            }
            self.0.emptied.notified().await;
        }
    }
}

/// Why a connection goes no further, before both of its ends have closed.
enum Stop {
    /// It was reset, or the policy drops it.
    Reset,
    /// An end can't be written to: its side of the connection is gone.
    Gone(Direction),
    /// The machine does not answer.
    Machine(Error),
}

/// Relays a connection to its end.
pub(super) async fn relay(engine: Engine, ends: Ends, client: TcpStream) -> Closed {
    let mut closed = Closed {
        number: ends.number,
        peer: ends.peer,
        upstream: ends.upstream,
        sent: Bytes::default(),
        received: Bytes::default(),
        tally: Tally::default(),
        end: End::Closed,
    };
    closed.end = match TcpStream::connect(ends.upstream).await {
        Ok(upstream) => match between(&engine, &ends, client, upstream, &mut closed).await {
            Ok(end) => end,
            Err(error) => End::Failed(error.to_string()),
        },
        Err(error) => {
            reset(&client);
            End::Unreachable(error.to_string())
        }
    };
    closed
}

async fn between(
    engine: &Engine,
    ends: &Ends,
    mut client: TcpStream,
    mut upstream: TcpStream,
    closed: &mut Closed,
) -> Result<End, Error> {
    for end in [&client, &upstream] {
        // Small answers wait for nothing here; where the option is not there they are late, not lost.
        let _ = end.set_nodelay(true);
    }
    let out = [Outbox::default(), Outbox::default()];
    let flow = engine.open(ends.local, ends.remote, ends.opened, out.clone()).await?;
    // The client's bytes go outbound when the client is the local end.
    let (from_client, from_upstream) = (ends.opened, ends.opened.reverse());
    let [outbound, inbound] = &out;
    let (to_upstream, to_client) =
        if from_client == Direction::Outbound { (outbound, inbound) } else { (inbound, outbound) };

    let stop = {
        let (client_read, client_write) = client.split();
        let (upstream_read, upstream_write) = upstream.split();
        let readers = async {
            tokio::try_join!(
                read(client_read, from_client, engine, flow, to_upstream, &mut closed.sent.shown),
                read(upstream_read, from_upstream, engine, flow, to_client, &mut closed.received.shown),
            )
        };
        let writers = async {
            tokio::try_join!(
                write(upstream_write, to_upstream, from_upstream),
                write(client_write, to_client, from_client)
            )
        };
        both(readers, writers, &out).await
    };
    if let Err(Stop::Gone(direction)) = &stop {
        engine.show(flow, Step::new(*direction, Kind::Reset)).await?;
    }
    let fate = engine.close(flow).await?;
    closed.tally = fate.tally;
    closed.sent.delivered = to_upstream.queue().written;
    closed.received.delivered = to_client.queue().written;
    let end = match stop {
        Ok(()) => return Ok(End::Closed),
        Err(Stop::Machine(error)) => Err(error),
        Err(_) if fate.dropped => Ok(End::Dropped),
        Err(_) => Ok(End::Reset),
    };
    reset(&client);
    reset(&upstream);
    end
}

/// Waits until both ends have been closed. When the readers are done and the policy still holds a direction open, it is over
/// as well: nothing comes any more that could change its mind.
async fn both(
    readers: impl Future<Output = Result<((), ()), Stop>>,
    writers: impl Future<Output = Result<((), ()), Stop>>,
    out: &[Outbox; 2],
) -> Result<(), Stop> {
    let (mut readers, mut writers) = (pin!(readers), pin!(writers));
    tokio::select! {
        read = &mut readers => read?,
        written = &mut writers => return written.map(|_| ()),
    };
    out.iter().for_each(|out| out.put(Vec::new(), true, false));
    writers.await.map(|_| ())
}

async fn read(
    mut from: ReadHalf<'_>,
    direction: Direction,
    engine: &Engine,
    flow: Flow,
    out: &Outbox,
    shown: &mut u64,
) -> Result<(), Stop> {
    let mut buffer = vec![0; CHUNK];
    loop {
        out.room().await;
        let kind = match from.read(&mut buffer).await {
            Ok(0) => Kind::Fin,
            Ok(length) => Kind::Data { bytes: buffer[..length].to_vec(), push: length < CHUNK },
            Err(_) => Kind::Reset,
        };
        if let Kind::Data { bytes, .. } = &kind {
            *shown += bytes.len() as u64;
        }
        let last = !matches!(kind, Kind::Data { .. });
        let dropped = engine.show(flow, Step::new(direction, kind)).await.map_err(Stop::Machine)?;
        if last || dropped {
            return Ok(());
        }
    }
}

/// Writes what comes into `out`. `back` is the direction of what the written end sends.
async fn write(mut to: WriteHalf<'_>, out: &Outbox, back: Direction) -> Result<(), Stop> {
    loop {
        let gone = |_: io::Error| Stop::Gone(back);
        match out.next().await {
            Next::Write(bytes) => {
                to.write_all(&bytes).await.map_err(gone)?;
                out.written(bytes.len());
            }
            Next::Fin => return to.shutdown().await.map_err(gone),
            Next::Reset => return Err(Stop::Reset),
        }
    }
}

/// Makes the end of `stream` a reset: whoever is there must not take what came so far for all that there is.
fn reset(stream: &TcpStream) {
    // A socket that can't be told so any more is gone already.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    /// Whether `future` is ready at once.
    fn ready(future: impl Future) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn nothing_more_is_read_while_an_end_does_not_take_what_came() {
        let out = Outbox::default();
        out.put(vec![0; ROOM], false, false);
        assert!(ready(out.room()));
        out.put(vec![0; 1], false, false);
        assert!(!ready(out.room()));
        out.written(1);
        assert!(ready(out.room()));
    }

    #[test]
    fn bytes_come_before_the_end_and_a_reset_before_both() {
        let out = Outbox::default();
        assert!(!ready(out.next()));
        out.put(b"ab".to_vec(), true, false);
        let next = |out: &Outbox| match pin!(out.next()).poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(next) => next,
            std::task::Poll::Pending => panic!("nothing is there"),
        };
        assert!(matches!(next(&out), Next::Write(bytes) if bytes == b"ab"));
        assert!(matches!(next(&out), Next::Fin));
        out.put(b"c".to_vec(), false, true);
        assert!(matches!(next(&out), Next::Reset));
        assert!(ready(out.room()), "who reads sees the reset, and does not wait");
    }
}
