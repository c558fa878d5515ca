//! 3.7: what a session adds is in force when it should be, and goes when it should.

use std::ptr::null;

use super::*;

const PROVIDER: GUID = GUID::from_u128(1);
const SUBLAYER: GUID = GUID::from_u128(2);
const CALLOUT: GUID = GUID::from_u128(3);
const FILTER: GUID = GUID::from_u128(4);
const NAME: FWPM_DISPLAY_DATA0 = FWPM_DISPLAY_DATA0 { name: [b'n' as u16, 0].as_ptr(), description: null() };
const NO_BYTES: FWP_BYTE_BLOB = FWP_BYTE_BLOB { size: 0, data: null_mut() };

/// Opens a session; calls are made with `Simulator::enter` around them.
fn open(flags: FWPM_SESSION_FLAG) -> Result<HANDLE, NTSTATUS> {
    let session = FWPM_SESSION0 {
        sessionKey: GUID::default(),
        displayData: NAME,
        flags,
        txnWaitTimeoutInMSec: 0,
        processId: 0,
        sid: null_mut(),
        username: null_mut(),
        kernelMode: 0,
    };
    let mut engine = null_mut();
    // SAFETY: pointers to locals.
    unsafe { FwpmEngineOpen0(null(), RPC_C_AUTHN_WINNT, null_mut(), &raw const session, &raw mut engine) }
        .ok()?;
    Ok(engine)
}

