//! Each checked rule is broken here once, by a callout that does one thing wrong, and must be named.

#[path = "../support/mod.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::net::SocketAddr;
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fwps_sim::rules::Kind;
use fwps_sim::{
    Again, Call, Checksum, Completion, Config, Direction, Filter, FlowId, FlowSpec, NeedMore, Packet, Rule,
    SendOutcome, Simulator, Split, Violation, When, locks, rules,
};
use fwps_sys::*;
use support::*;

/// A callout that breaks a rule, and the violations that come of it: one of them must be of that rule.
macro_rules! breaks {
    ($($test:ident $rule:ident $body:block)*) => {
        $(#[test]
        fn $test() {
            let broken: Vec<Violation> = $body;
            fired(rules::$rule, stringify!($test), &broken);
        })*

        /// The rules that are broken here.
        pub(crate) const BROKEN: &[&str] = &[$(rules::$rule.id,)*];
    };
}

/// What the simulator shows, seen by a test.
macro_rules! shows {
    ($($test:ident $rule:ident $body:block)*) => {
        $(#[test]
        fn $test() {
            $body
            seen(rules::$rule, stringify!($test));
        })*

        /// What is shown here.
        pub(crate) const SHOWN: &[&str] = &[$(rules::$rule.id,)*];
    };
}

mod functions;
mod life;
mod management;
mod sends;
mod streams;

/// The rule whose check fires where `rule` is broken.
fn checked_as(rule: Rule) -> &'static str {
    match rule.kind {
        Kind::Checked => rule.id,
        Kind::Like(other) => other,
        other => panic!("{} is {other:?}, and nothing to be broken", rule.id),
    }
}

fn fired(rule: Rule, test: &str, broken: &[Violation]) {
    let by = checked_as(rule);
    let found = broken.iter().find(|violation| violation.rule == by);
    let found = found.unwrap_or_else(|| panic!("expected {by}, found {broken:#?}"));
    report(rule, test, &format!("{}:{}", found.check.file().replace('\\', "/"), found.check.line()));
}

fn seen(rule: Rule, test: &str) {
    assert_eq!(rule.kind, Kind::Shown);
    report(rule, test, "");
}

/// Leaves a note for `cargo xtask rules`: this test ran, and the check at this place fired.
fn report(rule: Rule, test: &str, check: &str) {
    if let Some(folder) = std::env::var_os("TIDEGATE_RULES_SEEN") {
        let note = std::path::Path::new(&folder).join(format!("{}.{test}", rule.id));
        std::fs::write(note, check).expect("the folder of the notes");
    }
}

