//! Part 3: functions, their parameters and who owns what.

use super::*;

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
    a_handle_for_the_network_without_a_family HANDLE_KIND {
        driver(|_| {
            let mut handle = null_mut();
            // SAFETY: the pointer is valid.
            let status = unsafe {
                FwpsInjectionHandleCreate0(ADDRESS_FAMILY::UNSPEC, FWPS_INJECTION_TYPE::NETWORK, &raw mut handle)
            };
            assert_eq!(status, NTSTATUS::INVALID_PARAMETER);
        })
    }
    a_stream_injected_through_a_handle_for_packets HANDLE_KIND {
        let handle = Rc::new(Cell::new(null_mut()));
        let packets = Rc::clone(&handle);
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, move |shown| {
            inject(shown.sim, shown.flow(), |call| call.handle = packets.get()).ok().unwrap();
            shown.block_all();
        });
        handle.set(handle_for(&sim, FWPS_INJECTION_TYPE::TRANSPORT));
        sim.indicate(flow(&sim), Direction::Receive, b"abc");
        destroy(&sim, handle.get());
        broken(sim, driver)
    }
    a_stream_asked_who_injected_it QUERY_PACKETS {
        first(|shown| {
            let nbl = shown.stream().netBufferListChain;
            // SAFETY: the NBL is live; asking about it is the mistake.
            unsafe { FwpsQueryPacketInjectionState0(shown.sim.injection, nbl, null_mut()) };
            shown.permit_all();
        })
    }
    a_continue_with_other_flags CONTINUE_FLAGS {
        let (sim, driver) = deferring();
        let flow = flow(&sim);
        sim.indicate_with(flow, Direction::Receive, b"abc", PUSHED);
        resume(&sim, &driver, flow, FWPS_STREAM_FLAG::RECEIVE);
        broken(sim, driver)
    }
}