/// Adds a provider, a sublayer, a callout that nobody registered, and a filter that leads to it: it blocks all sends.
fn add_all(engine: HANDLE) -> Result<(), NTSTATUS> {
    let provider = FWPM_PROVIDER0 {
        providerKey: PROVIDER,
        displayData: NAME,
        flags: FWPM_PROVIDER_FLAG::NONE,
        providerData: NO_BYTES,
        serviceName: null_mut(),
    };
    let mut key = PROVIDER;
    let sublayer = FWPM_SUBLAYER0 {
        subLayerKey: SUBLAYER,
        displayData: NAME,
        flags: FWPM_SUBLAYER_FLAG::NONE,
        providerKey: &raw mut key,
        providerData: NO_BYTES,
        weight: 7,
    };
    let callout = FWPM_CALLOUT0 {
        calloutKey: CALLOUT,
        displayData: NAME,
        flags: FWPM_CALLOUT_FLAG::NONE,
        providerKey: &raw mut key,
        providerData: NO_BYTES,
        applicableLayer: guid::LAYER_OUTBOUND_TRANSPORT_V4,
        calloutId: 0,
    };
    let filter = FWPM_FILTER0 {
        filterKey: FILTER,
        displayData: NAME,
        flags: FWPM_FILTER_FLAG::NONE,
        providerKey: &raw mut key,
        providerData: NO_BYTES,
        layerKey: guid::LAYER_OUTBOUND_TRANSPORT_V4,
        subLayerKey: SUBLAYER,
        weight: FWP_VALUE0::EMPTY,
        numFilterConditions: 0,
        filterCondition: null_mut(),
        action: FWPM_ACTION0 { r#type: FWP_ACTION::CALLOUT_TERMINATING, calloutKey: CALLOUT },
        context: FWPM_FILTER0_CONTEXT { rawContext: 0 },
        reserved: null_mut(),
        filterId: 0,
        effectiveWeight: FWP_VALUE0::EMPTY,
    };
    // SAFETY: pointers to locals.
    unsafe {
        FwpmProviderAdd0(engine, &raw const provider, null_mut()).ok()?;
        FwpmSubLayerAdd0(engine, &raw const sublayer, null_mut()).ok()?;
        FwpmCalloutAdd0(engine, &raw const callout, null_mut(), null_mut()).ok()?;
        FwpmFilterAdd0(engine, &raw const filter, null_mut(), null_mut()).ok()
    }
}

fn close(engine: HANDLE) {
    // SAFETY: a session that is open.
    assert_eq!(unsafe { FwpmEngineClose0(engine) }, NTSTATUS::SUCCESS);
}

/// Whether a packet is stopped: by the filter, whose callout is missing.
fn blocks(sim: &Simulator) -> bool {
    let packet = Packet::udp("10.0.0.2:1".parse().unwrap(), "192.0.2.1:2".parse().unwrap(), b"x");
    sim.outcome(sim.send(&packet)) == Some(SendOutcome::Blocked)
}

shows! {
    a_dynamic_session_takes_its_objects_with_it DYNAMIC_SESSION {
        let sim = Simulator::new(Config::default());
        for _ in 0..2 {
            let engine = sim.enter(|| open(FWPM_SESSION_FLAG::DYNAMIC)).expect("a session");
            assert_eq!(sim.enter(|| add_all(engine)), Ok(()));
            assert!(blocks(&sim));
            assert_eq!(sim.enter(|| add_all(engine)), Err(NTSTATUS::FWP_ALREADY_EXISTS));
            sim.enter(|| close(engine));
            assert!(!blocks(&sim));
        }
        sim.finish();
    }
    another_session_leaves_them_until_they_are_deleted_in_order DELETE_ORDER {
        let sim = Simulator::new(Config::default());
        sim.enter(|| {
            let engine = open(FWPM_SESSION_FLAG::NONE).expect("a session");
            assert_eq!(add_all(engine), Ok(()));
            close(engine);
        });
        assert!(blocks(&sim));
        sim.enter(|| {
            let engine = open(FWPM_SESSION_FLAG::NONE).expect("a session");
            // SAFETY: an open session, and keys.
            unsafe {
                assert_eq!(FwpmSubLayerDeleteByKey0(engine, &SUBLAYER), NTSTATUS::FWP_IN_USE);
                assert_eq!(FwpmCalloutDeleteByKey0(engine, &CALLOUT), NTSTATUS::FWP_IN_USE);
                assert_eq!(FwpmFilterDeleteByKey0(engine, &FILTER), NTSTATUS::SUCCESS);
                assert_eq!(FwpmFilterDeleteByKey0(engine, &FILTER), NTSTATUS::FWP_FILTER_NOT_FOUND);
                assert_eq!(FwpmSubLayerDeleteByKey0(engine, &SUBLAYER), NTSTATUS::SUCCESS);
            }
            close(engine);
        });
        assert!(!blocks(&sim));
        sim.finish();
    }
    an_engine_that_stops_ends_its_sessions_and_takes_all_but_persistent_objects_along MANAGEMENT {
        for flags in [FWPM_SESSION_FLAG::DYNAMIC, FWPM_SESSION_FLAG::NONE] {
            let sim = Simulator::new(Config::default());
            let engine = sim.enter(|| open(flags)).expect("a session");
            assert_eq!(sim.enter(|| add_all(engine)), Ok(()));
            // SAFETY: an open session.
            assert!(sim.enter(|| unsafe { FwpmTransactionBegin0(engine, FWPM_TXN::NONE) }.ok()).is_ok());
            sim.set_service_state(FWPM_SERVICE_STATE::STOPPED);
            assert!(!blocks(&sim));
            assert_eq!(sim.enter(|| open(flags)), Err(NTSTATUS::EPT_NT_NOT_REGISTERED));
            sim.set_service_state(FWPM_SERVICE_STATE::RUNNING);
            assert!(!blocks(&sim));
            assert_eq!(
                sim.enter(|| add_all(engine)),
                Err(NTSTATUS::FWP_SESSION_ABORTED),
                "it is closed, if not yet by its owner"
            );
            let next = sim.enter(|| open(flags)).expect("a session");
            assert_eq!(sim.enter(|| add_all(next)), Ok(()));
            assert!(blocks(&sim));
            sim.enter(|| [engine, next].map(close));
            sim.finish();
        }
    }
}

#[test]
fn a_transaction_is_in_force_when_it_is_committed_and_never_in_part() {
    let sim = Simulator::new(Config::default());
    let engine = sim.enter(|| open(FWPM_SESSION_FLAG::DYNAMIC)).expect("a session");
    // SAFETY: an open session, in each of the calls.
    let begin = || unsafe { FwpmTransactionBegin0(engine, FWPM_TXN::NONE) };
    assert_eq!(sim.enter(begin), NTSTATUS::SUCCESS);
    assert_eq!(sim.enter(begin), NTSTATUS::FWP_TXN_IN_PROGRESS);
    assert_eq!(sim.enter(|| add_all(engine)), Ok(()));
    assert!(!blocks(&sim));
    // SAFETY: as above.
    assert_eq!(sim.enter(|| unsafe { FwpmTransactionAbort0(engine) }), NTSTATUS::SUCCESS);
    assert!(!blocks(&sim));
    assert_eq!(sim.enter(begin), NTSTATUS::SUCCESS);
    assert_eq!(sim.enter(|| add_all(engine)), Ok(()));
    // SAFETY: as above.
    assert_eq!(sim.enter(|| unsafe { FwpmTransactionCommit0(engine) }), NTSTATUS::SUCCESS);
    assert!(blocks(&sim));
    sim.enter(|| close(engine));
    sim.finish();
}

#[test]
fn each_call_can_fail() {
    for nth in 1.. {
        let sim = Simulator::new(Config::default());
        sim.fail(Call::Management, When::Nth(nth), NTSTATUS::INSUFFICIENT_RESOURCES);
        sim.enter(|| {
            if let Ok(engine) = open(FWPM_SESSION_FLAG::DYNAMIC) {
                let added = add_all(engine);
                assert!(matches!(added, Ok(()) | Err(NTSTATUS::INSUFFICIENT_RESOURCES)), "{added:?}");
                close(engine);
            }
        });
        assert!(!blocks(&sim));
        if sim.failures() == 0 {
            assert_eq!(nth, 6, "open, and four objects");
            break;
        }
        sim.finish();
    }
}

#[test]
fn a_session_that_stays_open_is_found() {
    let sim = Simulator::new(Config::default());
    sim.enter(|| open(FWPM_SESSION_FLAG::DYNAMIC)).expect("a session");
    assert_eq!(sim.end().len(), 1);
}
