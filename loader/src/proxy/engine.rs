//! The machine of a proxy: one thread that owns it, and the handle by which tasks ask it.
//!
//! One thread is one order: what comes out of a connection is put into its outboxes in the order in which the engine let it
//! out, whichever direction's bytes made it do so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};
use tokio::task;

use tidegate_abi::ProgramType;
use tidegate_abi::control::{self, EventRead, Operation};

use crate::control::{Messages, Request, number};
use crate::error::{Error, Exit};
use crate::flows::{Direction, Step};
use crate::host::{Flow, Machine, Session, Setup, Stage, Staged};
use crate::object::Object;
use crate::tally::Tally;

use super::connection::Outbox;
use super::recording::Recording;

/// Asks the thread that owns the machine. Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine {
    asks: mpsc::UnboundedSender<Ask>,
    messages: Messages<Ask>,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    /// What the programs did about it.
    pub(super) tally: Tally,
    /// The policy has reset it.
    pub(super) dropped: bool,
}

pub(super) enum Ask {
    Open {
        local: SocketAddr,
        remote: SocketAddr,
        opened: Direction,
        out: [Outbox; 2],
        answer: oneshot::Sender<Flow>,
    },
    Show {
        flow: Flow,
        step: Step,
        answer: oneshot::Sender<Result<bool, Error>>,
    },
    Close {
        flow: Flow,
        answer: oneshot::Sender<Fate>,
    },
    Stage {
        at: usize,
        answer: oneshot::Sender<Stage>,
    },
    Commit {
        at: usize,
        staged: Staged,
        answer: oneshot::Sender<Result<(), Error>>,
    },
    Control(Request),
    Tally {
        answer: oneshot::Sender<Result<Tally, Error>>,
    },
}

impl From<Request> for Ask {
    fn from(request: Request) -> Self {
        Self::Control(request)
    }
}

impl Engine {
    /// Starts the thread and waits until `make` has made the machine there. The thread ends when the last handle is gone, and
    /// gives back what went against the contract with the filter engine.
    pub(super) fn start(
        recording: Option<Recording>,
        make: impl FnOnce() -> Result<Machine, Error> + Send + 'static,
    ) -> Result<(Self, JoinHandle<Vec<String>>), Error> {
        let (asks, asked) = mpsc::unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        let body = move || match make() {
            Ok(mut machine) => {
                let runtime = machine.runtime();
                match machine.live(ProgramType::Stream) {
                    Ok(session) => {
                        let _ = ready.send(Ok(runtime));
                        Worker::new(session, recording).run(asked)
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        Vec::new()
                    }
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Vec::new()
            }
        };
        let worker = thread::Builder::new()
            .name("machine".into())
            .spawn(body)
            .map_err(|error| Error::new("proxy-runtime", Exit::Partial, format!("cannot start: {error}")))?;
        let runtime = is_ready.blocking_recv().unwrap_or_else(|_| Err(gone()))?;
        let messages = Messages::new(asks.clone(), runtime);
        Ok((Self { asks, messages }, worker))
    }

    /// Opens a connection whose bytes go to `out`, one outbox for each of [`Direction::ALL`].
    pub(super) async fn open(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        opened: Direction,
        out: [Outbox; 2],
    ) -> Result<Flow, Error> {
        self.ask(|answer| Ask::Open { local, remote, opened, out, answer }).await
    }

    /// Shows the next step of a connection. What comes out has been put into the outboxes when this returns. Says whether the
    /// policy has reset the connection.
    pub(super) async fn show(&self, flow: Flow, step: Step) -> Result<bool, Error> {
        self.ask(|answer| Ask::Show { flow, step, answer }).await?
    }

    /// Ends a connection, and forgets it.
    pub(super) async fn close(&self, flow: Flow) -> Result<Fate, Error> {
        self.ask(|answer| Ask::Close { flow, answer }).await
    }

    /// Puts a new version of the object `at` this place of the chain there. It is verified beside the thread of the machine, which
    /// works on.
    pub(super) async fn replace(&self, at: usize, object: Object, setup: Setup) -> Result<(), Error> {
        let stage = self.ask(|answer| Ask::Stage { at, answer }).await?;
        let staged =
            task::spawn_blocking(move || stage.load(&object, &setup)).await.map_err(|_| gone())??;
        self.ask(|answer| Ask::Commit { at, staged, answer }).await?
    }

    /// By which it is asked what control messages ask.
    pub(super) fn messages(&self) -> Messages<Ask> {
        self.messages.clone()
    }

    /// What the policy did since the start.
    pub(super) async fn tally(&self) -> Result<Tally, Error> {
        self.ask(|answer| Ask::Tally { answer }).await?
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::new("proxy-machine", Exit::Partial, "the thread of the machine is gone")
}

/// The thread's side.
struct Worker<'m> {
    session: Session<'m>,
    relayed: HashMap<Flow, Relayed>,
    total: Tally,
    /// Where what is shown is written, if anywhere.
    recording: Option<Recording>,
}

/// A connection as the thread knows it.
struct Relayed {
    /// Where what comes out of a direction goes, in the order of [`Direction::ALL`].
    out: [Outbox; 2],
    fate: Fate,
}

impl Relayed {
    /// Puts what has come out of a connection into its outboxes.
    fn deliver(&mut self, session: &Session<'_>, flow: Flow, dropped: bool) {
        self.fate.dropped = dropped;
        for (direction, out) in Direction::ALL.into_iter().zip(&self.out) {
            let delivered = session.take(flow, direction);
            out.put(delivered.bytes, delivered.fin, delivered.aborted || dropped);
        }
    }
}

impl<'m> Worker<'m> {
    fn new(session: Session<'m>, recording: Option<Recording>) -> Self {
        let (relayed, total) = (HashMap::new(), Tally::default());
        Self { session, relayed, total, recording }
    }

