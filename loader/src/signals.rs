//! How a command that goes on until it is told otherwise is told to end.

use std::io;

/// Comes to its end when the process is interrupted (Ctrl-C) or asked to terminate, as the system's services are. From this call on
/// no such signal is lost.
///
/// # Errors
/// The system does not let it wait for signals.
#[cfg(unix)]
pub(crate) fn ending() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The same where there are no signals: Ctrl-C.
#[cfg(windows)]
pub(crate) fn ending() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        let _ = interrupt.recv().await;
    })
}
