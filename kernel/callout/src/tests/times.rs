//! How long runs take: one of many is timed, at every layer.

use fwps_sim::{Config, Direction, Packet};
use tidegate_abi::control::{OnError, Times, TrialMode};
use tidegate_abi::limits::{TIME_SHIFT, TIMED_EVERY};
use tidegate_abi::{Hook, Verdict};

use super::{Bench, asm, ends};

#[test]
fn one_run_of_many_is_timed_and_falls_into_its_class() {
    for hook in [Hook::StreamV4, Hook::OutboundTransportV6] {
        for verdict in [Verdict::Continue, Verdict::Block] {
            let bench = Bench::new(Config::default());
            let link = bench.link(hook, &asm::verdict(verdict), OnError::Permit);
            let flow = bench.flow(Hook::StreamV4);
            let (local, remote) = ends(Hook::OutboundTransportV6);
            // The first of each of these is followed by one that is timed.
            for _ in 0..2 * TIMED_EVERY + 2 {
                if hook == Hook::StreamV4 {
                    bench.sim.indicate(flow, Direction::Send, b"abcd");
                } else {
                    bench.send(&Packet::udp(local, remote, b"data"));
                }
            }
            assert_eq!(bench.counters(link).runs, 2 * TIMED_EVERY + 2);
            let times = bench.times(link, Some(verdict));
            assert_eq!(times.runs.iter().sum::<u64>(), 3);
            let ends = (TIME_SHIFT..).map(|shift| 1_u64 << shift);
            let most: u64 = times.runs.iter().zip(ends).map(|(runs, end)| runs * end).sum();
            assert!(times.sum_ns < most, "{times:?}");
            assert_eq!(bench.times(link, Some(Verdict::Permit)), Times::default(), "another verdict");
            bench.finish();
        }
    }
}

#[test]
fn runs_whose_effects_fail_are_timed_no_more_often_than_others() {
    let bench = Bench::new(Config::default());
    let link = bench.link(Hook::StreamV4, &asm::fail(), OnError::Permit);
    let flow = bench.flow(Hook::StreamV4);
    for _ in 0..2 * TIMED_EVERY {
        bench.sim.indicate(flow, Direction::Send, b"abcd");
    }
    assert_eq!(bench.counters(link).errors, 2 * TIMED_EVERY);
    assert_eq!(bench.times(link, Some(Verdict::Permit)).runs.iter().sum::<u64>(), 2);
    bench.finish();
}

#[test]
fn a_shadow_has_no_run_of_its_link_timed() {
    for hook in [Hook::StreamV4, Hook::OutboundTransportV6] {
        let bench = Bench::new(Config::default());
        let link = bench.link(hook, &asm::verdict(Verdict::Continue), OnError::Permit);
        let flow = bench.flow(Hook::StreamV4);
        let (local, remote) = ends(Hook::OutboundTransportV6);
        let run = || {
            if hook == Hook::StreamV4 {
                bench.sim.indicate(flow, Direction::Send, b"abcd");
            } else {
                bench.send(&Packet::udp(local, remote, b"data"));
            }
        };
        (0..2).for_each(|_| run());
        bench.try_in(link, hook, &asm::verdict(Verdict::Permit), &[], TrialMode::Shadow);
        (0..10).for_each(|_| run());
        assert_eq!(bench.times(link, Some(Verdict::Continue)).runs.iter().sum::<u64>(), 1, "{hook:?}");
        bench.finish();
    }
}