    fn run(mut self, mut asked: mpsc::UnboundedReceiver<Ask>) -> Vec<String> {
        while let Some(ask) = asked.blocking_recv() {
            // Whoever asked may be gone: nobody waits for the answer then.
            match ask {
                Ask::Open { local, remote, opened, out, answer } => {
                    let flow = self.session.open_by(local, remote, opened, "");
                    self.relayed.insert(flow, Relayed { out, fate: Fate::default() });
                    if let Some(recording) = &mut self.recording {
                        recording.open(flow, local, remote, opened);
                    }
                    let _ = answer.send(flow);
                }
                Ask::Show { flow, step, answer } => {
                    let _ = answer.send(self.show(flow, &step));
                }
                Ask::Close { flow, answer } => {
                    let fate = self.relayed.remove(&flow).map(|relayed| relayed.fate).unwrap_or_default();
                    self.session.close(flow);
                    self.session.forget(flow);
                    if let Some(recording) = &mut self.recording {
                        recording.close(flow);
                    }
                    let _ = answer.send(fate);
                }
                Ask::Stage { at, answer } => {
                    let _ = answer.send(self.session.stage(at));
                }
                Ask::Commit { at, staged, answer } => {
                    let _ = answer.send(self.session.commit(at, staged));
                }
                Ask::Control(Request { message, answer }) => {
                    let _ = answer.send(self.control(&message));
                }
                Ask::Tally { answer } => {
                    let _ = answer.send(self.tally().map(|_| self.total));
                }
            }
        }
        let mut broken = self.session.end();
        broken.extend(self.recording.and_then(Recording::end));
        broken
    }

    fn show(&mut self, flow: Flow, step: &Step) -> Result<bool, Error> {
        if let Some(recording) = &mut self.recording {
            recording.step(flow, step);
        }
        self.session.show(flow, step);
        self.session.settle();
        let tally = self.tally()?;
        let dropped = self.session.is_dropped(flow);
        let Some(relayed) = self.relayed.get_mut(&flow) else { return Ok(dropped) };
        relayed.fate.tally.add(&tally);
        relayed.deliver(&self.session, flow, dropped);
        Ok(dropped)
    }

    fn control(&mut self, request: &[u8]) -> Vec<u8> {
        let reply = self.session.control(request);
        // What was kept back of any connection may have been decided on by the change.
        if number(request).is_some_and(|number| control::changes(number) && number != EventRead::NUMBER) {
            for (flow, relayed) in &mut self.relayed {
                let dropped = self.session.is_dropped(*flow);
                relayed.deliver(&self.session, *flow, dropped);
            }
        }
        reply
    }

    /// What the policy did since this was last asked.
    fn tally(&mut self) -> Result<Tally, Error> {
        let last = self.session.tally()?;
        self.total.add(&last);
        Ok(last)
    }
}
