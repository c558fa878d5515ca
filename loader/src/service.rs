//! The driver as a service of Windows: installed by its INF, started and stopped by the service control manager.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Exit};

/// What is known of the driver's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There is no such service.
    NotInstalled,
    /// It does not run.
    Stopped,
    /// It is on its way up or down.
    Pending,
    /// It runs.
    Running,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInstalled => "not installed",
            Self::Stopped => "stopped",
            Self::Pending => "starting or stopping",
            Self::Running => "running",
        })
    }
}

/// Installs the driver as the INF at `inf` says. The image must lie beside it.
///
/// # Errors
/// A file is missing, or the system refuses.
pub fn install(inf: &Path) -> Result<State, Error> {
    let image = inf.with_extension("sys");
    for file in [inf, &image] {
        std::fs::metadata(file).map_err(|error| Error::file("read", file, &error))?;
    }
    system::install(inf)
}

/// Starts the driver. One that runs stays as it is.
///
/// # Errors
/// It is not installed, or the system refuses.
pub fn start() -> Result<State, Error> {
    system::start()
}

/// Stops the driver. One that does not run stays as it is.
///
/// # Errors
/// It is not installed, or the system refuses.
pub fn stop() -> Result<State, Error> {
    system::stop()
}

/// Stops the driver and deletes its service.
///
/// # Errors
/// The system refuses.
pub fn uninstall() -> Result<State, Error> {
    system::uninstall()
}

/// What is known of the driver.
///
/// # Errors
/// The system does not say.
pub fn status() -> Result<State, Error> {
    system::status()
}

#[cfg(not(windows))]
mod system {
    use super::*;

    fn none() -> Result<State, Error> {
        Err(Error::new("driver-none", Exit::Driver, "the driver runs on Windows only")
            .with_help("`tidegate test` and `tidegate prog run` show policies at work on any machine"))
    }

    pub(super) fn install(_: &Path) -> Result<State, Error> {
        none()
    }

    pub(super) fn start() -> Result<State, Error> {
        none()
    }

    pub(super) fn stop() -> Result<State, Error> {
        none()
    }

    pub(super) fn uninstall() -> Result<State, Error> {
        none()
    }

    pub(super) fn status() -> Result<State, Error> {
        none()
    }
}

#[cfg(windows)]
mod system {
    use std::ffi::OsStr;
    use std::io;
    use std::process::Command;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use tidegate_abi::device::SERVICE;
    use windows_service::service::{Service, ServiceAccess, ServiceState};
    use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

    use super::*;

