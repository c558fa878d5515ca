//! Each checked rule is broken here once, by a callout that does one thing wrong, and must be named.

mod support;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::net::SocketAddr;
use std::ptr::null_mut;

use fwps_sim::{Call, Completion, Config, Direction, Filter, Packet, Simulator, When, rules};
use fwps_sys::*;
use support::*;

macro_rules! breaks {
    ($($test:ident $rule:ident $body:block)*) => {
        $(#[test]
        fn $test() {
            let broken: Vec<&'static str> = $body;
            assert!(broken.contains(&rules::$rule.id), "expected {}, found {broken:?}", rules::$rule.id);
        })*

        #[test]
        fn every_rule_is_broken_by_a_test() {
            let broken = [$(rules::$rule.id,)*];
            let untested: Vec<_> = rules::ALL.iter().filter(|rule| !broken.contains(&rule.id)).collect();
            assert!(untested.is_empty(), "{untested:#?}");
        }
    };
}

const REMOTE: [u8; 4] = [192, 0, 2, 53];
const PUSHED: FWPS_STREAM_FLAG = FWPS_STREAM_FLAG::RECEIVE_PUSH;

/// Two indications and a FIN for a callout that runs `body` on the first, and permits the rest.
fn first(body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<&'static str> {
    first_with(Config::default(), body)
}

fn first_with(config: Config, mut body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<&'static str> {
    let mut shown_before = false;
    always(
        config,
        move |shown| {
            if !std::mem::replace(&mut shown_before, true) { body(shown) } else { shown.permit_all() }
        },
    )
}

/// Two indications and a FIN for a callout that runs `body` on each.
fn always(config: Config, body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<&'static str> {
    let (sim, driver) = start(config, layer::STREAM_V4, body);
    let flow = flow(&sim);
    sim.indicate_with(flow, Direction::Receive, b"abcdef", PUSHED);
    sim.indicate_with(flow, Direction::Receive, b"ghi", PUSHED);
    sim.fin(flow, Direction::Receive);
    sim.settle();
    broken(sim, driver)
}

