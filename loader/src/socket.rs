//! A host in another process: control messages go over a socket of the file system, which only its owner may open.
//!
//! On the socket stand requests and replies one after the other, each as long as its header says.
//!
//! One socket has a name, `vm`: a user's own, where verbs look that name no host. Its folder is the user's alone, so that nobody else can
//! put a host of theirs there; and who answers there must run as the user, or as root.

use std::io;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::{cell::RefCell, env, fs};

#[cfg(unix)]
use tidegate_abi::control::{self, HEADER_SIZE, Header};

use crate::error::{Error, Exit};

#[cfg(unix)]
use nix::unistd::{Uid, geteuid};
#[cfg(unix)]
use std::os::unix::net::UnixStream as Stream;

/// What the host in user space is called that is at the user's own socket.
pub const VM: &str = "vm";

/// The code of the error that somebody else may be, or is, where the user's own host should be.
pub(crate) const NOT_OWN: &str = "host-folder";

/// What to do about it.
pub(crate) const NOT_OWN_HELP: &str = "let it be a folder of yours that nobody else may write to (chmod 700), or name the socket: \
     --control PATH where a host is started, --host PATH where it is spoken to";

/// Where `vm` is: in the folder that the system gives each user for such things, else in one of the user's own among temporary files.
#[cfg(unix)]
pub(crate) fn own() -> PathBuf {
    let given = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let made = || env::temp_dir().join(format!("tidegate-{}", geteuid()));
    given.unwrap_or_else(made).join("tidegate.sock")
}

/// The path of the socket at which a host is to listen that was told `path`, which may be `vm`. There is a folder for it then.
///
/// # Errors
/// Others may write to the folder of `vm`, or it can't be made.
#[cfg(unix)]
pub(crate) fn to_listen(path: &Path) -> Result<PathBuf, Error> {
    use std::os::unix::fs::DirBuilderExt;

    if path.as_os_str() != VM {
        return Ok(path.into());
    }
    let socket = own();
    let folder = socket.parent().unwrap_or(Path::new("/"));
    // One that is there is looked at: somebody else may have made it.
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::file("make", folder, &error))
        }
        _ if is_own(folder)? => Ok(socket),
        _ => Err(Error::file("find", folder, &io::ErrorKind::NotFound.into())),
    }
}

/// Whether `folder` is there. One that is must be this user's, and nobody else's to put anything into; one that is not may be
/// anybody's in a moment.
#[cfg(unix)]
fn is_own(folder: &Path) -> Result<bool, Error> {
    use std::os::unix::fs::MetadataExt;

    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Ok(data) if data.is_dir() && data.uid() == geteuid().as_raw() && data.mode() & 0o022 == 0 => Ok(true),
        _ => {
            let message = format!("{} is not yours alone: others could put a host there", folder.display());
            Err(Error::new(NOT_OWN, Exit::Denied, message).with_help(NOT_OWN_HELP))
        }
    }
}

/// Who listens at the other end of `stream`.
#[cfg(target_os = "linux")]
fn listener(stream: &Stream) -> io::Result<Uid> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    Ok(Uid::from_raw(getsockopt(stream, PeerCredentials)?.uid()))
}

/// Who listens at the other end of `stream`.
#[cfg(all(unix, not(target_os = "linux")))]
fn listener(stream: &Stream) -> io::Result<Uid> {
    Ok(nix::unistd::getpeereid(stream)?.0)
}

/// Connects to the socket at `path`; when it is the `users` own, only to a host of the user's, or of root's, who may do anything anyway.
#[cfg(unix)]
fn reach(path: &Path, users: bool) -> Result<Stream, Error> {
    let stream = Stream::connect(path).map_err(|error| unanswered(path, &error))?;
    if users {
        let uid = listener(&stream).map_err(|error| unanswered(path, &error))?;
        if uid != geteuid() && !uid.is_root() {
            let message = format!("user {uid} answers at {}, and no host of yours", path.display());
            return Err(Error::new(NOT_OWN, Exit::Denied, message).with_help(NOT_OWN_HELP));
        }
    }
    Ok(stream)
}

/// Nobody answers at `path`, or may be asked.
#[cfg(unix)]
fn unanswered(path: &Path, error: &io::Error) -> Error {
    let message = format!("no host answers at {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error::new("host-denied", Exit::Denied, message)
            .with_help("a host's socket is its owner's alone: run this as the same user"),
        _ => Error::new("host-none", Exit::Driver, message).with_help(
            "`tidegate proxy --control PATH ...` is a host, and so is `tidegate tun`, for as long as it runs",
        ),
    }
}

/// A connection to a host.
#[cfg(unix)]
#[derive(Debug)]
pub struct Socket {
    stream: RefCell<Stream>,
    path: PathBuf,
    /// Whether it is the user's own, `vm`.
    users: bool,
}

#[cfg(unix)]
impl Socket {
    /// Connects to the user's own host, `vm`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect)'s, or others may write to the folder of its socket, or somebody else listens there.
    pub fn connect_own() -> Result<Self, Error> {
        let path = own();
        let connected = match path.parent().map_or(Ok(true), is_own)? {
            true => Self::to(&path, true),
            false => Err(unanswered(&path, &io::ErrorKind::NotFound.into())),
        };
        connected.map_err(|error| match error.code {
            "host-none" => error.with_help(
                "start one: `tidegate proxy --control vm ...` or `tidegate tun --control vm ...`; or name another one: --host PATH, or \
                 TIDEGATE_HOST=PATH in the environment",
            ),
            _ => error,
        })
    }

    /// Connects to the host that listens at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or it may not be used.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        Self::to(path, false)
    }

    fn to(path: &Path, users: bool) -> Result<Self, Error> {
        Ok(Self { stream: RefCell::new(reach(path, users)?), path: path.into(), users })
    }

    /// Sends a control message and waits for its reply, for which `reply` is made larger when it must be. Returns the length of
    /// the reply.
    ///
    /// # Errors
    /// The host has gone, or speaks of something else; an [`Error`] is inside when somebody else has taken its place.
    pub fn exchange(&self, request: &[u8], reply: &mut Vec<u8>) -> io::Result<usize> {
        let answered = self.ask(request, reply);
        let Err(error) = &answered else { return answered };
        // A host that needs room leaves who was silent for long. What changes nothing can be asked again.
        let changes = Header::parse(request).map_or(true, |(header, _)| control::changes(header.code));
        if changes || !hung_up(error) {
            return answered;
        }
        match reach(&self.path, self.users) {
            Ok(stream) => self.stream.replace(stream),
            Err(error) if error.code == NOT_OWN => return Err(io::Error::other(error)),
            Err(_) => return answered,
        };
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

/// Nowhere.
#[cfg(not(unix))]
pub(crate) fn own() -> PathBuf {
    VM.into()
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
    pub fn connect_own() -> Result<Self, Error> {
        Self::connect(Path::new(VM))
    }

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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::DirBuilderExt;

    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_not_the_users_own() {
        let folder = env::temp_dir().join(format!("tidegate-own-{}", std::process::id()));
        assert_eq!(is_own(&folder), Ok(false));
        fs::DirBuilder::new().mode(0o700).create(&folder).expect("a folder");
        assert_eq!(is_own(&folder), Ok(true));
        fs::remove_dir(&folder).expect("it is there");
    }
}
