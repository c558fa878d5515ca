//! 4.1 to 4.4: streams.

use super::*;

breaks! {
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
    a_stream_that_goes_on_behind_lost_bytes LOST_BYTES {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            if shown.is_fin() { return shown.permit_all() }
            shown.inject(b"new");
            shown.block_all();
        });
        sim.fail_completions(When::Nth(1), NTSTATUS::INSUFFICIENT_RESOURCES);
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.indicate(flow, Direction::Receive, b"def");
        broken(sim, driver)
    }
    an_injection_under_a_lock LOCK_INJECT {
        first(|shown| {
            locked(|| inject(shown.sim, shown.flow(), |_| ())).ok().unwrap();
            shown.block_all();
        })
    }
    a_flow_allowed_past_its_own_clones ALLOW_DRAINED {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            if HELD.with(|all| all.borrow().is_empty()) {
                let held = hold(shown);
                HELD.with(|all| all.borrow_mut().push(held));
            } else {
                shown.act(FWPS_STREAM_ACTION::ALLOW_CONNECTION, 0);
            }
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.indicate(flow, Direction::Receive, b"def");
        let held = HELD.with(|all| all.borrow_mut().pop()).unwrap();
        // SAFETY: the clone was never injected.
        unsafe { FwpsDiscardClonedStreamData0(held.0, 0, 0) }
        broken(sim, driver)
    }
}