shows! {
    numbers_of_statuses STATUSES {
        assert_eq!(NTSTATUS::FWP_INJECT_HANDLE_CLOSING.0 as u32, 0xc022_0101);
        assert_eq!(NTSTATUS::FWP_TCPIP_NOT_READY.0 as u32, 0xc022_0100);
        assert_eq!(NTSTATUS::INSUFFICIENT_RESOURCES.0 as u32, 0xc000_009a);
        assert!(NTSTATUS::OBJECT_NAME_EXISTS.nt_success() && !NTSTATUS::DEVICE_BUSY.nt_success());
    }
    a_key_is_taken_once REGISTERED_ONCE {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
        let again = FWPS_CALLOUT1 {
            calloutKey: driver.key,
            flags: FWP_CALLOUT_FLAG::NONE,
            classifyFn: Some(no_classify),
            notifyFn: Some(no_notify),
            flowDeleteFn: None,
        };
        // SAFETY: the callout lives through the call.
        let register = || unsafe { FwpsCalloutRegister1(driver.device, &raw const again, null_mut()) };
        assert_eq!(sim.enter(register), NTSTATUS::FWP_ALREADY_EXISTS);
        right(sim, driver);
    }
    unregistering_says_what_is_in_the_way UNREGISTER_STATUS {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            STATUS.set(unregister(shown.sim.callout).0);
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
        assert_eq!(sim.enter(|| unregister(driver.callout)), NTSTATUS::DEVICE_BUSY);
        assert_eq!(sim.enter(|| remove(flow, &driver)), NTSTATUS::SUCCESS);
        assert_eq!(sim.enter(|| unregister(999)), NTSTATUS::FWP_CALLOUT_NOT_FOUND);
        sim.indicate(flow, Direction::Send, b"abc");
        assert_eq!(STATUS.get(), NTSTATUS::FWP_IN_USE.0);
        unload(&sim, driver);
        // Unregistering from classifyFn is a mistake of its own.
        assert!(sim.end().iter().all(|violation| violation.rule == rules::PASSIVE.id));
    }
    destroying_a_handle_waits_for_completions DESTROY_WAITS {
        let config = Config { completion: Completion::Manual, ..Config::default() };
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            shown.inject(b"new");
            shown.block_all();
        });
        sim.indicate(flow(&sim), Direction::Receive, b"old");
        // What is not completed when the handle is gone would be found left.
        right(sim, driver);
    }
    a_clone_has_its_own_descriptors_over_the_same_pages CLONE_SHARES {
        right_send(&query(), |shown| {
            let clone = clone_list(shown.data);
            assert_ne!(clone.cast(), shown.data);
            assert_eq!(live_bytes(clone.cast()), live_bytes(shown.data));
            // SAFETY: both lists are live.
            unsafe { assert_eq!((*shown.data.cast::<NET_BUFFER_LIST>()).ChildRefCount, 1) }
            send_clone(shown, clone, REMOTE);
            shown.absorb();
        });
    }
    a_reference_keeps_a_list_alive REFERENCE_HOLDS {
        let kept = Rc::new(Cell::new(null_mut()));
        let keeper = Rc::clone(&kept);
        let (sim, driver) = start(Config::default(), layer::OUTBOUND_TRANSPORT_V4, move |shown| {
            // SAFETY: the list is live.
            unsafe { FwpsReferenceNetBufferList0(shown.data.cast(), FALSE) }
            keeper.set(shown.data);
            shown.decide(FWP_ACTION::PERMIT);
        });
        sim.send(&query());
        assert_eq!(&packet_bytes(kept.get())[8..], b"query");
        // SAFETY: the reference of above.
        unsafe { FwpsDereferenceNetBufferList0(kept.get().cast(), FALSE) }
        right(sim, driver);
    }
    a_refused_stream_injection_says_why STREAM_STATUS {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            let flow = shown.flow();
            let try_it = |change: fn(&mut Inject)| inject(shown.sim, flow, change);
            let unpaired = try_it(|call| call.stream = FWPS_STREAM_FLAG::RECEIVE_DISCONNECT);
            assert_eq!(unpaired, NTSTATUS::FWP_INVALID_PARAMETER);
            assert_eq!(try_it(|call| call.complete = None), NTSTATUS::FWP_NULL_POINTER);
            shown.permit_all();
        });
        sim.indicate(flow(&sim), Direction::Receive, b"abc");
        assert_eq!(broken(sim, driver).len(), 2);

        // A completion that runs because the handle is being destroyed can't inject through it any more.
        let config = Config { completion: Completion::Manual, ..Config::default() };
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            AGAIN.set(Some((*shown.sim, shown.flow())));
            inject(shown.sim, shown.flow(), |call| call.complete = Some(inject_again)).ok().unwrap();
            shown.block_all();
        });
        sim.indicate(flow(&sim), Direction::Receive, b"abc");
        right(sim, driver);
        assert_eq!(STATUS.get(), NTSTATUS::FWP_INJECT_HANDLE_CLOSING.0);
    }
    clones_of_a_stream_are_trimmed STREAM_CLONES {
        for seed in 0..100 {
            let (sim, driver) = start(Config::random(seed), layer::STREAM_V4, |shown| {
                let held = hold(shown);
                if !shown.is_fin() {
                    assert_eq!(chain_length(held.0), held.1);
                }
                inject_clone(shown.sim, shown.flow(), held).ok().unwrap();
            });
            let flow = flow(&sim);
            sim.indicate(flow, Direction::Receive, b"abcdefgh");
            sim.fin(flow, Direction::Receive);
            let out = sim.delivered(flow, Direction::Receive);
            assert_eq!((out.bytes.as_slice(), out.fin), (&b"abcdefgh"[..], true), "{seed}");
            right(sim, driver);
        }
    }
    what_was_indicated_is_copied_from_its_start COPIES_BYTES {
        for seed in 0..100 {
            let (sim, driver) = start(Config::random(seed), layer::STREAM_V4, |shown| {
                if !shown.is_fin() {
                    assert_eq!(shown.bytes(), b"abcdefgh");
                }
                shown.permit_all();
            });
            sim.indicate(flow(&sim), Direction::Send, b"abcdefgh");
            right(sim, driver);
        }
    }
    a_flow_is_aborted_from_anywhere FLOW_ABORT {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
        let flow = flow(&sim);
        // SAFETY: a number only.
        sim.enter(|| unsafe { FwpsFlowAbort0(flow.0) }).ok().unwrap();
        assert!(sim.delivered(flow, Direction::Send).aborted);
        right(sim, driver);
    }
    a_context_is_set_once ASSOCIATE {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, permits);
        let flow = flow(&sim);
        let set = |context| sim.associate(flow, layer::STREAM_V4, driver.callout, context);
        assert_eq!(set(0), NTSTATUS::INVALID_PARAMETER);
        assert_eq!((set(7), set(8)), (NTSTATUS::SUCCESS, NTSTATUS::OBJECT_NAME_EXISTS));
        let before = deleted().len();
        sim.close_flow(flow);
        assert_eq!(deleted()[before..], [7]);
        right(sim, driver);
    }
    a_context_is_taken_away_now_or_behind_the_classify REMOVE_STATUS {
        let before = deleted().len();
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, move |shown| {
            let flow = FlowId(shown.flow());
            assert_eq!(remove(flow, shown.sim), NTSTATUS::PENDING);
            assert_eq!(deleted().len(), before, "not while the classify runs");
            assert_eq!(remove(flow, shown.sim), NTSTATUS::UNSUCCESSFUL);
            shown.permit_all();
        });
        let flow = flow(&sim);
        sim.associate(flow, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
        sim.indicate(flow, Direction::Send, b"abc");
        assert_eq!(deleted()[before..], [7]);
        right(sim, driver);
    }
    a_pool_needs_no_ndis_object NULL_NDIS_HANDLE {
        let sim = Simulator::new(Config::default());
        sim.enter(|| {
            let parameters = NET_BUFFER_LIST_POOL_PARAMETERS::for_injection(1);
            // SAFETY: what is made is freed.
            unsafe {
                let object = NdisAllocateGenericObject(null_mut(), 1, 0);
                for owner in [object, null_mut()] {
                    let pool = NdisAllocateNetBufferListPool(owner, &raw const parameters);
                    assert!(!pool.is_null());
                    NdisFreeNetBufferListPool(pool);
                }
                NdisFreeGenericObject(object);
            }
        });
        sim.finish();
    }
    pools_of_nbs_are_counted_too NB_POOLS {
        let left = left(|_| {
            let mut parameters = std::mem::MaybeUninit::<NET_BUFFER_POOL_PARAMETERS>::zeroed();
            // SAFETY: zeroes are valid parameters; the pool is left on purpose.
            unsafe { assert!(!NdisAllocateNetBufferPool(null_mut(), parameters.as_mut_ptr()).is_null()) }
        });
        assert_eq!(left[0].rule, rules::POOL_LEFT.id);
    }
    a_start_moves_where_there_is_room RETREAT {
        right_send(&query(), |shown| {
            // SAFETY: the list is live; what is moved is moved back.
            unsafe {
                let nb = NET_BUFFER_LIST::first_nb(shown.data.cast());
                assert_ne!(NdisRetreatNetBufferDataStart(nb, 8, 0, null_mut()), NTSTATUS::SUCCESS, "no room");
                NdisAdvanceNetBufferDataStart(nb, 8, FALSE, null_mut());
                assert_eq!(NET_BUFFER::data_length(nb), 5);
                assert_eq!(NdisRetreatNetBufferDataStart(nb, 8, 0, null_mut()), NTSTATUS::SUCCESS);
                assert_eq!(NET_BUFFER::data_length(nb), 13);
            }
            shown.decide(FWP_ACTION::PERMIT);
        });
    }
    an_advance_undoes_a_retreat ADVANCE {
        right_send(&Packet { raw_ip_header: Some(ip_header()), ..query() }, |shown| {
            let before = packet_bytes(shown.data);
            // SAFETY: the list is live.
            unsafe {
                let nb = NET_BUFFER_LIST::first_nb(shown.data.cast());
                NdisAdvanceNetBufferDataStart(nb, 20, FALSE, null_mut());
                assert_eq!(packet_bytes(shown.data), before[20..]);
                NdisRetreatNetBufferDataStart(nb, 20, 0, null_mut()).ok().unwrap();
            }
            assert_eq!(packet_bytes(shown.data), before);
            shown.decide(FWP_ACTION::PERMIT);
        });
    }
    a_list_moves_as_one LIST_STARTS {
        let list = Packet::udp_batch("10.0.0.2:5353".parse().unwrap(), there(), &[b"one", b"three"]);
        right_send(&list, |shown| {
            let lengths = |nbl: *mut c_void| {
                // SAFETY: the list is live and has two packets.
                unsafe {
                    let nb = NET_BUFFER_LIST::first_nb(nbl.cast());
                    (NET_BUFFER::data_length(nb), NET_BUFFER::data_length((*nb).Next))
                }
            };
            // SAFETY: the list is live.
            unsafe {
                NdisAdvanceNetBufferListDataStart(shown.data.cast(), 8, FALSE, null_mut());
                assert_eq!(lengths(shown.data), (3, 5));
                let nbl = shown.data.cast();
                NdisRetreatNetBufferListDataStart(nbl, 8, 0, null_mut(), null_mut()).ok().unwrap();
                assert_ne!(
                    NdisRetreatNetBufferListDataStart(nbl, 8, 0, null_mut(), null_mut()),
                    NTSTATUS::SUCCESS
                );
            }
            assert_eq!(lengths(shown.data), (11, 13), "none moved when one could not");
            shown.decide(FWP_ACTION::PERMIT);
        });
    }
    nbs_are_copied_at_offsets COPY_NB {
        right_send(&query(), |shown| {
            let (nbl, buffer) = built(shown.sim, b"........");
            let mut copied = 0;
            // SAFETY: both lists are live.
            unsafe {
                let from = NET_BUFFER_LIST::first_nb(shown.data.cast());
                let to = NET_BUFFER_LIST::first_nb(nbl);
                NdisCopyFromNetBufferToNetBuffer(to, 2, 5, from, 8, &raw mut copied).ok().unwrap();
                assert_eq!((copied, packet_bytes(nbl.cast()).as_slice()), (5, &b"..query."[..]));
                free_built(buffer.cast(), nbl, 1);
            }
            shown.decide(FWP_ACTION::PERMIT);
        });
    }
    an_unmapped_mdl_is_mapped_when_asked MAPPING {
        let config = Config { unmapped: true, split: Split::Every(2), seed: 3, ..Config::default() };
        let (sim, driver) = start(config, layer::STREAM_V4, |shown| {
            let mdl = shown.stream().dataOffset.mdl;
            // SAFETY: the chain is live through the classify.
            unsafe {
                let mut mdl = mdl;
                while !mdl.is_null() {
                    let before = (*mdl).MappedSystemVa;
                    let address = MmGetSystemAddressForMdlSafe(mdl, NORMAL_PAGE_PRIORITY);
                    assert!(!address.is_null());
                    COUNT.set(COUNT.get() + u32::from(before.is_null()));
                    mdl = (*mdl).Next;
                }
            }
            shown.permit_all();
        });
        sim.indicate(flow(&sim), Direction::Send, b"abcdefghijkl");
        assert!(COUNT.get() > 0, "some were not mapped");
        right(sim, driver);
    }
}
