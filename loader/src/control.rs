//! The control end of a host under live traffic: a socket of the file system over which the verbs that speak to a host reach its
//! machine.
//!
//! What arrives is data of a stranger until the runtime has judged it: here only the length in a header is looked at. Whoever may
//! open the socket may take up so much of the host and no more: clients are counted, few of them may send much at a time, and who
//! stops in the middle of something is left.

use std::path::Path;
use std::sync::Arc;

use tidegate_abi::control::{Header, Operation, ProgramLoad};
#[cfg(doc)]
use tidegate_abi::limits;
use tidegate_runtime::{Runtime, Shared};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task;

use crate::client;
use crate::error::{Error, Exit};

#[cfg(unix)]
pub(crate) use unix::Control;

/// A control message for the thread that owns the machine, and where its answer goes.
pub(crate) struct Request {
    pub(crate) message: Vec<u8>,
    pub(crate) answer: oneshot::Sender<Vec<u8>>,
}

/// Puts control messages to a machine, whose thread takes them among what else it is asked. Cheap to clone.
pub(crate) struct Messages<Ask> {
    asks: mpsc::UnboundedSender<Ask>,
    runtime: Shared<Runtime>,
    /// Who verifies a program at the moment: each takes a processor and up to [`limits::MAX_VERIFY_MEMORY`].
    verifying: Arc<Semaphore>,
}

impl<Ask> Clone for Messages<Ask> {
    fn clone(&self) -> Self {
        let (asks, runtime) = (self.asks.clone(), Shared::clone(&self.runtime));
        Self { asks, runtime, verifying: Arc::clone(&self.verifying) }
    }
}

impl<Ask: From<Request>> Messages<Ask> {
    pub(crate) fn new(asks: mpsc::UnboundedSender<Ask>, runtime: Shared<Runtime>) -> Self {
        Self { asks, runtime, verifying: Arc::new(Semaphore::new(1)) }
    }

    /// Answers a message; `None` when the machine is gone. A program is verified beside the machine's thread, which works on, and
    /// one after the other.
    pub(crate) async fn answer(&self, message: Vec<u8>) -> Option<Vec<u8>> {
        if number(&message) == Some(ProgramLoad::NUMBER) {
            let turn = Arc::clone(&self.verifying).acquire_owned().await.ok()?;
            let runtime = Shared::clone(&self.runtime);
            let verify = move || {
                // Whoever asked may be gone meanwhile: it is at work all the same.
                let _turn = turn;
                client::answer(&runtime, &message)
            };
            return task::spawn_blocking(verify).await.ok();
        }
        let (answer, answered) = oneshot::channel();
        self.asks.send(Request { message, answer }.into()).ok()?;
        answered.await.ok()
    }
}

/// The operation that a well-formed request asks for.
pub(crate) fn number(request: &[u8]) -> Option<u16> {
    Header::parse(request).ok().map(|(header, _)| header.code)
}

#[cfg(unix)]
mod unix {
    use std::fs::{self, DirBuilder, Permissions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tidegate_abi::control::{self, HEADER_SIZE, Status};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::AbortHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::socket::{self, message_length};

    /// Clients at a time. One that comes when there are as many takes the place of the one that was heard of longest ago.
    const CLIENTS: usize = 64;

    /// How long a client has for the rest of a message that it began, and for taking an answer.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// A message of more bytes than this is read when there is room for it.
    const SMALL: usize = 64 << 10;

    /// So many of them have room at a time.
    const LARGE: usize = 4;

    /// Which file it is, whatever it is called: device and number.
    type File = (u64, u64);

    /// A socket that is listened on. Its file goes with it, and no other that has its name by then.
    pub(crate) struct Control {
        listener: UnixListener,
        path: PathBuf,
        file: Option<File>,
    }

    impl Control {
        /// Listens at `path`, or where `vm` listens. A socket that a host left there which has ended is replaced.
        pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
            let path = &socket::to_listen(path)?;
            let cannot = |error: io::Error| {
                let exit = match error.kind() {
                    io::ErrorKind::PermissionDenied => Exit::Denied,
                    _ => Exit::Usage,
                };
                Error::new("control-listen", exit, format!("cannot listen at {}: {error}", path.display()))
            };
            let file = fs::symlink_metadata(path).is_ok();
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => {
                    let message = format!("another host answers at {}", path.display());
                    return Err(Error::usage("control-taken", message)
                        .with_help("end it, or name another path: each host has a socket of its own"));
                }
                // Whoever listened has ended.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if file => return Err(cannot(error)),
                Err(_) => {}
            }
            if file && !is_socket(path) {
                let message = format!("{} is a file, and no socket of a host", path.display());
                return Err(Error::usage("control-listen", message));
            }
            // Made where nobody else may look, so that at no moment it is there with more rights than it is to have.
            let mut private = path.as_os_str().to_owned();
            private.push(format!(".{}", std::process::id()));
            let private = PathBuf::from(private);
            DirBuilder::new().mode(0o700).create(&private).map_err(cannot)?;
            let made = private.join("s");
            let control = UnixListener::bind(&made).and_then(|listener| {
                fs::set_permissions(&made, Permissions::from_mode(0o600))?;
                let file = file_at(&made);
                fs::rename(&made, path)?;
                Ok(Self { listener, path: path.into(), file })
            });
            // What could not be moved goes with its folder.
            let _ = fs::remove_dir_all(&private);
            control.map_err(cannot)
        }

