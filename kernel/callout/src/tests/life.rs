//! Registration and its end, several instances, several threads.

use std::thread;
use std::vec::Vec;

use fwps_sim::{Call, Completion, Config, Direction, Filter, Packet, SendOutcome, Simulator, Split, When};
use fwps_sys::NTSTATUS;
use tidegate_abi::control::OnError;
use tidegate_abi::{Hook, Verdict};
use tidegate_runtime::Runtime;

use super::{Bench, NOW, SENDS, STREAMS, asm, ends};
use crate::layer::LAYERS;
use crate::memory::failing;
use crate::{Callouts, Error, Objects, key, os};

fn register(sim: &Simulator) -> Result<Callouts, Error> {
    let runtime = Runtime::shared(os::platform()).expect("memory");
    let objects = Objects { driver: sim.device_object(), device: sim.device_object() };
    sim.enter(|| Callouts::register(objects, runtime, NOW))
}

#[test]
fn what_fails_in_registration_leaves_nothing_behind() {
    let calls =
        [Call::PoolAllocate, Call::WorkItemAllocate, Call::InjectionHandleCreate, Call::CalloutRegister];
    for call in calls {
        for nth in 1..=4 {
            let sim = Simulator::new(Config::default());
            sim.fail(call, When::Nth(nth), NTSTATUS::INSUFFICIENT_RESOURCES);
            match register(&sim) {
                Ok(callouts) => {
                    assert!(nth > 1, "{call:?} did not fail");
                    sim.enter(|| callouts.unregister()).expect("idle");
                }
                Err(error) => assert_eq!(error, Error::System(NTSTATUS::INSUFFICIENT_RESOURCES)),
            }
            sim.finish();
        }
    }
}

#[test]
fn registration_without_memory_leaves_nothing_behind() {
    for left in 0.. {
        let sim = Simulator::new(Config::default());
        failing::after(left);
        let registered = register(&sim);
        let reached = !failing::stop();
        match registered {
            Err(error) => assert_eq!(error, Error::NoMemory),
            Ok(callouts) => sim.enter(|| callouts.unregister()).expect("idle"),
        }
        sim.finish();
        if !reached {
            assert!(left > 3, "registration allocates");
            return;
        }
    }
}

#[test]
#[should_panic(expected = "refuses the filter")]
fn a_filter_that_names_no_instance_is_refused() {
    let bench = Bench::new(Config::default());
    let strange = 0xffff_8000_dead_0000;
    bench.sim.add_filter(Filter::at(LAYERS[0].id, key(Hook::StreamV4)).context(strange));
}

#[test]
fn instances_do_not_see_each_other() {
    let benches: Vec<_> = (0..3).map(|_| Bench::new(Config::default())).collect();
    benches[1].link(Hook::StreamV4, &asm::verdict(Verdict::Block), OnError::Block);
    for (index, bench) in benches.iter().enumerate() {
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"hello");
        assert_eq!(bench.out(flow, Direction::Send).is_empty(), index == 1);
    }
    benches.into_iter().for_each(Bench::finish);
}

#[test]
fn unregistering_waits_for_the_worker() {
    let mut bench = Bench::new(Config { completion: Completion::Manual, ..Config::default() });
    let hook = Hook::OutboundTransportV4;
    bench.link(hook, &asm::edits(&[(20, 1, b"x")], Verdict::Permit), OnError::Block);
    let (local, remote) = ends(hook);
    bench.sim.send(&Packet::tcp(local, remote, 0x18, 1, b"data"));
    let callouts = bench.callouts.take().expect("registered");
    let busy = bench.sim.enter(|| callouts.unregister()).expect_err("a packet waits");
    assert_eq!(busy.status, NTSTATUS::DEVICE_BUSY);
    bench.callouts = Some(busy.callouts);
    bench.sim.settle();
    assert_eq!(bench.sim.sent().len(), 1);
    bench.finish();
}

#[test]
fn unregistering_completes_what_is_pending() {
    let mut bench = Bench::new(Config { completion: Completion::Manual, ..Config::default() });
    for hook in Hook::ALL {
        bench.link(hook, &asm::edits(&[(8, 0, b"x")], Verdict::Permit), OnError::Block);
    }
    for hook in STREAMS {
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, Direction::Send, b"0123456789");
    }
    for hook in SENDS {
        let (local, remote) = ends(hook);
        bench.sim.send(&Packet::udp(local, remote, b"data"));
    }
    let counts = bench.counts();
    assert_eq!((counts.injected, counts.completed), (4, 0));
    bench.unload();
    bench.finish();
}

#[test]
fn a_link_can_come_and_go_while_data_flows_on_several_threads() {
    const ROUNDS: usize = 200;
    let bench =
        Bench::new(Config { split: Split::Random, completion: Completion::Random, ..Config::default() });
    for hook in Hook::ALL {
        bench.link(hook, &asm::edits(&[(8, 1, b"<x>")], Verdict::Permit), OnError::Block);
    }
    thread::scope(|scope| {
        for index in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                let direction = Direction::BOTH[index % 2];
                let flow = bench.flow(STREAMS[index / 2]);
                let (local, remote) = ends(SENDS[index / 2]);
                for _ in 0..ROUNDS {
                    bench.sim.indicate(flow, direction, b"0123456789");
                    let sent = bench.sim.send(&Packet::udp(local, remote, b"data"));
                    assert_eq!(bench.sim.outcome(sent), Some(SendOutcome::Absorbed));
                }
                let out = bench.out(flow, direction);
                assert_eq!(out, b"01234567<x>9".repeat(ROUNDS));
            });
        }
    });
    bench.sim.settle();
    let sent = bench.sim.take_sent();
    assert_eq!(sent.len(), 4 * ROUNDS);
    assert!(sent.iter().all(|packet| packet.checksum_ok && &packet.bytes[8..] == b"<x>ata"));
    bench.finish();
}
