//! The typed client of control messages: the bytes that cross into a kernel or into another process, or that a runtime of this
//! process answers.

use std::fmt;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tidegate_abi::control::{
    self, Change, Committed, Detached, EventRead, Events, FlowInfo, FlowList, Flows, Id, IdList, LinkCommit,
    LinkDetach, MapNextKey, Operation, Refusal, Status, TraceEnd, TraceRead, Traced,
};
use tidegate_abi::limits;
use tidegate_runtime::{Runtime, Shared};

use crate::device::Device;
use crate::error::{Error, Exit};
use crate::socket::{NOT_OWN, NOT_OWN_HELP, Socket, hung_up};

/// Speaks to a runtime: of this process, of the driver, or of a host that has a control socket.
pub struct Client {
    end: End,
    request: Vec<u8>,
    reply: Vec<u8>,
}

/// Who answers.
enum End {
    Host(Shared<Runtime>),
    Driver(Device),
    Socket(Socket),
}

impl End {
    fn exchange(&self, request: &[u8], reply: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Host(runtime) => Ok(runtime.handle(request, reply)),
            Self::Driver(device) => device.exchange(request, reply),
            Self::Socket(socket) => socket.exchange(request, reply),
        }
    }

    /// As [`exchange`](Self::exchange), where the driver answers only when there are events.
    fn wait(&self, request: &[u8], reply: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Driver(device) => device.wait(request, reply),
            other => other.exchange(request, reply),
        }
    }
}

/// A request that was refused. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why; when `system` says something, the request was not answered at all.
    pub status: Status,
    /// Why there is no answer.
    pub system: Option<Box<Error>>,
    /// What the verifier said, when it was the one that refused.
    pub refusal: Option<Box<Refusal>>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.refusal, &self.system) {
            (Some(refusal), _) => {
                write!(f, "{} at instruction {}: {}", refusal.code, refusal.insn, refusal.reason)
            }
            (None, Some(system)) => write!(f, "the host does not answer: {}", system.message),
            (None, None) => f.write_str(self.status.text()),
        }
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// The error that there was no answer, if that is it: it says nothing of what was asked for.
    pub fn silent(&self) -> Option<Error> {
        let system = self.system.as_ref()?;
        Some(Error::new(system.code, system.exit, self.to_string()).with_help(self.help()))
    }

    /// What to do about it. Whoever knows more of the request says more.
    pub fn help(&self) -> &'static str {
        if let Some(system) = &self.system {
            if system.code == NOT_OWN {
                return NOT_OWN_HELP;
            }
            return "a host answers for as long as it runs: start it again, of the driver `tidegate driver status` says more";
        }
        match self.status {
            Status::Ok => "nothing need be done",
            Status::Malformed | Status::Version | Status::UnknownOperation | Status::ReplyTooLarge => {
                "`tidegate version` says of which release this is, `tidegate feature probe` of which the host is: \
                 both must be of one"
            }
            Status::Invalid => "`tidegate feature list limits` says what is allowed",
            Status::NotFound => "`tidegate prog show`, `link show` and `map show` list what the host has",
            Status::Exists => "remove what is there, or name it in the place of a new one",
            Status::Full => "`tidegate feature probe` says what room there is; end what is not needed",
            Status::NoMemory => "unload programs and release maps that are not needed, then try again",
            Status::Busy => "`tidegate link show` and `prog show` say what uses it: end that first",
            Status::Refused => "`tidegate verify OBJECT` says why, with the line of its source",
            Status::OverBudget => {
                "`tidegate verify OBJECT` says what a run costs at most: give the link that much, --budget N"
            }
            Status::ReadOnly => "a frozen map stays as it is: load the program anew, with other contents",
            Status::NoTraffic => {
                "`tidegate feature probe` says what the host is shown: `tidegate proxy` streams, `tidegate tun` packets"
            }
            Status::NotGranted => "`tidegate prog show` says what a program is granted",
        }
    }

    fn with(status: Status) -> Self {
        Self { status, system: None, refusal: None }
    }
}