shows! {
    each_nbl_of_a_chain_completes_with_the_same_context CHAIN_COMPLETES {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            let chain = [built(shown.sim, b"one"), built(shown.sim, b"two")];
            // SAFETY: both NBLs are the test's.
            unsafe { (*chain[0].0).Next = chain[1].0 }
            let buffers = Box::into_raw(Box::new(chain.map(|(_, buffer)| buffer)));
            let flow = shown.flow();
            let flags = FWPS_STREAM_FLAG::RECEIVE;
            stream_inject(shown.sim, flow, flags, chain[0].0, 6, one_of_two, buffers).ok().unwrap();
            shown.block_all();
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"old");
        assert_eq!((COUNT.get(), sim.delivered(flow, Direction::Receive).bytes), (2, b"onetwo".to_vec()));
        right(sim, driver);
    }
    injected_bytes_are_shown_to_those_below SHOWN_BELOW {
        let sim = Simulator::new(Config::default());
        let upper = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            assert_eq!(shown.bytes(), b"old");
            shown.inject(b"new");
            shown.block_all();
        });
        let lower = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, |shown| {
            assert_eq!(shown.bytes(), b"new");
            COUNT.set(COUNT.get() + 1);
            shown.permit_all();
        });
        sim.add_filter(Filter::at(layer::STREAM_V4, upper.key).sublayer(2));
        sim.add_filter(Filter::at(layer::STREAM_V4, lower.key).sublayer(1));
        sim.indicate(flow(&sim), Direction::Receive, b"old");
        assert_eq!(COUNT.get(), 1);
        unload(&sim, upper);
        right(sim, lower);
    }
    a_deferred_stream_is_injected_into_and_continued WHILE_DEFERRED {
        let (sim, driver) = deferring();
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        assert_eq!(sim.delivered(flow, Direction::Receive).bytes, b"");
        sim.enter(|| inject(&driver, flow.0, |_| ())).ok().unwrap();
        resume(&sim, &driver, flow, FWPS_STREAM_FLAG::RECEIVE);
        assert_eq!(sim.delivered(flow, Direction::Receive).bytes, b"newabc");
        right(sim, driver);
    }
    a_pended_fin_is_injected_into AFTER_PENDED_FIN {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            if shown.is_fin() { shown.block_all() } else { shown.permit_all() }
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"abc");
        sim.fin(flow, Direction::Receive);
        assert!(!sim.delivered(flow, Direction::Receive).fin);
        sim.enter(|| {
            inject(&driver, flow.0, |_| ()).ok().unwrap();
            let flags = FWPS_STREAM_FLAG::RECEIVE | FWPS_STREAM_FLAG::RECEIVE_DISCONNECT;
            let nothing = null_mut::<u8>();
            stream_inject(&driver, flow.0, flags, null_mut(), 0, free_clone, nothing).ok().unwrap();
        });
        let out = sim.delivered(flow, Direction::Receive);
        assert_eq!((out.bytes.as_slice(), out.fin), (&b"abcnew"[..], true));
        right(sim, driver);
    }
    one_flow_is_classified_by_one_thread_at_a_time ONE_AT_A_TIME {
        static INSIDE: AtomicUsize = AtomicUsize::new(0);
        static SHOWN: AtomicUsize = AtomicUsize::new(0);
        unsafe extern "system" fn slow(
            _: *const FWPS_INCOMING_VALUES0,
            _: *const FWPS_INCOMING_METADATA_VALUES0,
            data: *mut c_void,
            _: *const c_void,
            _: *const FWPS_FILTER1,
            _: u64,
            out: *mut FWPS_CLASSIFY_OUT0,
        ) {
            assert_eq!(INSIDE.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::yield_now();
            // SAFETY: the engine passes valid pointers.
            unsafe {
                let packet = &mut *data.cast::<FWPS_STREAM_CALLOUT_IO_PACKET0>();
                SHOWN.fetch_add((*packet.streamData).dataLength, Ordering::SeqCst);
                (*out).actionType = FWP_ACTION::PERMIT;
                packet.streamAction = FWPS_STREAM_ACTION::NONE;
                (packet.countBytesRequired, packet.countBytesEnforced) = (0, (*packet.streamData).dataLength);
            }
            INSIDE.fetch_sub(1, Ordering::SeqCst);
        }
        let sim = Simulator::new(Config::default());
        let callout = FWPS_CALLOUT1 {
            calloutKey: GUID::from_u128(1),
            flags: FWP_CALLOUT_FLAG::NONE,
            classifyFn: Some(slow),
            notifyFn: Some(no_notify),
            flowDeleteFn: None,
        };
        let mut id = 0;
        // SAFETY: both pointers live through the call.
        let register = || unsafe { FwpsCalloutRegister1(sim.device_object(), &raw const callout, &raw mut id) };
        sim.enter(register).ok().unwrap();
        sim.add_filter(Filter::at(layer::STREAM_V4, callout.calloutKey));
        let flow = flow(&sim);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| sim.indicate(flow, Direction::Send, b"x")));
            }
        });
        assert_eq!(SHOWN.load(Ordering::SeqCst), 800);
        sim.enter(|| unregister(id)).ok().unwrap();
        sim.finish();
    }
    the_rest_is_shown_again SHOWN_AGAIN {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            COUNT.set(COUNT.get() + 1);
            if shown.bytes()[0] == b'b' { shown.block(1) } else { shown.permit(1) }
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Send, b"abc");
        assert_eq!((COUNT.get(), sim.delivered(flow, Direction::Send).bytes), (3, b"ac".to_vec()));
        right(sim, driver);
    }
    no_count_is_the_whole_indication ENFORCED_ZERO {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| shown.permit(0));
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Send, b"abc");
        assert_eq!(sim.delivered(flow, Direction::Send).bytes, b"abc");
        right(sim, driver);
    }
    bytes_are_taken_out_with_absorb_and_without STREAM_ABSORB {
        for absorb in [FWPS_CLASSIFY_OUT_FLAG::NONE, FWPS_CLASSIFY_OUT_FLAG::ABSORB] {
            let (sim, driver) = start(Config::default(), layer::STREAM_V4, move |shown| {
                shown.block(2);
                shown.out.flags |= absorb;
                if shown.bytes()[0] != b'a' { shown.permit_all() }
            });
            let flow = flow(&sim);
            sim.indicate(flow, Direction::Send, b"abc");
            assert_eq!(sim.delivered(flow, Direction::Send).bytes, b"c");
            right(sim, driver);
        }
    }
    more_data_comes_behind_the_old ONE_LONGER {
        for need_more in [NeedMore::Additional, NeedMore::Total, NeedMore::Any] {
            let config = Config { need_more, ..Config::default() };
            let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
                if shown.length() < 6 { return shown.act(FWPS_STREAM_ACTION::NEED_MORE_DATA, 1) }
                assert_eq!(shown.bytes(), b"abcdef");
                shown.permit_all();
            });
            let flow = flow(&sim);
            for part in [b"ab", b"cd", b"ef"] {
                sim.indicate(flow, Direction::Send, part);
            }
            assert_eq!(sim.delivered(flow, Direction::Send).bytes, b"abcdef");
            right(sim, driver);
        }
    }
    the_next_callout_is_told_what_it_missed MISSED_BYTES {
        let sim = Simulator::new(Config::default());
        let upper = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if shown.length() == 5 { shown.block(2) } else { shown.permit_all() }
        });
        let lower = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, |shown| {
            COUNT.set(shown.packet().missedBytes as u32);
            shown.permit_all();
        });
        sim.add_filter(Filter::at(layer::STREAM_V4, upper.key).sublayer(2));
        sim.add_filter(Filter::at(layer::STREAM_V4, lower.key).sublayer(1));
        sim.indicate(flow(&sim), Direction::Receive, b"abcde");
        assert_eq!(COUNT.get(), 2);
        unload(&sim, upper);
        right(sim, lower);
    }
    bytes_come_cut_anywhere CLONE_CHAIN {
        let several = (0..100).filter(|seed| {
            COUNT.set(0);
            let (sim, driver) = start(Config::random(*seed), layer::STREAM_V4, |shown| {
                let chain = shown.stream().netBufferListChain;
                // SAFETY: the chain is live through the classify.
                COUNT.set(COUNT.get() + u32::from(unsafe { !(*chain).Next.is_null() }));
                shown.permit_all();
            });
            sim.indicate(flow(&sim), Direction::Receive, b"abcdefghijklmnop");
            right(sim, driver);
            COUNT.get() > 0
        });
        assert!(several.count() > 10);
    }
    each_direction_ends_by_itself HALF_CLOSED {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
        let flow = flow(&sim);
        sim.fin(flow, Direction::Send);
        sim.indicate(flow, Direction::Receive, b"abc");
        let (sent, received) = (sim.delivered(flow, Direction::Send), sim.delivered(flow, Direction::Receive));
        assert_eq!((sent.fin, received.bytes.as_slice(), received.fin), (true, &b"abc"[..], false));
        right(sim, driver);
    }
    a_permitted_fin_follows_what_was_injected FIN_PERMITTED {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            if shown.is_fin() { return shown.permit_all() }
            shown.inject(b"new");
            shown.block_all();
        });
        let flow = flow(&sim);
        sim.indicate(flow, Direction::Receive, b"old");
        sim.fin(flow, Direction::Receive);
        let out = sim.delivered(flow, Direction::Receive);
        assert_eq!((out.bytes.as_slice(), out.fin), (&b"new"[..], true));
        right(sim, driver);
    }
}
