//! What the driver says of itself: events of the ETW provider `Tidegate`, which describe themselves.

use fwps_sys::NTSTATUS;
use tidegate_driver::sequence::Step;
use tracelogging as tlg;

tlg::define_provider!(PROVIDER, "Tidegate");

/// Makes the provider known. PASSIVE_LEVEL, once: the provider stops the machine that registers it twice. It has a frame of its
/// own, by which the rules of the image know it.
#[inline(never)]
pub(crate) fn register() -> Result<(), NTSTATUS> {
    // SAFETY: `unregister` is called before the image goes.
    match unsafe { PROVIDER.register() } {
        0 => Ok(()),
        status => Err(NTSTATUS(status as i32)),
    }
}

/// Ends it. PASSIVE_LEVEL.
pub(crate) fn unregister() {
    PROVIDER.unregister();
}

/// The driver runs.
pub(crate) fn started() {
    tlg::write_event!(
        PROVIDER,
        "Started",
        level(Informational),
        u16("ApiVersion", &tidegate_abi::API_VERSION)
    );
}

/// The driver could not start.
pub(crate) fn failed(step: Step, status: NTSTATUS) {
    let step = step as u32;
    tlg::write_event!(
        PROVIDER,
        "StartFailed",
        level(Error),
        u32("Step", &step),
        win_ntstatus("Status", &status.0)
    );
}

/// The driver stops.
pub(crate) fn stopped() {
    tlg::write_event!(PROVIDER, "Stopped", level(Informational));
}

/// The filters were added, or not.
pub(crate) fn filters(status: NTSTATUS) {
    tlg::write_event!(PROVIDER, "Filters", level(Informational), win_ntstatus("Status", &status.0));
}

/// Callouts that are in use can't be unregistered: the driver waits.
pub(crate) fn busy(status: NTSTATUS) {
    tlg::write_event!(PROVIDER, "Busy", level(Warning), win_ntstatus("Status", &status.0));
}
