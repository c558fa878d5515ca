//! 4.11 and 4.12: levels, locks and unloading.

use super::*;

breaks! {
    a_handle_made_in_a_completion PASSIVE {
        bad_inject(|call| call.complete = Some(destroy_inside))
    }
    a_context_left_on_a_flow CONTEXTS_LEFT {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
        sim.end()
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
        sim.end()
    }
    a_pool_left POOL_LEFT {
        left(|_| {
            let parameters = NET_BUFFER_LIST_POOL_PARAMETERS::for_injection(1);
            // SAFETY: the parameters live through the call.
            assert!(!unsafe { NdisAllocateNetBufferListPool(null_mut(), &raw const parameters) }.is_null());
        })
    }
    a_clone_made_under_a_lock LOCK_CLONE {
        send(&query(), |shown| {
            let clone = locked(|| clone_list(shown.data));
            send_clone(shown, clone, REMOTE);
            shown.absorb();
        })
    }
    data_held_back_while_handles_go QUEUES_FIRST {
        held_at_unload(false)
    }
    data_held_back_after_unloading_began STOPS_FIRST {
        held_at_unload(true)
    }
    a_context_removed_under_a_lock LOCK_REMOVE {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
        let flow = flow(&sim);
        sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
        sim.enter(|| locked(|| remove(flow, &driver))).ok().unwrap();
        broken(sim, driver)
    }
    a_start_that_fails_and_leaves_a_callout FAILED_START {
        left(|sim| {
            let callout = FWPS_CALLOUT1 {
                calloutKey: GUID::from_u128(1),
                flags: FWP_CALLOUT_FLAG::NONE,
                classifyFn: Some(no_classify),
                notifyFn: Some(no_notify),
                flowDeleteFn: None,
            };
            // SAFETY: the callout lives through the calls.
            let register = || unsafe { FwpsCalloutRegister1(sim.device_object(), &raw const callout, null_mut()) };
            assert_eq!(register(), NTSTATUS::SUCCESS);
            // The second one fails: DriverEntry fails with it, and forgets the first.
            assert_ne!(register(), NTSTATUS::SUCCESS);
        })
    }
}

shows! {
    a_filter_can_be_refused REFUSED_FILTER {
        unsafe extern "system" fn refuse(
            _: FWPS_CALLOUT_NOTIFY_TYPE,
            _: *const GUID,
            _: *mut FWPS_FILTER1,
        ) -> NTSTATUS {
            NTSTATUS::INVALID_PARAMETER
        }
        let sim = Simulator::new(Config::default());
        let callout = FWPS_CALLOUT1 {
            calloutKey: GUID::from_u128(1),
            flags: FWP_CALLOUT_FLAG::NONE,
            classifyFn: Some(no_classify),
            notifyFn: Some(refuse),
            flowDeleteFn: None,
        };
        let mut id = 0;
        // SAFETY: both pointers live through the call.
        let register = || unsafe { FwpsCalloutRegister1(sim.device_object(), &raw const callout, &raw mut id) };
        sim.enter(register).ok().unwrap();
        let refused = sim.try_add_filter(Filter::at(layer::STREAM_V4, callout.calloutKey));
        assert_eq!(refused, Err(NTSTATUS::INVALID_PARAMETER));
        sim.enter(|| unregister(id)).ok().unwrap();
        sim.finish();
    }
    callouts_or_handles_go_first EITHER_ORDER {
        for callouts_first in [false, true] {
            let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
            if callouts_first {
                sim.enter(|| unregister(driver.callout)).ok().unwrap();
                destroy(&sim, driver.injection);
                // SAFETY: the pool is the driver's.
                sim.enter(|| unsafe { NdisFreeNetBufferListPool(driver.pool) });
                sim.finish();
            } else {
                right(sim, driver);
            }
        }
    }
    a_context_comes_back_once DELETED_ONCE {
        for end in 0..4 {
            let before = deleted().len();
            let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
            let flow = flow(&sim);
            sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
            match end {
                0 => Direction::BOTH.iter().for_each(|direction| sim.fin(flow, *direction)),
                1 => sim.abort(flow, Direction::Receive),
                2 => sim.close_flow(flow),
                _ => sim.enter(|| remove(flow, &driver)).ok().unwrap(),
            }
            sim.close_flow(flow);
            assert_eq!(deleted()[before..], [7]);
            right(sim, driver);
        }
    }
    a_context_of_a_dead_flow_is_gone REMOVE_RACE {
        let before = deleted().len();
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
        let flow = flow(&sim);
        sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
        sim.abort(flow, Direction::Send);
        assert_eq!(sim.enter(|| remove(flow, &driver)), NTSTATUS::UNSUCCESSFUL);
        assert_eq!(deleted()[before..], [7]);
        right(sim, driver);
    }
}