/// Bytes that one change of links takes at most.
const LARGEST_CHANGE: usize = 192;
/// Bytes of a message to start with. A longer one is tried again with more room.
const ROOM: usize = 4096;
/// Bytes of a reply with events, at least.
const EVENTS: usize = 1 << 16;

impl Client {
    /// A client of `runtime`.
    pub fn new(runtime: Shared<Runtime>) -> Self {
        Self::of(End::Host(runtime))
    }

    /// A client of the driver behind `device`.
    pub fn driver(device: Device) -> Self {
        Self::of(End::Driver(device))
    }

    /// A client of the host behind `socket`.
    pub fn socket(socket: Socket) -> Self {
        Self::of(End::Socket(socket))
    }

    /// What answers, in words.
    pub fn kind(&self) -> &'static str {
        match self.end {
            End::Host(_) => "this process",
            End::Driver(_) => "driver",
            End::Socket(_) => "process in user space",
        }
    }

    fn of(end: End) -> Self {
        Self { end, request: vec![0; ROOM], reply: vec![0; ROOM] }
    }

    /// Ends a link, and waits until it keeps nothing back any more.
    ///
    /// # Errors
    /// The runtime refused.
    pub fn detach(&mut self, link: Id) -> Result<(), Refused> {
        let mut was_there = false;
        loop {
            match self.call(&LinkDetach { link }) {
                // Another change of its hook may have taken it out meanwhile.
                Err(Refused { status: Status::NotFound, .. }) if was_there => return Ok(()),
                Err(refused) => return Err(refused),
                Ok(held) if held == Detached::default() => return Ok(()),
                Ok(_) => was_there = true,
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Changes links, all at once or not at all.
    ///
    /// # Errors
    /// The runtime refused: nothing was changed.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Committed, Refused> {
        let mut bytes = vec![0; LARGEST_CHANGE * changes.len()];
        let mut room = &mut bytes[..];
        for change in changes {
            room = change.write(room).map_err(Refused::with)?;
        }
        let left = room.len();
        bytes.truncate(bytes.len() - left);
        self.call(&LinkCommit { changes: &bytes })
    }

    /// All ids of a kind: `more` asks for those behind one.
    ///
    /// # Errors
    /// The runtime refused.
    pub fn ids<O: Operation<Reply = IdList>>(&mut self, more: impl Fn(Id) -> O) -> Result<Vec<Id>, Refused> {
        let mut ids = Vec::new();
        loop {
            let next = self.call(&more(ids.last().copied().unwrap_or(0)))?;
            if next.is_empty() {
                return Ok(ids);
            }
            ids.extend(next);
        }
    }

    /// The keys of a map, in its own order.
    ///
    /// # Errors
    /// The runtime refused.
    pub fn keys(&mut self, map: Id) -> Result<Vec<Vec<u8>>, Refused> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            match self.call_bytes(&MapNextKey { map, key: keys.last().map(Vec::as_slice) }) {
                Ok(key) => keys.push(key),
                Err(Refused { status: Status::NotFound, .. }) => return Ok(keys),
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Asks for something whose answer stands on its own.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn call<O: Operation<Reply: DeserializeOwned>>(&mut self, request: &O) -> Result<O::Reply, Refused> {
        let length = self.exchange(request)?;
        self.answer(control::parse_reply(&self.reply[..length]), length)
    }

    /// Asks for bytes: a key or a value.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn call_bytes<O>(&mut self, request: &O) -> Result<Vec<u8>, Refused>
    where
        O: Operation<Reply = &'static [u8]>,
    {
        let length = self.exchange(request)?;
        let answer = control::parse_reply::<&[u8]>(&self.reply[..length]).map(<[u8]>::to_vec);
        self.answer(answer, length)
    }

    /// Takes the records that wait in the ring buffer `map`. Returns them, and the number that did not fit since the map
    /// was made.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn events(&mut self, map: Id) -> Result<(Vec<Vec<u8>>, u64), Refused> {
        let mut all = Vec::new();
        loop {
            let length = self.exchange(&EventRead { map, max: u32::MAX })?;
            let answer = control::parse_reply::<Events<'_>>(&self.reply[..length]);
            let taken = answer.map(|events| (records(events.records), events.dropped));
            let (records, dropped) = self.answer(taken, length)?;
            if records.is_empty() {
                return Ok((all, dropped));
            }
            all.extend(records);
        }
    }

    /// As [`events`](Self::events), but waits until there are some; of the driver, without asking again and again.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn wait(&mut self, map: Id) -> Result<(Vec<Vec<u8>>, u64), Refused> {
        loop {
            // A reply has room for many: what does not fit is asked for next.
            self.reply.resize(self.reply.len().max(EVENTS), 0);
            let length = self.exchange_by(End::wait, &EventRead { map, max: u32::MAX })?;
            let answer = control::parse_reply::<Events<'_>>(&self.reply[..length]);
            let taken = answer.map(|events| (records(events.records), events.dropped));
            let (records, dropped) = self.answer(taken, length)?;
            if !records.is_empty() {
                return Ok((records, dropped));
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Takes the runs that wait in a trace, each a [`RunInfo`](control::RunInfo). Returns them, what their clock says now, and how
    /// many runs there was no room for since it began.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn runs(&mut self, trace: Id) -> Result<(Vec<Vec<u8>>, u64, u64), Refused> {
        // A reply has room for many: what does not fit is asked for next.
        self.reply.resize(self.reply.len().max(EVENTS), 0);
        let length = self.exchange(&TraceRead { trace, max: u32::MAX })?;
        let answer = control::parse_reply::<Traced<'_>>(&self.reply[..length]);
        let taken = answer.map(|traced| (records(traced.records), traced.now, traced.lost));
        self.answer(taken, length)
    }

    /// Ends a trace.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn end_trace(&mut self, trace: Id) -> Result<(), Refused> {
        self.call(&TraceEnd { trace })
    }

    /// Visits the connections that links are shown.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn flows(&mut self, mut visit: impl FnMut(&FlowInfo<'_>)) -> Result<(), Refused> {
        let mut from = 0;
        loop {
            let length = self.exchange(&FlowList { from })?;
            let answer =
                control::parse_reply::<Flows<'_>>(&self.reply[..length]).and_then(|Flows { next, flows }| {
                    let mut rest = flows;
                    while !rest.is_empty() {
                        let (flow, behind) = FlowInfo::take(rest)?;
                        visit(&flow);
                        rest = behind;
                    }
                    Ok(next)
                });
            match self.answer(answer, length)? {
                0 => return Ok(()),
                next => from = next,
            }
        }
    }

    fn exchange<O: Operation>(&mut self, request: &O) -> Result<usize, Refused> {
        self.exchange_by(End::exchange, request)
    }

    /// Sends `request` by `send`, with room for it and for its reply. Returns the length of the reply.
    fn exchange_by<O: Operation>(
        &mut self,
        send: impl Fn(&End, &[u8], &mut Vec<u8>) -> io::Result<usize>,
        request: &O,
    ) -> Result<usize, Refused> {
        let length = loop {
            match control::write_request(request, &mut self.request) {
                Ok(length) => break length,
                Err(status) => self.request = self.larger(self.request.len(), status)?,
            }
        };
        loop {
            let answered = send(&self.end, &self.request[..length], &mut self.reply).map_err(|error| {
                Refused { status: Status::Malformed, system: Some(Box::new(told(&error))), refusal: None }
            })?;
            let short = control::parse_reply::<()>(&self.reply[..answered]) == Err(Status::ReplyTooLarge);
            if !short {
                return Ok(answered);
            }
            self.reply = self.larger(self.reply.len(), Status::ReplyTooLarge)?;
        }
    }

    fn larger(&self, size: usize, status: Status) -> Result<Vec<u8>, Refused> {
        if size >= limits::MAX_MESSAGE {
            return Err(Refused::with(status));
        }
        Ok(vec![0; (size * 4).min(limits::MAX_MESSAGE)])
    }

    fn answer<T>(&self, answer: Result<T, Status>, length: usize) -> Result<T, Refused> {
        answer.map_err(|status| Refused {
            status,
            system: None,
            refusal: control::refusal(&self.reply[..length]).map(Box::new),
        })
    }
}