    /// `ERROR_SERVICE_DOES_NOT_EXIST`.
    const DOES_NOT_EXIST: i32 = 1060;
    /// `ERROR_SERVICE_ALREADY_RUNNING`.
    const ALREADY_RUNNING: i32 = 1056;
    /// `ERROR_SERVICE_NOT_ACTIVE`.
    const NOT_ACTIVE: i32 = 1062;
    /// How long a driver may take to come up or to drain.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn number(error: &windows_service::Error) -> Option<i32> {
        match error {
            windows_service::Error::Winapi(error) => error.raw_os_error(),
            _ => None,
        }
    }

    fn refused(doing: &str, error: &windows_service::Error) -> Error {
        let windows_service::Error::Winapi(system) = error else {
            return Error::new("driver-service", Exit::Driver, format!("cannot {doing} the driver: {error}"));
        };
        let message = format!("cannot {doing} the driver: {system}");
        if system.kind() == io::ErrorKind::PermissionDenied {
            return Error::new("driver-denied", Exit::Denied, message)
                .with_help("run this in a console of an administrator");
        }
        let help = match system.raw_os_error() {
            // ERROR_INVALID_IMAGE_HASH
            Some(577) => "the image is not signed for this machine; see docs/driver.md",
            // ERROR_FILE_NOT_FOUND
            Some(2) => "the image is gone; install the driver again",
            _ => "the system's event log says more",
        };
        Error::new("driver-service", Exit::Driver, message).with_help(help)
    }

    /// The service; none when it is not installed.
    fn service(access: ServiceAccess) -> Result<Option<Service>, Error> {
        let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)
            .map_err(|error| refused("find", &error))?;
        match manager.open_service(SERVICE, access) {
            Ok(service) => Ok(Some(service)),
            Err(error) if number(&error) == Some(DOES_NOT_EXIST) => Ok(None),
            Err(error) => Err(refused("find", &error)),
        }
    }

    fn installed(access: ServiceAccess) -> Result<Service, Error> {
        service(access)?.ok_or_else(|| {
            Error::new("driver-not-installed", Exit::NotFound, "the driver is not installed")
                .with_help("`tidegate driver install` installs it")
        })
    }

    fn state(service: &Service) -> Result<State, Error> {
        let status = service.query_status().map_err(|error| refused("ask for the state of", &error))?;
        Ok(match status.current_state {
            ServiceState::Running => State::Running,
            ServiceState::Stopped => State::Stopped,
            _ => State::Pending,
        })
    }

    /// Waits until the service is in `wanted`.
    fn wait(service: &Service, wanted: State) -> Result<State, Error> {
        let start = Instant::now();
        loop {
            let now = state(service)?;
            if now == wanted {
                return Ok(now);
            }
            if start.elapsed() > PATIENCE {
                let message = format!("the driver is {now} after {} seconds", PATIENCE.as_secs());
                return Err(Error::new("driver-service", Exit::Driver, message));
            }
            sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn install(inf: &Path) -> Result<State, Error> {
        let inf = std::path::absolute(inf).map_err(|error| Error::file("find", inf, &error))?;
        let cannot = |error| Error::new("driver-install", Exit::Driver, format!("cannot install: {error}"));
        match Command::new("pnputil.exe").arg("/add-driver").arg(&inf).arg("/install").output() {
            // The last two: a restart is asked for; it was installed before.
            Ok(out) if matches!(out.status.code(), Some(0 | 3010 | 259)) => {}
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stdout);
                return Err(cannot(io::Error::other(format!("pnputil.exe says: {}", said.trim())))
                    .with_help("docs/driver.md says how a driver is signed for tests"));
            }
            // Wine has none. 128: the path is whole; 4: never ask for a restart.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let words = format!("DefaultInstall 132 {}", inf.display());
                let mut setup = Command::new("rundll32.exe");
                setup.arg("setupapi.dll,InstallHinfSection").args(words.split(' '));
                setup.status().map_err(cannot)?;
            }
            Err(error) => return Err(cannot(error)),
        }
        // Neither says for certain that it succeeded.
        match status()? {
            State::NotInstalled => {
                let message = format!("the system did not install {}", inf.display());
                Err(Error::new("driver-install", Exit::Driver, message)
                    .with_help("its log is %windir%\\inf\\setupapi.dev.log"))
            }
            state => Ok(state),
        }
    }

    pub(super) fn start() -> Result<State, Error> {
        let service = installed(ServiceAccess::START | ServiceAccess::QUERY_STATUS)?;
        match service.start(&[] as &[&OsStr]) {
            Ok(()) => wait(&service, State::Running),
            Err(error) if number(&error) == Some(ALREADY_RUNNING) => Ok(State::Running),
            Err(error) => Err(refused("start", &error)),
        }
    }

    pub(super) fn stop() -> Result<State, Error> {
        let service = installed(ServiceAccess::STOP | ServiceAccess::QUERY_STATUS)?;
        match service.stop() {
            Ok(_) => wait(&service, State::Stopped),
            Err(error) if number(&error) == Some(NOT_ACTIVE) => Ok(State::Stopped),
            Err(error) => Err(refused("stop", &error)),
        }
    }

    pub(super) fn uninstall() -> Result<State, Error> {
        if status()? == State::NotInstalled {
            return Ok(State::NotInstalled);
        }
        stop()?;
        installed(ServiceAccess::DELETE)?.delete().map_err(|error| refused("uninstall", &error))?;
        Ok(State::NotInstalled)
    }

    pub(super) fn status() -> Result<State, Error> {
        service(ServiceAccess::QUERY_STATUS)?.map_or(Ok(State::NotInstalled), |service| state(&service))
    }
}
