//! The control end of a proxy: a socket of the file system over which the verbs that speak to a host reach its machine.
//!
//! What arrives is data of a stranger until the runtime has judged it: here only the length in a header is looked at.

use std::path::{Path, PathBuf};

use super::engine::Engine;
use crate::error::{Error, Exit};

#[cfg(unix)]
pub(super) use unix::Control;

#[cfg(unix)]
mod unix {
    use std::fs::{self, DirBuilder, Permissions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    use tidegate_abi::control::{self, HEADER_SIZE, Status};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::socket::message_length;

    /// A socket that is listened on. Its file goes with it.
    pub(in crate::proxy) struct Control {
        listener: UnixListener,
        path: PathBuf,
    }

    impl Control {
        /// Listens at `path`. A socket that a host left there which has ended is replaced.
        pub(in crate::proxy) fn bind(path: &Path) -> Result<Self, Error> {
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
            let listener = UnixListener::bind(&made).and_then(|listener| {
                fs::set_permissions(&made, Permissions::from_mode(0o600))?;
                fs::rename(&made, path)?;
                Ok(listener)
            });
            // What could not be moved goes with its folder.
            let _ = fs::remove_dir_all(&private);
            Ok(Self { listener: listener.map_err(cannot)?, path: path.into() })
        }

        /// Answers whoever connects, until it is dropped.
        pub(in crate::proxy) async fn serve(self, engine: Engine) {
            loop {
                match self.listener.accept().await {
                    Ok((client, _)) => {
                        tokio::spawn(answer(client, engine.clone()));
                    }
                    // No more descriptors: later there may be.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                }
            }
        }
    }

    impl Drop for Control {
        fn drop(&mut self) {
            // Nobody answers there any more, file or no file.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn is_socket(path: &Path) -> bool {
        use std::os::unix::fs::FileTypeExt;
        fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket())
    }

    /// Answers one client, message by message, until it goes.
    async fn answer(mut client: UnixStream, engine: Engine) -> io::Result<()> {
        loop {
            let mut head = [0; HEADER_SIZE];
            client.read_exact(&mut head).await?;
            let Some(length) = message_length(&head) else {
                // Where the next message would begin is not known.
                let mut reply = [0; HEADER_SIZE];
                let length = control::write(Status::Malformed as u16, &(), &mut reply).unwrap_or(0);
                return client.write_all(&reply[..length]).await;
            };
            let mut request = head.to_vec();
            // Room is made for what comes, not for what is announced.
            (&mut client).take((length - HEADER_SIZE) as u64).read_to_end(&mut request).await?;
            if request.len() < length {
                return Ok(());
            }
            let reply = engine.control(request).await.map_err(io::Error::other)?;
            client.write_all(&reply).await?;
        }
    }
}

#[cfg(not(unix))]
pub(super) enum Control {}

#[cfg(not(unix))]
impl Control {
    pub(super) fn bind(path: &Path) -> Result<Self, Error> {
        let message = format!("cannot listen at {}: a control socket is there on Unix only", path.display());
        Err(Error::new("control-unix", Exit::Usage, message).with_help("the driver is the host on Windows"))
    }

    pub(super) async fn serve(self, _: Engine) {
        match self {}
    }
}