/// Why there is no answer.
fn told(error: &io::Error) -> Error {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return error.clone();
    }
    let words = match error.kind() {
        _ if hung_up(error) => "it hung up".into(),
        io::ErrorKind::InvalidData => "what it says is no reply".into(),
        _ => error.to_string(),
    };
    Error::new("host-io", Exit::Driver, words)
}

/// The reply of `runtime` to a control message, whatever its length.
pub fn answer(runtime: &Runtime, request: &[u8]) -> Vec<u8> {
    let mut reply = vec![0; ROOM];
    loop {
        let length = runtime.handle(request, &mut reply);
        // What did not fit has changed nothing: it can be asked again.
        if control::parse_reply::<()>(&reply[..length]) != Err(Status::ReplyTooLarge)
            || reply.len() == limits::MAX_MESSAGE
        {
            reply.truncate(length);
            return reply;
        }
        reply.resize((reply.len() * 4).min(limits::MAX_MESSAGE), 0);
    }
}

/// The records in an answer: each behind its length.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((record, behind)) = rest.split_at_checked(length) else { break };
        records.push(record.to_vec());
        bytes = behind;
    }
    records
}

#[cfg(test)]
mod tests {
    use tidegate_abi::control::{
        LinkInfo, MapCreate, MapInfo, MapLookup, MapNextKey, MapUpdate, Name, Version,
    };
    use tidegate_abi::{API_VERSION, MapDef, MapKind};

