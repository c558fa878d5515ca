//! A host in another process: control messages go over a socket of the file system, which only its owner may open.
//!
//! On the socket stand requests and replies one after the other, each as long as its header says.

use std::io;
use std::path::Path;
#[cfg(unix)]
use std::{cell::RefCell, path::PathBuf};

#[cfg(unix)]
use tidegate_abi::control::{self, HEADER_SIZE, Header};

use crate::error::{Error, Exit};

#[cfg(unix)]
use std::os::unix::net::UnixStream as Stream;

/// A connection to a host.
#[cfg(unix)]
#[derive(Debug)]
pub struct Socket {
    stream: RefCell<Stream>,
    path: PathBuf,
}

#[cfg(unix)]
impl Socket {
    /// Connects to the host that listens at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or it may not be used.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let connected = Stream::connect(path);
        connected.map(|stream| Self { stream: RefCell::new(stream), path: path.into() }).map_err(|error| {
            let message = format!("no host answers at {}: {error}", path.display());
            match error.kind() {
                io::ErrorKind::PermissionDenied => Error::new("host-denied", Exit::Denied, message)
                    .with_help("a host's socket is its owner's alone: run this as the same user"),
                _ => Error::new("host-none", Exit::Driver, message)
                    .with_help("`tidegate proxy --control PATH ...` is a host, for as long as it runs"),
            }
        })
    }

    /// Sends a control message and waits for its reply, for which `reply` is made larger when it must be. Returns the length of
    /// the reply.
    ///
    /// # Errors
    /// The host has gone, or speaks of something else.
    pub fn exchange(&self, request: &[u8], reply: &mut Vec<u8>) -> io::Result<usize> {
        let answered = self.ask(request, reply);
        let Err(error) = &answered else { return answered };
        // A host that needs room leaves who was silent for long. What changes nothing can be asked again.
        let changes = Header::parse(request).map_or(true, |(header, _)| control::changes(header.code));
        if changes || !hung_up(error) {
            return answered;
        }
        let Ok(stream) = Stream::connect(&self.path) else { return answered };
        self.stream.replace(stream);
        self.ask(request, reply)
    }

    fn ask(&self, request: &[u8], reply: &mut Vec<u8>) -> io::Result<usize> {
        use std::io::{Read, Write};

        let stream = self.stream.borrow();
        let mut stream = &*stream;
        stream.write_all(request)?;
        let mut head = [0; HEADER_SIZE];
        stream.read_exact(&mut head)?;
        let length = message_length(&head).ok_or(io::ErrorKind::InvalidData)?;
        if reply.len() < length {
            reply.resize(length, 0);
        }
        let (place, body) = reply[..length].split_at_mut(HEADER_SIZE);
        place.copy_from_slice(&head);
        stream.read_exact(body)?;
        Ok(length)
    }
}

/// Whether the host ended the connection.
pub(crate) fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// There are none.
#[cfg(not(unix))]
#[derive(Debug)]
enum Stream {}

/// A connection to a host: nobody has one.
#[cfg(not(unix))]
#[derive(Debug)]
pub struct Socket(Stream);

#[cfg(not(unix))]
impl Socket {
    /// Fails: see the error.
    ///
    /// # Errors
    /// Always.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let message = format!("{} is no host: a proxy has a control socket on Unix only", path.display());
        Err(Error::new("host-none", Exit::Driver, message).with_help("here the host is `--host driver`"))
    }

    /// There is nobody to speak to.
    ///
    /// # Errors
    /// None.
    pub fn exchange(&self, _: &[u8], _: &mut Vec<u8>) -> io::Result<usize> {
        match self.0 {}
    }
}

/// Bytes of the message that begins with `head`, header included; `None` when that is more than a message may have.
#[cfg(unix)]
pub(crate) fn message_length(head: &[u8; HEADER_SIZE]) -> Option<usize> {
    let [.., l0, l1, l2, l3, _, _, _, _] = *head;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?.checked_add(head.len())?;
    (length <= tidegate_abi::limits::MAX_MESSAGE).then_some(length)
}
