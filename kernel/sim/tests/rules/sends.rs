//! 4.5 to 4.10: packets, the answers about them and their memory.

use super::*;

breaks! {
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
    a_block_of_what_is_only_told NOTIFY_ONLY {
        let told = layer::ALE_FLOW_ESTABLISHED_V4;
        let (sim, driver) = start(Config::default(), told, |shown| shown.out.actionType = FWP_ACTION::BLOCK);
        flow(&sim);
        broken(sim, driver)
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
    a_packet_s_bytes_shared_without_a_reference KEEP_REFERENCE {
        send(&query(), |shown| {
            let bytes = packet_bytes(shown.data);
            send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ()).ok().unwrap();
            // SAFETY: the classify's own data, and the NBL is pending; its MDL becomes a partial one over what is shown.
            unsafe {
                let source = NET_BUFFER::current_mdl(NET_BUFFER_LIST::first_nb(shown.data.cast()));
                let mdl = (*NET_BUFFER_LIST::first_nb(LAST.get())).MdlChain;
                IoBuildPartialMdl(source, mdl, MDL::virtual_address(source), bytes.len() as u32);
            }
            shown.absorb();
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
    an_endpoint_handle_of_a_flow ENDPOINT_SOURCE {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if shown.values.layerId == layer::ALE_FLOW_ESTABLISHED_V4 {
                ENDPOINT.set(shown.metadata.transportEndpointHandle);
                return shown.out.actionType = FWP_ACTION::CONTINUE;
            }
            let _ = shown.injection_state();
            let metadata = FWPS_INCOMING_METADATA_VALUES0 {
                transportEndpointHandle: ENDPOINT.get(),
                ..*shown.metadata
            };
            let _ = send_inject(shown.sim, &metadata, REMOTE, &packet_bytes(shown.data), |_| ());
            shown.decide(FWP_ACTION::PERMIT);
        });
        sim.add_filter(Filter::at(layer::ALE_FLOW_ESTABLISHED_V4, driver.key));
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key));
        flow(&sim);
        sim.send(&query());
        broken(sim, driver)
    }
    a_raw_send_injected_without_its_header RAW_HEADER {
        resend(&Packet { raw_ip_header: Some(ip_header()), ..query() }, |_| ())
    }
    two_products_that_answer_each_other PING_PONG {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if shown.injection_state() == FWPS_PACKET_INJECTION_STATE::INJECTED_BY_SELF {
                return shown.decide(FWP_ACTION::PERMIT);
            }
            match send_inject(shown.sim, shown.metadata, REMOTE, &packet_bytes(shown.data), |_| ()) {
                NTSTATUS::SUCCESS => shown.absorb(),
                _ => shown.decide(FWP_ACTION::PERMIT),
            }
        });
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key).sublayer(2));
        let other = sim.other_product(1, Again::Copy, 1000);
        sim.send(&query());
        drop(other);
        broken(sim, driver)
    }
    an_injection_without_a_question SAME_HANDLE {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if COUNT.replace(1) == 1 {
                return shown.decide(FWP_ACTION::PERMIT);
            }
            send_inject(shown.sim, shown.metadata, REMOTE, &packet_bytes(shown.data), |_| ()).ok().unwrap();
            shown.absorb();
        });
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key));
        sim.send(&query());
        broken(sim, driver)
    }
    a_clone_to_another_address_under_the_old_sum CLONE_SUM {
        send(&query(), |shown| {
            let clone = clone_list(shown.data);
            send_clone(shown, clone, [192, 0, 2, 99]);
            shown.absorb();
        })
    }
    a_sum_over_another_source PSEUDO_SOURCE {
        send(&query(), |shown| {
            let mut bytes = packet_bytes(shown.data);
            // As if the sender were 10.0.0.3 instead of 10.0.0.2.
            let sum = u16::from_be_bytes([bytes[6], bytes[7]]) - 1;
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
            send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ()).ok().unwrap();
            shown.absorb();
        })
    }
    a_segmented_send_in_one_piece SEGMENTATION {
        let large = Packet::udp("10.0.0.2:5353".parse().unwrap(), there(), &[1; 3000]);
        resend(&Packet { segment: 1000, ..large }, |_| ())
    }
    a_callout_that_wants_batches L2_BATCH {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::ALLOW_L2_BATCH_CLASSIFY, |_| ());
        broken(sim, driver)
    }
}