    use super::*;
    use crate::host::platform;

    fn client() -> Client {
        Client::new(Runtime::shared(platform()).expect("a runtime"))
    }

    fn map(client: &mut Client, kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> Id {
        let def = MapDef { kind, key_size, value_size, max_entries, flags: 0 };
        client.call(&MapCreate { name: Name::try_from("m").expect("short"), def }).expect("a map")
    }

    #[test]
    fn what_is_stored_is_found_again_whatever_its_size() {
        let mut client = client();
        assert_eq!(client.call(&Version {}).expect("an answer").api, API_VERSION);
        let map = map(&mut client, MapKind::Hash, 3, limits::MAX_VALUE as u32, 4);
        let value: Vec<u8> = (0..limits::MAX_VALUE).map(|at| at as u8).collect();
        client.call(&MapUpdate { map, key: b"abc", value: &value, flags: 0 }).expect("stored");
        assert_eq!(client.call_bytes(&MapLookup { map, key: b"abc" }), Ok(value));
        assert_eq!(client.call_bytes(&MapNextKey { map, key: None }), Ok(b"abc".to_vec()));
        assert_eq!(client.call(&MapInfo { map }).expect("an answer").entries, 1);
    }

    #[test]
    fn a_refusal_says_why() {
        let mut client = client();
        let refused = client.call(&LinkInfo { link: 99 }).expect_err("no such link");
        assert_eq!(refused.status, Status::NotFound);
        let hash = map(&mut client, MapKind::Hash, 3, 1, 4);
        let missing = client.call_bytes(&MapLookup { map: hash, key: b"xyz" }).expect_err("no such key");
        assert_eq!(missing.status, Status::NotFound);
        assert_eq!(client.events(hash).expect_err("no ring buffer").refusal, None);
    }

    #[test]
    fn records_come_apart_by_their_lengths() {
        assert_eq!(
            records(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c"),
            [b"ab".to_vec(), b"".to_vec(), b"c".to_vec()]
        );
        assert_eq!(records(b"\x05\0\0\0ab"), Vec::<Vec<u8>>::new());
    }
}