/// What happens on the FIN only.
fn at_fin(mut body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<&'static str> {
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
fn bad_inject(change: impl Fn(&mut Inject) + 'static) -> Vec<&'static str> {
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
fn send(packet: &Packet, body: impl FnMut(&mut Shown<'_>) + 'static) -> Vec<&'static str> {
    send_with(|filter| filter, packet, body)
}

fn send_with(
    filter: impl Fn(Filter) -> Filter,
    packet: &Packet,
    mut body: impl FnMut(&mut Shown<'_>) + 'static,
) -> Vec<&'static str> {
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
fn resend(packet: &Packet, change: impl Fn(&mut Buffer) + 'static) -> Vec<&'static str> {
    send(packet, move |shown| {
        let bytes = packet_bytes(shown.data);
        let _ = send_inject(shown.sim, shown.metadata, REMOTE, &bytes, &change);
        shown.absorb();
    })
}

/// Loads a driver, lets `body` misbehave at PASSIVE_LEVEL, unloads.
fn driver(body: impl FnOnce(&Driver)) -> Vec<&'static str> {
    let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
        shown.permit_all();
    });
    sim.enter(|| body(&driver));
    broken(sim, driver)
}

/// Leaves behind what `body` leaves, without unloading anything else.
fn left(body: impl FnOnce(&Simulator)) -> Vec<&'static str> {
    let sim = Simulator::new(Config::default());
    sim.enter(|| body(&sim));
    sim.end().iter().map(|violation| violation.rule).collect()
}

thread_local! {
    static HELD: RefCell<Vec<(*mut NET_BUFFER_LIST, usize, FWPS_STREAM_FLAG)>> = RefCell::default();
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

breaks! {
    a_clone_freed_as_if_it_were_built WRONG_FREE {
        first(|shown| {
            let clone = shown.clone_stream();
            // SAFETY: the wrong function, which is the mistake; then the right one.
            unsafe {
                FwpsFreeNetBufferList0(clone);
                FwpsDiscardClonedStreamData0(clone, 0, 1);
            }
            shown.permit_all();
        })
    }
    a_context_size_that_is_no_multiple_of_16 BAD_NBL_PARAMETERS {
        driver(|driver| {
            let mut nbl = null_mut();
            // SAFETY: the pool is the driver's.
            let status = unsafe {
                FwpsAllocateNetBufferAndNetBufferList0(driver.pool, 8, 0, null_mut(), 0, 0, &raw mut nbl)
            };
            assert_eq!(status, NTSTATUS::INVALID_PARAMETER);
        })
    }
    an_nbl_freed_twice FREED_NBL {
        driver(|driver| {
            let (nbl, buffer) = built(driver, b"x");
            // SAFETY: the second call is the mistake.
            unsafe {
                free_built(buffer.cast(), nbl, 0);
                FwpsFreeNetBufferList0(nbl);
            }
        })
    }
    an_nbl_freed_before_its_completion NBL_IN_FLIGHT {
        first(|shown| {
            let (nbl, buffer) = built(shown.sim, b"x");
            stream_inject(shown.sim, shown.flow(), FWPS_STREAM_FLAG::RECEIVE, nbl, 1, free_built, buffer).ok().unwrap();
            // SAFETY: the mistake.
            unsafe { FwpsFreeNetBufferList0(nbl) }
            shown.block_all();
        })
    }
    a_built_nbl_discarded_as_stream_data BAD_DISCARD {
        driver(|driver| {
            let (nbl, buffer) = built(driver, b"x");
            // SAFETY: the first call is the mistake.
            unsafe {
                FwpsDiscardClonedStreamData0(nbl, 0, 0);
                free_built(buffer.cast(), nbl, 0);
            }
        })
    }
    no_bytes_asked_of_an_nb BAD_DATA_BUFFER {
        send(&query(), |shown| {
            // SAFETY: the NBL is live.
            unsafe {
                let nb = NET_BUFFER_LIST::first_nb(shown.data.cast());
                assert!(NdisGetDataBuffer(nb, 0, null_mut(), 1, 0).is_null());
            }
            shown.decide(FWP_ACTION::PERMIT);
        })
    }
    an_mdl_that_was_never_built BAD_MDL {
        driver(|driver| {
            let mut byte = 0_u8;
            let mut nbl = null_mut();
            // SAFETY: leaving out the build is the mistake.
            unsafe {
                let mdl = IoAllocateMdl((&raw mut byte).cast(), 1, 0, 0, null_mut());
                let status = FwpsAllocateNetBufferAndNetBufferList0(driver.pool, 0, 0, mdl, 0, 1, &raw mut nbl);
                assert_eq!(status, NTSTATUS::INVALID_PARAMETER);
                IoFreeMdl(mdl);
            }
        })
    }
    an_mdl_left_behind FREED_MDL {
        left(|_| {
            // SAFETY: an address is only a number here.
            unsafe { IoAllocateMdl(null_mut(), 1, 0, 0, null_mut()) };
        })
    }
    a_work_item_queued_twice WORK_ITEM {
        driver(|driver| {
            // SAFETY: queueing again is the mistake.
            unsafe {
                let item = IoAllocateWorkItem(driver.device);
                IoQueueWorkItem(item, Some(requeue), 1, null_mut());
                IoQueueWorkItem(item, Some(requeue), 1, null_mut());
            }
        })
    }
    stream_injection_with_flags STREAM_PARAMETERS {
        bad_inject(|call| call.flags = 1)
    }
    stream_injection_both_ways ONE_DIRECTION {
        bad_inject(|call| call.stream = FWPS_STREAM_FLAG::SEND | FWPS_STREAM_FLAG::RECEIVE)
    }
    a_disconnect_without_its_direction DISCONNECT_NEEDS_DIRECTION {
        bad_inject(|call| call.stream = FWPS_STREAM_FLAG::RECEIVE_DISCONNECT)
    }
    no_completion COMPLETION_REQUIRED {
        bad_inject(|call| call.complete = None)
    }
    no_nbl_and_no_disconnect NULL_NBL {
        bad_inject(|call| (call.nbl, call.length) = (null_mut(), 0))
    }
    a_completion_that_frees_no_nbl COMPLETION_FREES {
        bad_inject(|call| call.complete = Some(free_later))
    }
    a_failed_injection_that_leaks FAILURE_FREES {
        first(|shown| {
            let (nbl, buffer) = built(shown.sim, b"x");
            let status = stream_inject(shown.sim, 999, FWPS_STREAM_FLAG::RECEIVE, nbl, 1, free_built, buffer);
            assert_ne!(status, NTSTATUS::SUCCESS);
            shown.permit_all();
        })
    }
    bytes_changed_while_they_are_injected HANDS_OFF {
        let config = Config { completion: Completion::Manual, ..Config::default() };
        first_with(config, |shown| {
            let (nbl, buffer) = built(shown.sim, b"x");
            stream_inject(shown.sim, shown.flow(), FWPS_STREAM_FLAG::RECEIVE, nbl, 1, free_built, buffer).ok().unwrap();
            // SAFETY: the buffer lives; writing to it is the mistake.
            unsafe { (&mut (*buffer).bytes)[0] = b'y' }
            shown.block_all();
        })
    }
    a_wrong_data_length DATA_LENGTH {
        bad_inject(|call| call.length = 4)
    }
    injection_behind_a_reset AFTER_ABORT {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            if shown.flags().has_any(FWPS_STREAM_FLAG::ABORT) {
                let _ = inject(shown.sim, shown.flow(), |_| ());
            }
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.abort(flow, Direction::Receive);
        broken(sim, driver)
    }
    a_clone_injected_without_push KEEP_FLAGS {
        first(|shown| {
            let held = (shown.clone_stream(), shown.length(), FWPS_STREAM_FLAG::RECEIVE);
            inject_clone(shown.sim, shown.flow(), held).ok().unwrap();
            shown.block_all();
        })
    }
    another_flow_injected_into OWN_FLOW_ONLY {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            let _ = inject(shown.sim, shown.flow() - 1, |_| ());
            shown.permit_all();
        });
        let (first, second) = (flow(&sim), flow(&sim));
        assert_eq!(first.0 + 1, second.0);
        sim.indicate(second, Direction::Receive, b"abc");
        broken(sim, driver)
    }
    injection_from_nowhere INJECT_OUTSIDE {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.enter(|| inject(&driver, flow.0, |_| ()).ok().unwrap());
        broken(sim, driver)
    }
    a_clone_injected_and_the_bytes_permitted_too CLONE_BLOCKS {
        first(|shown| {
            let held = hold(shown);
            inject_clone(shown.sim, shown.flow(), held).ok().unwrap();
            shown.permit_all();
        })
    }
    bytes_permitted_past_queued_clones STICKY {
        let mut queued = None;
        always(Config::default(), move |shown| {
            if queued.is_none() {
                queued = Some(hold(shown));
                return;
            }
            if shown.is_fin() && let Some((clone, ..)) = queued {
                // SAFETY: the clone was never injected.
                unsafe { FwpsDiscardClonedStreamData0(clone, 0, 1) }
            }
            shown.permit_all();
        })
    }
    clones_injected_out_of_order IN_ORDER {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            let held = hold(shown);
            HELD.with(|all| all.borrow_mut().push(held));
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"one");
        sim.indicate(flow, Direction::Receive, b"two");
        while let Some(held) = HELD.with(|all| all.borrow_mut().pop()) {
            sim.enter(|| inject_clone(&driver, flow.0, held).ok().unwrap());
        }
        broken(sim, driver)
    }
    a_continue_inside_classify CONTINUE_OUTSIDE {
        first(|shown| {
            // SAFETY: numbers only; calling it from here is the mistake.
            let status = unsafe {
                FwpsStreamContinue0(shown.flow(), shown.sim.callout, layer::STREAM_V4, FWPS_STREAM_FLAG::RECEIVE)
            };
            assert_eq!(status, NTSTATUS::INVALID_PARAMETER);
            shown.permit_all();
        })
    }
    a_filter_removed_while_it_waits_for_data REMOVED_BUSY {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 100);
        });
        let filter = sim.add_filter(Filter::at(layer::STREAM_V4, driver.key));
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Send, b"abc");
        sim.remove_filter(filter);
        broken(sim, driver)
    }
    more_bytes_enforced_than_shown ENFORCED {
        first(|shown| shown.permit(7))
    }
    no_action ACTION_SET {
        first(|shown| {
            shown.permit_all();
            shown.out.actionType = FWP_ACTION::NONE;
        })
    }
    a_permit_beside_a_stream_action ACTION_NONE {
        first(|shown| {
            shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 1);
            shown.out.actionType = FWP_ACTION::PERMIT;
        })
    }
    output_fields_left_as_they_were STALE_OUTPUT {
        first(|shown| {
            let length = shown.length();
            shown.out.actionType = FWP_ACTION::PERMIT;
            shown.packet().countBytesEnforced = length;
        })
    }
    more_data_without_a_number NEED_NOTHING {
        first(|shown| shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 0))
    }
    more_data_beyond_the_limit BUFFER_LIMIT {
        let config = Config { buffer_limit: 6, ..Config::default() };
        first_with(config, |shown| shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 1))
    }
    more_data_at_the_end_of_the_stream NO_MORE {
        always(Config::default(), |shown| {
            if shown.is_fin() { shown.permit_all() } else { shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 100) }
        })
    }
    more_data_on_a_fin NEED_AT_END {
        at_fin(|shown| shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 1))
    }
    outbound_data_deferred DEFER {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.act(FWPS_STREAM_ACTION::DEFER, 0);
        });
        sim.indicate(flow(&sim), Direction::Send, b"abc");
        broken(sim, driver)
    }
    an_inspection_that_drops DROP_RIGHT {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            shown.act(FWPS_STREAM_ACTION::DROP_CONNECTION, 0);
        });
        sim.add_filter(Filter::at(layer::STREAM_V4, driver.key).action(FWP_ACTION::CALLOUT_INSPECTION));
        sim.indicate(flow(&sim), Direction::Send, b"abc");
        broken(sim, driver)
    }
    bytes_injected_behind_the_fin AFTER_FIN {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.fin(flow, Direction::Receive);
        assert_ne!(sim.enter(|| inject(&driver, flow.0, |_| ())), NTSTATUS::SUCCESS);
        broken(sim, driver)
    }
    a_fin_that_overtakes_queued_clones FIN_WAITS {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            if shown.is_fin() {
                shown.permit_all();
            } else {
                let held = hold(shown);
                HELD.with(|all| all.borrow_mut().push(held));
            }
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.fin(flow, Direction::Receive);
        let (clone, ..) = HELD.with(|all| all.borrow_mut().pop()).unwrap();
        // SAFETY: the clone was never injected.
        unsafe { FwpsDiscardClonedStreamData0(clone, 0, 0) }
        broken(sim, driver)
    }
    a_fin_out_of_nothing NO_FALSE_FIN {
        bad_inject(|call| call.stream |= FWPS_STREAM_FLAG::RECEIVE_DISCONNECT)
    }
    a_reset_that_is_blocked RESET_PASSES {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.block_all();
        });
        sim.abort(flow(&sim), Direction::Send);
        broken(sim, driver)
    }
    a_reset_answered_with_another RESET_PASSES {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.act(FWPS_STREAM_ACTION::DROP_CONNECTION, 0);
        });
        sim.abort(flow(&sim), Direction::Send);
        broken(sim, driver)
    }
    injection_into_a_dead_flow DEAD_FLOW {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.close_flow(flow);
        assert_ne!(sim.enter(|| inject(&driver, flow.0, |_| ())), NTSTATUS::SUCCESS);
        broken(sim, driver)
    }
    tcp_injected_inside_classify TCP_OUTSIDE {
        resend(&Packet::tcp("10.0.0.2:1".parse().unwrap(), there(), 0x10, 1, b"x"), |_| ())
    }
    no_remote_address SEND_PARAMETERS {
        resend(&query(), |buffer| buffer.args.remoteAddress = null_mut())
    }
    a_remote_address_in_host_order NETWORK_ORDER {
        resend(&query(), |buffer| buffer.remote.reverse())
    }
    send_parameters_changed_before_completion SEND_ARGS_LIVE {
        let sim = Simulator::new(Config { completion: Completion::Manual, ..Config::default() });
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if shown.injection_state() == FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
                let bytes = packet_bytes(shown.data);
                send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |buffer| ARGS.set(buffer)).ok().unwrap();
                shown.absorb();
            } else {
                shown.decide(FWP_ACTION::PERMIT);
            }
        });
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key));
        sim.send(&query());
        // SAFETY: the buffer lives until the completion; writing to it is the mistake.
        unsafe { (*ARGS.get()).remote = [1, 2, 3, 4] }
        broken(sim, driver)
    }
    the_metadata_s_own_control_data CONTROL_DATA {
        let packet = Packet { control_data: Some(vec![1; 16]), ..query() };
        send(&packet, |shown| {
            let (bytes, metadata) = (packet_bytes(shown.data), shown.metadata);
            let _ = send_inject(shown.sim, metadata, REMOTE, &bytes, |buffer| {
                buffer.args.controlData = metadata.controlData;
                buffer.args.controlDataLength = metadata.controlDataLength;
            });
            shown.absorb();
        })
    }
    a_scope_that_was_not_copied SCOPE {
        resend(&Packet { scope_id: Some(3), ..query() }, |_| ())
    }
    a_compartment_that_was_not_copied COMPARTMENT {
        send(&query(), |shown| {
            let bytes = packet_bytes(shown.data);
            let metadata = FWPS_INCOMING_METADATA_VALUES0 { compartmentId: COMPARTMENT_ID(9), ..*shown.metadata };
            let _ = send_inject(shown.sim, &metadata, REMOTE, &bytes, |_| ());
            shown.absorb();
        })
    }
    an_injection_without_an_endpoint ENDPOINT {
        resend(&Packet { endpoint: false, ..query() }, |_| ())
    }
    an_answer_to_an_own_injection OWN_INJECTION {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            let bytes = packet_bytes(shown.data);
            let _ = send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ());
            shown.absorb();
        });
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key));
        sim.send(&query());
        broken(sim, driver)
    }
    an_action_changed_without_the_right RIGHTS {
        let sim = Simulator::new(Config::default());
        let blocks = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| shown.decide(FWP_ACTION::BLOCK));
        let permits = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, |shown| shown.out.actionType = FWP_ACTION::PERMIT);
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, blocks.key).sublayer(2));
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, permits.key).sublayer(1));
        sim.send(&query());
        unload(&sim, blocks);
        broken(sim, permits)
    }
    a_block_that_keeps_the_right BLOCK_CLEARS {
        send(&query(), |shown| shown.out.actionType = FWP_ACTION::BLOCK)
    }
    a_soft_permit_for_a_hard_filter PERMIT_CLEARS {
        let hard = |filter: Filter| filter.flags(FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT);
        send_with(hard, &query(), |shown| shown.out.actionType = FWP_ACTION::PERMIT)
    }
    a_packet_replaced_and_dropped_loudly ABSORB_AND_INJECT {
        send(&query(), |shown| {
            let bytes = packet_bytes(shown.data);
            send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ()).ok().unwrap();
            shown.decide(FWP_ACTION::BLOCK);
        })
    }
    a_packet_absorbed_for_nothing ABSORB_ONLY {
        send(&query(), |shown| {
            shown.absorb();
        })
    }
    a_packet_referenced_for_change_and_permitted MODIFY_ABSORBS {
        send(&query(), |shown| {
            // SAFETY: the NBL is live.
            unsafe {
                FwpsReferenceNetBufferList0(shown.data.cast(), TRUE);
                FwpsDereferenceNetBufferList0(shown.data.cast(), TRUE);
            }
            shown.decide(FWP_ACTION::PERMIT);
        })
    }
    a_terminating_callout_without_opinion TERMINATING {
        send(&query(), |_| ())
    }
    a_filter_id_overwritten READ_ONLY_OUT {
        send(&query(), |shown| {
            shown.decide(FWP_ACTION::PERMIT);
            shown.out.filterId = 0;
        })
    }
    bytes_changed_in_place READ_ONLY_DATA {
        send(&query(), |shown| {
            // SAFETY: the byte exists; writing it is the mistake.
            unsafe { *live_bytes(shown.data) ^= 1 }
            shown.decide(FWP_ACTION::PERMIT);
        })
    }
    bytes_changed_through_a_clone READ_ONLY_DATA {
        first(|shown| {
            let clone = shown.clone_stream();
            // SAFETY: the byte exists; writing it is the mistake.
            unsafe { *live_bytes(clone.cast()) ^= 1 }
            let held = (clone, shown.length(), shown.flags());
            inject_clone(shown.sim, shown.flow(), held).ok().unwrap();
            shown.block_all();
        })
    }
    an_nbl_from_no_pool POOL {
        driver(|driver| {
            let mut nbl = null_mut();
            // SAFETY: a handle of another kind, which is the mistake.
            let status = unsafe {
                FwpsAllocateNetBufferAndNetBufferList0(driver.injection, 0, 0, null_mut(), 0, 0, &raw mut nbl)
            };
            assert_eq!(status, NTSTATUS::INVALID_PARAMETER);
        })
    }
    an_nb_longer_than_its_chain SHORT_CHAIN {
        bad_inject(|call| {
            call.length = 9;
            // SAFETY: the NB is live; its length is not the callout's to write.
            unsafe { (*NET_BUFFER_LIST::first_nb(call.nbl)).DataLength = 9 }
        })
    }
    shared_bytes_without_a_reference KEEP_REFERENCE {
        let config = Config { completion: Completion::Manual, ..Config::default() };
        first_with(config, |shown| {
            let (source, length) = (shown.stream().dataOffset.mdl, shown.length());
            let (nbl, buffer) = built(shown.sim, b"abcdef");
            // SAFETY: a partial MDL over the shown bytes takes the place of the own one.
            unsafe {
                let start = MDL::virtual_address(source);
                IoBuildPartialMdl(source, (*buffer).mdl, start, length as u32);
            }
            let flags = shown.flags();
            stream_inject(shown.sim, shown.flow(), flags, nbl, length, free_built, buffer).ok().unwrap();
            shown.block_all();
        })
    }
    a_reference_kept_for_ever KEEP_REFERENCE {
        send(&query(), |shown| {
            // SAFETY: the NBL is live; never giving it back is the mistake.
            unsafe { FwpsReferenceNetBufferList0(shown.data.cast(), FALSE) }
            shown.decide(FWP_ACTION::PERMIT);
        })
    }
    a_clone_for_nothing IDLE_CLONE {
        send(&query(), |shown| {
            let clone = clone_list(shown.data);
            // SAFETY: the clone is live.
            unsafe { FwpsFreeCloneNetBufferList0(clone, 0) }
            shown.decide(FWP_ACTION::PERMIT);
        })
    }
    a_start_moved_and_left BALANCE {
        send(&query(), |shown| {
            // SAFETY: the NBL is live.
            unsafe { NdisAdvanceNetBufferListDataStart(shown.data.cast(), 8, FALSE, null_mut()) }
            shown.decide(FWP_ACTION::PERMIT);
        })
    }
    an_offloaded_sum_that_does_not_fit PARTIAL_SUM {
        send(&query(), |shown| {
            let bytes = packet_bytes(shown.data);
            send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ()).ok().unwrap();
            shown.absorb();
            // SAFETY: the NBL is pending; its slot says that the hardware finishes what is finished already.
            unsafe {
                let bits = TRANSMIT_CHECKSUM::IsIPv4 | TRANSMIT_CHECKSUM::UdpChecksum;
                let value = std::ptr::without_provenance_mut(bits.0 as usize);
                NET_BUFFER_LIST::set_info(LAST.get(), NET_BUFFER_LIST_INFO::TcpIpChecksum, value);
            }
        })
    }
    a_changed_payload_under_the_old_sum FULL_SUM {
        send(&query(), |shown| {
            let mut bytes = packet_bytes(shown.data);
            bytes[8] ^= 1;
            send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ()).ok().unwrap();
            shown.absorb();
        })
    }
    no_sum_over_ipv6 UDP6_ZERO {
        let address: SocketAddr = "[2001:db8::1]:5353".parse().unwrap();
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if shown.injection_state() != FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
                return shown.decide(FWP_ACTION::PERMIT);
            }
            let mut bytes = packet_bytes(shown.data);
            bytes[6..8].fill(0);
            send_inject_v6(shown, &bytes);
            shown.absorb();
        });
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V6, driver.key));
        sim.send(&Packet::udp(address, address, b"x"));
        broken(sim, driver)
    }
    a_handle_made_in_a_completion PASSIVE {
        bad_inject(|call| call.complete = Some(destroy_inside))
    }
    a_block_of_what_is_only_told NOTIFY_ONLY {
        let told = layer::ALE_FLOW_ESTABLISHED_V4;
        let (sim, driver) = start(Config::default(), told, |shown| shown.out.actionType = FWP_ACTION::BLOCK);
        flow(&sim);
        broken(sim, driver)
    }
    a_context_left_on_a_flow CONTEXTS_LEFT {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
        sim.end().iter().map(|violation| violation.rule).collect()
    }
    a_handle_left HANDLE_LIFE {
        left(|_| {
            let mut handle = null_mut();
            // SAFETY: the pointer is valid.
            let status = unsafe {
                FwpsInjectionHandleCreate0(ADDRESS_FAMILY::INET, FWPS_INJECTION_TYPE::STREAM, &raw mut handle)
            };
            assert_eq!(status, NTSTATUS::SUCCESS);
        })
    }
    injection_through_a_destroyed_handle HANDLE_LIFE {
        driver(|driver| {
            let mut handle = null_mut();
            // SAFETY: the pointer is valid.
            unsafe {
                FwpsInjectionHandleCreate0(ADDRESS_FAMILY::INET, FWPS_INJECTION_TYPE::STREAM, &raw mut handle)
                    .ok()
                    .unwrap();
                FwpsInjectionHandleDestroy0(handle).ok().unwrap();
            }
            assert_ne!(inject(driver, 1, |call| call.handle = handle), NTSTATUS::SUCCESS);
        })
    }
    a_callout_left CALLOUT_LEFT {
        let (sim, _) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.permit_all();
        });
        sim.end().iter().map(|violation| violation.rule).collect()
    }
    a_pool_left POOL_LEFT {
        left(|_| {
            let parameters = NET_BUFFER_LIST_POOL_PARAMETERS::for_injection(1);
            // SAFETY: the parameters live through the call.
            assert!(!unsafe { NdisAllocateNetBufferListPool(null_mut(), &raw const parameters) }.is_null());
        })
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