        /// Answers whoever connects, until it is dropped.
        pub(crate) async fn serve<Ask: From<Request> + Send + 'static>(self, messages: Messages<Ask>) {
            let room = Arc::new(Semaphore::new(LARGE));
            let time = Arc::new(AtomicU64::new(0));
            let mut clients: Vec<Known> = Vec::new();
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        clients.retain(|client| !client.task.is_finished());
                        let heard =
                            || clients.iter().enumerate().min_by_key(|(_, client)| client.heard.get());
                        if let Some((at, _)) = heard().filter(|_| clients.len() >= CLIENTS) {
                            clients.swap_remove(at).task.abort();
                        }
                        let heard = Heard { last: Arc::default(), time: Arc::clone(&time) };
                        heard.now();
                        let client = Client { stream, heard: heard.clone(), room: Arc::clone(&room) };
                        let task = tokio::spawn(client.answer(messages.clone())).abort_handle();
                        clients.push(Known { heard, task });
                    }
                    // No more descriptors: later there may be.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    }

    impl Drop for Control {
        fn drop(&mut self) {
            if self.file.is_some() && self.file == file_at(&self.path) {
                // Nobody answers there any more, file or no file.
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    fn file_at(path: &Path) -> Option<File> {
        use std::os::unix::fs::MetadataExt;
        fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()))
    }

    fn is_socket(path: &Path) -> bool {
        use std::os::unix::fs::FileTypeExt;
        fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket())
    }

    /// A client, as the one who counts them knows it.
    struct Known {
        heard: Heard,
        task: AbortHandle,
    }

    /// When a client was last heard of, in messages of all of them.
    #[derive(Clone)]
    struct Heard {
        last: Arc<AtomicU64>,
        time: Arc<AtomicU64>,
    }

    impl Heard {
        fn now(&self) {
            self.last.store(self.time.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        }

        /// Its message is at work: it has no reason to say anything.
        fn at_work(&self) {
            self.last.store(u64::MAX, Ordering::Relaxed);
        }

        fn get(&self) -> u64 {
            self.last.load(Ordering::Relaxed)
        }
    }

    /// The end of a connection that a client has opened.
    struct Client {
        stream: UnixStream,
        heard: Heard,
        room: Arc<Semaphore>,
    }

    impl Client {
        /// Answers message by message, until it goes or stops in the middle of something.
        async fn answer<Ask: From<Request>>(mut self, messages: Messages<Ask>) -> io::Result<()> {
            let stream = &mut self.stream;
            loop {
                let mut head = [0; HEADER_SIZE];
                let (first, rest) = head.split_at_mut(1);
                // It may be silent between messages.
                stream.read_exact(first).await?;
                timeout(PATIENCE, stream.read_exact(rest)).await??;
                let Some(length) = message_length(&head) else {
                    // Where the next message would begin is not known.
                    let mut reply = [0; HEADER_SIZE];
                    let length = control::write(Status::Malformed as u16, &(), &mut reply).unwrap_or(0);
                    return timeout(PATIENCE, stream.write_all(&reply[..length])).await?;
                };
                let large = length > SMALL;
                let _room = if large { self.room.acquire().await.ok() } else { None };
                let mut request = head.to_vec();
                // Memory is taken for what comes, not for what is announced.
                let mut body = stream.take((length - HEADER_SIZE) as u64);
                timeout(PATIENCE, body.read_to_end(&mut request)).await??;
                if request.len() < length {
                    return Ok(());
                }
                self.heard.at_work();
                let reply = messages.answer(request).await.ok_or(io::ErrorKind::NotConnected)?;
                self.heard.now();
                timeout(PATIENCE, stream.write_all(&reply)).await??;
            }
        }
    }
}

#[cfg(not(unix))]
pub(crate) enum Control {}

#[cfg(not(unix))]
impl Control {
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        let message = format!("cannot listen at {}: a control socket is there on Unix only", path.display());
        Err(Error::new("control-unix", Exit::Usage, message).with_help("the driver is the host on Windows"))
    }

    pub(crate) async fn serve<Ask>(self, _: Messages<Ask>) {
        match self {}
    }
}

#[cfg(test)]
mod tests {
    use tidegate_abi::control::{self, MapList, Status};

    use super::*;
    use crate::host;

    #[test]
    fn a_program_waits_until_the_one_before_it_is_verified_and_nothing_else_does() {
        let runtime = host::runtime().expect("a runtime");
        let (asks, mut asked) = mpsc::unbounded_channel::<Request>();
        let messages = Messages::new(asks, Shared::clone(&runtime));
        let tasks = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        tasks.block_on(async {
            tokio::spawn(async move {
                while let Some(Request { message, answer }) = asked.recv().await {
                    answer.send(client::answer(&runtime, &message)).expect("it waits");
                }
            });
            let other = Arc::clone(&messages.verifying).acquire_owned().await.expect("nobody has it");
            let loading = {
                let (version, code) = (tidegate_abi::API_VERSION, ProgramLoad::NUMBER);
                let message = Header { version, code, length: 0, reserved: 0 }.to_bytes().to_vec();
                let messages = messages.clone();
                tokio::spawn(async move { messages.answer(message).await })
            };
            let mut list = [0; 64];
            let length = control::write_request(&MapList { after: 0 }, &mut list).expect("it is short");
            for _ in 0..10 {
                let reply = messages.answer(list[..length].to_vec()).await.expect("an answer");
                assert_eq!(number(&reply), Some(Status::Ok as u16));
            }
            assert!(!loading.is_finished(), "it waits");
            drop(other);
            let reply = loading.await.expect("no panic").expect("an answer");
            assert_eq!(number(&reply), Some(Status::Malformed as u16), "it was looked at");
        });
    }
}