#[test]
fn every_rule_has_its_test() {
    let broken = [functions::BROKEN, streams::BROKEN, sends::BROKEN, life::BROKEN].concat();
    let shown = [functions::SHOWN, streams::SHOWN, sends::SHOWN, life::SHOWN, management::SHOWN].concat();
    let tested = |rule: &&Rule| match rule.kind {
        Kind::Checked | Kind::Like(_) => broken.contains(&rule.id),
        Kind::Shown => shown.contains(&rule.id),
        Kind::Unchecked(_) => true,
    };
    let untested: Vec<_> = rules::ALL.iter().filter(|rule| !tested(rule)).map(|rule| rule.id).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

const REMOTE: [u8; 4] = [192, 0, 2, 53];
const PUSHED: FWPS_STREAM_FLAG = FWPS_STREAM_FLAG::RECEIVE_PUSH;

/// Two indications and a FIN for a callout that runs `body` on the first, and permits the rest.
fn first(body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<Violation> {
    first_with(Config::default(), body)
}

fn first_with(config: Config, mut body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<Violation> {
    let mut shown_before = false;
    always(
        config,
        move |shown| {
            if !std::mem::replace(&mut shown_before, true) { body(shown) } else { shown.permit_all() }
        },
    )
}

/// Two indications and a FIN for a callout that runs `body` on each.
fn always(config: Config, body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<Violation> {
    let (sim, driver) = start(config, layer::STREAM_V4, body);
    let flow = flow(&sim);
    sim.indicate_with(flow, Direction::Receive, b"abcdef", PUSHED);
    sim.indicate_with(flow, Direction::Receive, b"ghi", PUSHED);
    sim.fin(flow, Direction::Receive);
    sim.settle();
    broken(sim, driver)
}

/// What happens on the FIN only.
fn at_fin(mut body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<Violation> {
    always(Config::default(), move |shown| if shown.is_fin() { body(shown) } else { shown.permit_all() })
}

/// The parameters of a stream injection, right until a test changes one.
struct Inject {
    handle: HANDLE,
    flags: u32,
    flow: u64,
    callout: u32,
    layer: u16,
    stream: FWPS_STREAM_FLAG,
    nbl: *mut NET_BUFFER_LIST,
    length: usize,
    complete: FWPS_INJECT_COMPLETE0,
}

/// Injects three bytes, changed by `change`, and cleans up after a failure.
fn inject(driver: &Driver, flow: u64, change: impl FnOnce(&mut Inject)) -> NTSTATUS {
    let (nbl, buffer) = built(driver, b"new");
    let mut call = Inject {
        handle: driver.injection,
        flags: 0,
        flow,
        callout: driver.callout,
        layer: layer::STREAM_V4,
        stream: FWPS_STREAM_FLAG::RECEIVE,
        nbl,
        length: 3,
        complete: Some(free_built),
    };
    change(&mut call);
    // SAFETY: the NBL is live, the buffer goes with it.
    unsafe {
        let status = FwpsStreamInjectAsync0(
            call.handle,
            null_mut(),
            call.flags,
            call.flow,
            call.callout,
            call.layer,
            call.stream,
            call.nbl,
            call.length,
            call.complete,
            buffer.cast(),
        );
        if status != NTSTATUS::SUCCESS || call.nbl.is_null() {
            free_built(buffer.cast(), nbl, 0);
        }
        status
    }
}

/// Replaces the first indication by an injection that `change` spoils.
fn bad_inject(change: impl Fn(&mut Inject) + 'static) -> Vec<Violation> {
    first(move |shown| {
        let _ = inject(shown.sim, shown.flow(), &change);
        shown.block_all();
    })
}

/// Clones and blocks what is shown; gives back the clone with its length and flags.
fn hold(shown: &mut Shown<'_>) -> (*mut NET_BUFFER_LIST, usize, FWPS_STREAM_FLAG) {
    let held = (shown.clone_stream(), shown.length(), shown.flags());
    shown.block_all();
    held
}

fn inject_clone(
    driver: &Driver,
    flow: u64,
    (clone, length, flags): (*mut NET_BUFFER_LIST, usize, FWPS_STREAM_FLAG),
) -> NTSTATUS {
    stream_inject::<u8>(driver, flow, flags, clone, length, free_clone, null_mut())
}

fn there() -> SocketAddr {
    (REMOTE, 53).into()
}

fn query() -> Packet {
    Packet::udp("10.0.0.2:5353".parse().unwrap(), there(), b"query")
}

/// Sends `packet` past a callout that runs `body` on what it did not inject itself.
fn send(packet: &Packet, body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<Violation> {
    send_with(|filter| filter, packet, body)
}

fn send_with(
    filter: impl Fn(Filter) -> Filter,
    packet: &Packet,
    mut body: impl FnMut(&mut Shown<'_>) + 'static,
) -> Vec<Violation> {
    let sim = Simulator::new(Config::default());
    let driver = load(&sim, 0xa, FWP_CALLOUT_FLAG::NONE, move |shown| {
        if shown.injection_state() == FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
            body(shown);
        } else {
            shown.decide(FWP_ACTION::PERMIT);
        }
    });
    sim.add_filter(filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key)));
    sim.send(packet);
    sim.settle();
    broken(sim, driver)
}

/// Absorbs the packet and injects its own bytes, with `change` applied to the parameters.
fn resend(packet: &Packet, change: impl Fn(&mut Buffer) + 'static) -> Vec<Violation> {
    send(packet, move |shown| {
        let bytes = packet_bytes(shown.data);
        let _ = send_inject(shown.sim, shown.metadata, REMOTE, &bytes, &change);
        shown.absorb();
    })
}

/// Loads a driver, lets `body` misbehave at PASSIVE_LEVEL, unloads.
fn driver(body: impl FnOnce(&Driver)) -> Vec<Violation> {
    let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
        shown.permit_all();
    });
    sim.enter(|| body(&driver));
    broken(sim, driver)
}

/// Unloads, and nothing was broken.
fn right(sim: Simulator, driver: Driver) {
    unload(&sim, driver);
    sim.finish();
}

/// Sends `packet` past a callout that runs `body` on what it did not inject itself, and breaks nothing.
fn right_send(packet: &Packet, body: impl FnMut(&mut Shown<'_>) + 'static) {
    let broken = send(packet, body);
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A callout that defers the first indication of a stream, and permits what comes then.
fn deferring() -> (Simulator, Driver) {
    let mut deferred = false;
    start(Config::default(), layer::STREAM_V4, move |shown| {
        if std::mem::replace(&mut deferred, true) {
            shown.permit_all();
        } else {
            shown.act(FWPS_STREAM_ACTION::DEFER, 0);
        }
    })
}

fn resume(sim: &Simulator, driver: &Driver, flow: FlowId, flags: FWPS_STREAM_FLAG) {
    // SAFETY: numbers only.
    let status =
        sim.enter(|| unsafe { FwpsStreamContinue0(flow.0, driver.callout, layer::STREAM_V4, flags) });
    status.ok().unwrap();
}

fn handle_for(sim: &Simulator, what: FWPS_INJECTION_TYPE) -> HANDLE {
    let mut handle = null_mut();
    // SAFETY: the pointer is valid.
    sim.enter(|| unsafe { FwpsInjectionHandleCreate0(ADDRESS_FAMILY::UNSPEC, what, &raw mut handle) })
        .ok()
        .unwrap();
    handle
}

fn destroy(sim: &Simulator, handle: HANDLE) {
    // SAFETY: the handle is the test's.
    sim.enter(|| unsafe { FwpsInjectionHandleDestroy0(handle) }).ok().unwrap();
}

fn unregister(callout: u32) -> NTSTATUS {
    // SAFETY: a number only.
    unsafe { FwpsCalloutUnregisterById0(callout) }
}

fn remove(flow: FlowId, driver: &Driver) -> NTSTATUS {
    // SAFETY: numbers only.
    unsafe { FwpsFlowRemoveContext0(flow.0, layer::STREAM_V4, driver.callout) }
}

/// Runs `body` with a spin lock held.
fn locked<R>(body: impl FnOnce() -> R) -> R {
    locks::taken();
    let result = body();
    locks::released();
    result
}

/// Injects a clone of a shown packet to `remote`.
fn send_clone(shown: &Shown<'_>, clone: *mut NET_BUFFER_LIST, remote: [u8; 4]) {
    let (nbl, buffer) = built(shown.sim, b"-");
    // SAFETY: the buffer's own list is not needed; the rest of it lives until the completion.
    unsafe {
        FwpsFreeNetBufferList0(nbl);
        (*buffer).remote = remote;
        (*buffer).args.remoteAddress = (&raw mut (*buffer).remote).cast();
        FwpsInjectTransportSendAsync1(
            shown.sim.injection,
            null_mut(),
            shown.metadata.transportEndpointHandle,
            0,
            &raw mut (*buffer).args,
            ADDRESS_FAMILY::INET,
            shown.metadata.compartmentId,
            clone,
            Some(free_sent_clone),
            buffer.cast(),
        )
        .ok()
        .unwrap();
    }
}

unsafe extern "system" fn free_sent_clone(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: what `send_clone` gave away.
    unsafe {
        let buffer = Box::from_raw(context.cast::<Buffer>());
        STATUS.set(NET_BUFFER_LIST::status(nbl).0);
        FwpsFreeCloneNetBufferList0(nbl, 0);
        IoFreeMdl(buffer.mdl);
    }
}

/// Tries to inject once more.
unsafe extern "system" fn inject_again(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, dispatch: BOOLEAN) {
    // SAFETY: the completion owns both.
    unsafe { free_built(context, nbl, dispatch) }
    let (driver, flow) = AGAIN.get().unwrap();
    let flags = FWPS_STREAM_FLAG::RECEIVE | FWPS_STREAM_FLAG::RECEIVE_DISCONNECT;
    STATUS.set(stream_inject(&driver, flow, flags, null_mut(), 0, free_clone, null_mut::<u8>()).0);
}

/// Completion of a chain of two: frees the NBL that it is called for, and the context with the second.
unsafe extern "system" fn one_of_two(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    COUNT.set(COUNT.get() + 1);
    // SAFETY: each NBL is freed once, the context with the last.
    unsafe {
        FwpsFreeNetBufferList0(nbl);
        if COUNT.get() == 2 {
            for buffer in *Box::from_raw(context.cast::<[*mut Buffer; 2]>()) {
                IoFreeMdl(Box::from_raw(buffer).mdl);
            }
        }
    }
}

/// Bytes that a chain describes.
fn chain_length(chain: *mut NET_BUFFER_LIST) -> usize {
    let (mut nbl, mut length) = (chain, 0);
    while !nbl.is_null() {
        // SAFETY: the chain is live.
        unsafe {
            length += NET_BUFFER::data_length(NET_BUFFER_LIST::first_nb(nbl)) as usize;
            nbl = (*nbl).Next;
        }
    }
    length
}

/// Has nothing against it.
fn permits(shown: &mut Shown<'_>) {
    shown.permit_all();
}

/// A flow that was there before the filters.
fn older_flow(sim: &Simulator) -> FlowId {
    let spec = FlowSpec::outbound("10.0.0.2:40000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    sim.open_flow(&FlowSpec { mid_stream: true, ..spec })
}

/// A callout that still holds a clone when its handle is destroyed: from before, or from after it began to unload.
fn held_at_unload(later: bool) -> Vec<Violation> {
    let unloading = Rc::new(Cell::new(!later));
    let begun = Rc::clone(&unloading);
    let (sim, driver) = start(Config::default(), layer::STREAM_V4, move |shown| {
        if !begun.get() {
            return shown.permit_all();
        }
        let held = hold(shown);
        HELD.with(|all| all.borrow_mut().push(held));
    });
    let flow = flow(&sim);
    sim.indicate(flow, Direction::Receive, b"abc");
    unloading.set(true);
    sim.indicate(flow, Direction::Receive, b"def");
    destroy(&sim, driver.injection);
    for (clone, ..) in HELD.take() {
        // SAFETY: the clones were never injected.
        unsafe { FwpsDiscardClonedStreamData0(clone, 0, 0) }
    }
    sim.enter(|| unregister(driver.callout)).ok().unwrap();
    // SAFETY: the pool is the driver's.
    sim.enter(|| unsafe { NdisFreeNetBufferListPool(driver.pool) });
    sim.end()
}

/// An IPv4 header from 10.0.0.2 to `REMOTE`.
fn ip_header() -> Vec<u8> {
    vec![0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 192, 0, 2, 53]
}

unsafe extern "system" fn no_notify(
    _: FWPS_CALLOUT_NOTIFY_TYPE,
    _: *const GUID,
    _: *mut FWPS_FILTER1,
) -> NTSTATUS {
    NTSTATUS::SUCCESS
}

unsafe extern "system" fn no_classify(
    _: *const FWPS_INCOMING_VALUES0,
    _: *const FWPS_INCOMING_METADATA_VALUES0,
    _: *mut c_void,
    _: *const c_void,
    _: *const FWPS_FILTER1,
    _: u64,
    _: *mut FWPS_CLASSIFY_OUT0,
) {
}

/// Leaves behind what `body` leaves, without unloading anything else.
fn left(body: impl FnOnce(&Simulator)) -> Vec<Violation> {
    let sim = Simulator::new(Config::default());
    sim.enter(|| body(&sim));
    sim.end()
}

thread_local! {
    static HELD: RefCell<Vec<(*mut NET_BUFFER_LIST, usize, FWPS_STREAM_FLAG)>> = RefCell::default();
    static ENDPOINT: Cell<u64> = const { Cell::new(0) };
    static STATUS: Cell<i32> = const { Cell::new(0) };
    static AGAIN: Cell<Option<(Driver, u64)>> = const { Cell::new(None) };
    static COUNT: Cell<u32> = const { Cell::new(0) };
    static ARGS: Cell<*mut Buffer> = const { Cell::new(null_mut()) };
}

/// The mapped bytes of the first packet.
fn live_bytes(nbl: *mut c_void) -> *mut u8 {
    // SAFETY: the NBL is live.
    unsafe {
        let nb = NET_BUFFER_LIST::first_nb(nbl.cast());
        let start = MmGetSystemAddressForMdlSafe(NET_BUFFER::current_mdl(nb), NORMAL_PAGE_PRIORITY);
        start.cast::<u8>().add(NET_BUFFER::current_mdl_offset(nb) as usize)
    }
}

fn clone_list(nbl: *mut c_void) -> *mut NET_BUFFER_LIST {
    let mut clone = null_mut();
    // SAFETY: the NBL is live.
    unsafe {
        FwpsAllocateCloneNetBufferList0(nbl.cast(), null_mut(), null_mut(), 0, &raw mut clone).ok().unwrap();
    };
    clone
}

unsafe extern "system" fn requeue(_: *mut c_void, _: *mut c_void) {}

unsafe extern "system" fn free_later(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    // SAFETY: frees everything but the NBL, which is the mistake.
    unsafe {
        let _ = nbl;
        let buffer = Box::from_raw(context.cast::<Buffer>());
        IoFreeMdl(buffer.mdl);
    }
}

unsafe extern "system" fn destroy_inside(context: *mut c_void, nbl: *mut NET_BUFFER_LIST, dispatch: BOOLEAN) {
    let mut handle = null_mut();
    // SAFETY: a call for PASSIVE_LEVEL, which is the mistake.
    unsafe {
        let _ =
            FwpsInjectionHandleCreate0(ADDRESS_FAMILY::UNSPEC, FWPS_INJECTION_TYPE::NONE, &raw mut handle);
        free_built(context, nbl, dispatch);
        let _ = FwpsInjectionHandleDestroy0(handle);
    }
}

#[test]
fn the_message_names_the_rule_and_the_steps() {
    let message = std::panic::catch_unwind(|| {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| shown.permit(99));
        sim.indicate(flow(&sim), Direction::Send, b"abc");
        unload(&sim, driver);
        sim.finish();
    })
    .unwrap_err();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("S4.3-03: countBytesEnforced is 99 of 3"), "{message}");
    assert!(message.contains("show callout 256 3 bytes"), "{message}");
}

#[test]
fn requested_failures_come_when_they_are_asked_for() {
    let sim = Simulator::new(Config::default());
    sim.fail(Call::MdlAllocate, When::Nth(2), NTSTATUS::INSUFFICIENT_RESOURCES);
    let made: Vec<bool> = sim.enter(|| {
        (0..4)
            .map(|_| {
                // SAFETY: an address is only a number here; what was made is freed.
                unsafe {
                    let mdl = IoAllocateMdl(null_mut(), 1, 0, 0, null_mut());
                    if !mdl.is_null() {
                        IoFreeMdl(mdl);
                    }
                    !mdl.is_null()
                }
            })
            .collect()
    });
    assert_eq!(made, [true, false, true, true]);
    sim.finish();
}