shows! {
    a_size_of_0_is_no_raw_socket RAW_TEST {
        for (header, size) in [(None, 0), (Some(ip_header()), 20)] {
            let config = Config { zero_header_size: true, ..Config::default() };
            let (sim, driver) = start(config, layer::OUTBOUND_TRANSPORT_V4, move |shown| {
                assert!(shown.metadata.has(FWPS_METADATA_FIELD::IP_HEADER_SIZE));
                assert_eq!(shown.metadata.ipHeaderSize, size);
                shown.decide(FWP_ACTION::PERMIT);
            });
            sim.send(&Packet { raw_ip_header: header, ..query() });
            right(sim, driver);
        }
    }
    a_raw_send_is_shown_with_its_header RAW_OFFSET {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            let datagram = shown.values.layerId == layer::DATAGRAM_DATA_V4;
            let bytes = packet_bytes(shown.data);
            assert_eq!(bytes.len(), if datagram { 13 } else { 33 });
            assert_eq!(bytes.starts_with(&ip_header()), !datagram);
            let beside = shown.metadata.has(FWPS_METADATA_FIELD::TRANSPORT_HEADER_INCLUDE_HEADER);
            assert_eq!(beside, datagram);
            COUNT.set(COUNT.get() + 1);
            shown.decide(FWP_ACTION::PERMIT);
        });
        sim.add_filter(Filter::at(layer::DATAGRAM_DATA_V4, driver.key));
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key));
        sim.send(&Packet { raw_ip_header: Some(ip_header()), ..query() });
        let sent = sim.take_sent();
        assert_eq!((COUNT.get(), &sent[0].header, &sent[0].bytes[8..]), (2, &ip_header(), &b"query"[..]));
        right(sim, driver);
    }
    a_list_has_several_packets SEVERAL_PACKETS {
        let list = Packet::udp_batch("10.0.0.2:5353".parse().unwrap(), there(), &[b"one", b"two", b"six"]);
        right_send(&list, |shown| {
            // SAFETY: the list is live.
            unsafe {
                let first = NET_BUFFER_LIST::first_nb(shown.data.cast());
                assert!(!(*(*first).Next).Next.is_null());
            }
            shown.decide(FWP_ACTION::PERMIT);
        });
    }
    a_packet_is_shorter_than_its_header SHORT_PACKETS {
        for length in [1, 7, 8] {
            let local = "10.0.0.2:5353".parse().unwrap();
            right_send(&Packet::transport(17, local, there(), vec![vec![0; length]]), move |shown| {
                assert_eq!(packet_bytes(shown.data).len(), length);
                assert_eq!(shown.metadata.transportHeaderSize, 8);
                shown.decide(FWP_ACTION::PERMIT);
            });
        }
    }
    a_packet_that_is_too_long_fails_in_its_completion TOO_LONG {
        let sim = Simulator::new(Config { mtu: 100, ..Config::default() });
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if shown.injection_state() != FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
                return shown.decide(FWP_ACTION::PERMIT);
            }
            let clone = clone_list(shown.data);
            send_clone(shown, clone, REMOTE);
            shown.absorb();
        });
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key));
        sim.send(&Packet::udp("10.0.0.2:5353".parse().unwrap(), there(), &[0; 200]));
        sim.settle();
        assert_eq!((STATUS.get(), sim.sent().len()), (NTSTATUS::INVALID_BUFFER_SIZE.0, 0));
        right(sim, driver);
    }
    the_context_of_an_injection_comes_back INJECTION_CONTEXT {
        let (sim, driver) = start(Config::default(), layer::OUTBOUND_TRANSPORT_V4, |shown| {
            let mut context: HANDLE = null_mut();
            // SAFETY: the list is live, the pointer valid.
            let state = unsafe {
                FwpsQueryPacketInjectionState0(shown.sim.injection, shown.data.cast(), &raw mut context)
            };
            if state == FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
                send_inject(shown.sim, shown.metadata, REMOTE, &packet_bytes(shown.data), |_| ()).ok().unwrap();
                return shown.absorb();
            }
            COUNT.set(context as u32);
            shown.decide(FWP_ACTION::PERMIT);
        });
        sim.send(&query());
        assert_eq!(COUNT.get(), CONTEXT as u32);
        right(sim, driver);
    }
    continue_asks_the_next_filter CONTINUES {
        let sim = Simulator::new(Config::default());
        let shy = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| shown.out.actionType = FWP_ACTION::CONTINUE);
        let firm = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, |shown| shown.decide(FWP_ACTION::BLOCK));
        let late = load(&sim, 3, FWP_CALLOUT_FLAG::NONE, |_| panic!("the sublayer has decided"));
        for (driver, weight) in [(shy, 3), (firm, 2), (late, 1)] {
            let filter = Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key).weight(weight);
            sim.add_filter(filter.action(FWP_ACTION::CALLOUT_UNKNOWN));
        }
        let id = sim.send(&query());
        assert_eq!(sim.outcome(id), Some(SendOutcome::Blocked));
        unload(&sim, shy);
        unload(&sim, firm);
        right(sim, late);
    }
    sublayers_are_asked_from_the_heaviest_down SUBLAYERS {
        let sim = Simulator::new(Config::default());
        let upper = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            assert_eq!(COUNT.replace(1), 0);
            shown.out.actionType = FWP_ACTION::PERMIT;
            shown.out.rights = FWPS_RIGHT::NONE;
        });
        let lower = load(&sim, 2, FWP_CALLOUT_FLAG::NONE, |shown| {
            assert_eq!(COUNT.replace(2), 1);
            assert!(!shown.out.rights.has(FWPS_RIGHT::ACTION_WRITE));
            shown.decide(FWP_ACTION::BLOCK);
        });
        let hard = FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT;
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, upper.key).sublayer(2).flags(hard));
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, lower.key).sublayer(1));
        let id = sim.send(&query());
        assert_eq!((COUNT.get(), sim.outcome(id)), (2, Some(SendOutcome::Blocked)));
        unload(&sim, upper);
        right(sim, lower);
    }
    a_filter_without_callout_blocks UNREGISTERED {
        let permit = FWPS_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED;
        for (flags, action, outcome) in [
            (FWPS_FILTER_FLAG::NONE, FWP_ACTION::CALLOUT_TERMINATING, SendOutcome::Blocked),
            (FWPS_FILTER_FLAG::NONE, FWP_ACTION::CALLOUT_INSPECTION, SendOutcome::Permitted),
            (permit, FWP_ACTION::CALLOUT_TERMINATING, SendOutcome::Permitted),
        ] {
            let sim = Simulator::new(Config::default());
            let filter = Filter::at(layer::OUTBOUND_TRANSPORT_V4, GUID::from_u128(99));
            sim.add_filter(filter.flags(flags).action(action));
            let id = sim.send(&query());
            assert_eq!(sim.outcome(id), Some(outcome));
            sim.finish();
        }
    }
    a_flow_is_joined_in_the_middle MID_LIFE {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::ALLOW_MID_STREAM_INSPECTION, |shown| {
            assert!(shown.metadata.flags.has(FWPS_INCOMING_FLAG::MID_STREAM_INSPECTION));
            COUNT.set(1);
            shown.permit_all();
        });
        sim.add_filter(Filter::at(layer::STREAM_V4, driver.key));
        sim.indicate(older_flow(&sim), Direction::Send, b"abc");
        assert_eq!(COUNT.get(), 1);
        right(sim, driver);
    }
    nothing_may_be_shown NOTHING_SHOWN {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            // SAFETY: at a stream layer it is a packet, if it is anything.
            match unsafe { shown.data.cast::<FWPS_STREAM_CALLOUT_IO_PACKET0>().as_mut() } {
                None => COUNT.set(COUNT.get() + 1),
                Some(packet) => {
                    assert!(packet.streamData.is_null());
                    packet.streamAction = FWPS_STREAM_ACTION::NONE;
                    packet.countBytesRequired = 0;
                    packet.countBytesEnforced = 0;
                }
            }
            shown.out.actionType = FWP_ACTION::PERMIT;
        });
        assert_eq!((sim.show_nothing(layer::STREAM_V4), COUNT.get()), (vec![FWP_ACTION::PERMIT; 2], 1));
        right(sim, driver);
    }
    a_packet_is_changed_in_memory_of_its_own BUILT_AND_FREED {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |shown| {
            if shown.injection_state() != FWPS_PACKET_INJECTION_STATE::NOT_INJECTED {
                return shown.decide(FWP_ACTION::PERMIT);
            }
            let mut bytes = packet_bytes(shown.data);
            // Two bytes change places: the sum stays.
            bytes.swap(8, 10);
            send_inject(shown.sim, shown.metadata, REMOTE, &bytes, |_| ()).ok().unwrap();
            shown.absorb();
        });
        sim.add_filter(Filter::at(layer::OUTBOUND_TRANSPORT_V4, driver.key));
        sim.send(&query());
        sim.settle();
        assert_eq!(&sim.sent()[0].bytes[8..], b"euqry");
        right(sim, driver);
    }
    a_freed_list_says_nothing FREED_IS_GONE {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |_| ());
        sim.enter(|| {
            let (nbl, buffer) = built(&driver, b"x");
            // SAFETY: freed memory stays readable for a while, and says that it is none.
            unsafe {
                let mdl = (*buffer).mdl;
                assert_eq!(NET_BUFFER::current_mdl(NET_BUFFER_LIST::first_nb(nbl)), mdl);
                free_built(buffer.cast(), nbl, 0);
                assert_ne!((*nbl).FirstNetBuffer as usize, 0);
                assert_eq!((*nbl).FirstNetBuffer as usize & 0xff, 0xdd, "poison");
            }
        });
        right(sim, driver);
    }
    bytes_may_have_no_address UNREADABLE {
        let config = Config { split: Split::Every(3), unmapped: true, ..Config::default() };
        let (sim, driver) = start(config, layer::OUTBOUND_TRANSPORT_V4, |shown| {
            let mut storage = [0_u8; 64];
            // SAFETY: the list is live, and storage has room.
            unsafe {
                let nb = NET_BUFFER_LIST::first_nb(shown.data.cast());
                assert!(NdisGetDataBuffer(nb, 13, null_mut(), 1, 0).is_null(), "in pieces, and no storage");
                assert!(NdisGetDataBuffer(nb, 14, storage.as_mut_ptr().cast(), 1, 0).is_null(), "too short");
                assert!(!NdisGetDataBuffer(nb, 13, storage.as_mut_ptr().cast(), 1, 0).is_null());
                let mut mdl = NET_BUFFER::current_mdl(nb);
                while !mdl.is_null() {
                    let mapped = !MmGetSystemAddressForMdlSafe(mdl, NORMAL_PAGE_PRIORITY).is_null();
                    COUNT.set(COUNT.get() + u32::from(!mapped));
                    mdl = (*mdl).Next;
                }
            }
            shown.decide(FWP_ACTION::PERMIT);
        });
        sim.fail(Call::MdlMap, When::Always, NTSTATUS::INSUFFICIENT_RESOURCES);
        sim.send(&query());
        assert!(COUNT.get() > 0, "some could not be mapped");
        right(sim, driver);
    }
    lengths_are_of_one_packet OWN_LENGTH {
        let list = Packet::udp_batch("10.0.0.2:5353".parse().unwrap(), there(), &[b"one", b"three"]);
        right_send(&list, |shown| {
            // SAFETY: the list is live and has two packets.
            unsafe {
                let first = NET_BUFFER_LIST::first_nb(shown.data.cast());
                let lengths = [first, (*first).Next].map(|nb| NET_BUFFER::data_length(nb));
                assert_eq!(lengths, [11, 13]);
            }
            shown.decide(FWP_ACTION::PERMIT);
        });
    }
    hints_of_clones_are_inherited_or_not INHERITED {
        for clones_inherit_offload in [false, true] {
            let config = Config { clones_inherit_offload, ..Config::default() };
            let (sim, driver) = start(config, layer::OUTBOUND_TRANSPORT_V4, move |shown| {
                let _ = shown.injection_state();
                if COUNT.replace(1) == 1 {
                    return shown.decide(FWP_ACTION::PERMIT);
                }
                let (nbl, buffer) = built(shown.sim, b"x");
                let clone = clone_list(shown.data);
                let slot = NET_BUFFER_LIST_INFO::TcpIpChecksum;
                // SAFETY: all three lists are live; what hardware is to finish is said again.
                unsafe {
                    assert!(NET_BUFFER_LIST::info(nbl, slot).is_null());
                    assert_eq!(!NET_BUFFER_LIST::info(clone, slot).is_null(), clones_inherit_offload);
                    NET_BUFFER_LIST::set_info(clone, slot, NET_BUFFER_LIST::info(shown.data.cast(), slot));
                    free_built(buffer.cast(), nbl, 1);
                }
                send_clone(shown, clone, REMOTE);
                shown.absorb();
            });
            COUNT.set(0);
            sim.send(&Packet { checksum: Checksum::Offloaded, ..query() });
            right(sim, driver);
        }
    }
    streams_are_payload NO_HEADERS {
        let (sim, driver) = start(Config::default(), layer::STREAM_V4, |shown| {
            assert_eq!(shown.bytes(), b"abc");
            shown.permit_all();
        });
        sim.indicate(flow(&sim), Direction::Send, b"abc");
        right(sim, driver);
    }
    there_is_no_ip_header_yet IP_SUM {
        right_send(&query(), |shown| {
            assert_eq!(packet_bytes(shown.data)[..2], 5353_u16.to_be_bytes());
            shown.decide(FWP_ACTION::PERMIT);
        });
    }
    only_flows_with_a_context_are_shown CONDITIONAL {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::CONDITIONAL_ON_FLOW, |shown| {
            COUNT.set(COUNT.get() + 1);
            shown.permit_all();
        });
        sim.add_filter(Filter::at(layer::STREAM_V4, driver.key));
        let (with, without) = (flow(&sim), flow(&sim));
        sim.associate(with, layer::STREAM_V4, driver.callout, 7).ok().unwrap();
        for flow in [with, without] {
            sim.indicate(flow, Direction::Send, b"abc");
            assert_eq!(sim.delivered(flow, Direction::Send).bytes, b"abc");
            sim.close_flow(flow);
        }
        assert_eq!(COUNT.get(), 1);
        right(sim, driver);
    }
    older_flows_are_not_told_of OLDER_FLOWS {
        let sim = Simulator::new(Config::default());
        let driver = load(&sim, 1, FWP_CALLOUT_FLAG::NONE, |_| panic!("it was there before"));
        sim.add_filter(Filter::at(layer::ALE_FLOW_ESTABLISHED_V4, driver.key));
        sim.add_filter(Filter::at(layer::STREAM_V4, driver.key));
        sim.indicate(older_flow(&sim), Direction::Send, b"abc");
        right(sim, driver);
    }
    loopback_is_said LOOPBACK {
        let (sim, driver) = start(Config::default(), layer::OUTBOUND_TRANSPORT_V4, |shown| {
            use layer::outbound_transport::FLAGS;
            // SAFETY: a value of the layer.
            let flags = unsafe { (*shown.values.incomingValue.add(FLAGS)).value.data.uint32 };
            assert!(FWP_CONDITION_FLAG(flags).has(FWP_CONDITION_FLAG::IS_LOOPBACK));
            shown.decide(FWP_ACTION::PERMIT);
        });
        sim.send(&Packet { loopback: true, ..query() });
        right(sim, driver);
    }
}
