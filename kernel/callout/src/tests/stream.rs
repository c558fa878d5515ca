//! Stream layers: verdicts, edits under any segmentation and memory layout, the end of a direction.

use std::format;
use std::string::String;
use std::vec::Vec;

use fwps_sim::{Config, Direction, Filter, FlowState, NeedMore, Split};
use fwps_sys::FWPS_STREAM_FLAG;
use proptest::collection;
use proptest::prelude::*;
use tidegate_abi::control::OnError;
use tidegate_abi::limits::{MAX_EDIT_BYTES, MAX_SCAN, MAX_WINDOW};
use tidegate_abi::{Hook, Verdict, helper};

use super::{Bench, STREAMS, asm};
use crate::key;
use crate::layer::LAYERS;

/// Runs `check` for both families and both directions.
fn everywhere(check: impl Fn(&Bench, Hook, Direction)) {
    for hook in STREAMS {
        for direction in Direction::BOTH {
            let bench = Bench::new(Config::default());
            check(&bench, hook, direction);
            bench.finish();
        }
    }
}

#[test]
fn without_links_everything_passes() {
    everywhere(|bench, hook, direction| {
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello");
        bench.sim.fin(flow, direction);
        assert_eq!(bench.out(flow, direction), b"hello");
        assert!(bench.sim.delivered(flow, direction).fin);
    });
}

#[test]
fn permit_and_continue_pass_the_bytes_and_the_end() {
    for verdict in [Verdict::Permit, Verdict::Continue] {
        everywhere(|bench, hook, direction| {
            let link = bench.link(hook, &asm::verdict(verdict), OnError::Block);
            let flow = bench.flow(hook);
            bench.sim.indicate(flow, direction, b"hello");
            bench.sim.fin(flow, direction);
            assert_eq!(bench.out(flow, direction), b"hello");
            assert!(bench.sim.delivered(flow, direction).fin);
            let counters = bench.counters(link);
            assert_eq!((counters.runs, counters.verdicts[verdict as usize]), (2, 2));
            assert_eq!(counters.bytes_shown, 5);
        });
    }
}

#[test]
fn block_takes_the_bytes_out_and_leaves_the_end() {
    everywhere(|bench, hook, direction| {
        bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello");
        bench.sim.fin(flow, direction);
        assert_eq!(bench.out(flow, direction), b"");
        assert!(bench.sim.delivered(flow, direction).fin);
        assert_eq!(bench.sim.flow_state(flow), FlowState::Open);
    });
}

#[test]
fn drop_connection_resets() {
    everywhere(|bench, hook, direction| {
        bench.link(hook, &asm::verdict(Verdict::DropConnection), OnError::Permit);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello");
        assert_eq!(bench.out(flow, direction), b"");
        assert_eq!(bench.sim.flow_state(flow), FlowState::Dropped);
    });
}

#[test]
fn allow_connection_passes_and_is_never_asked_again() {
    everywhere(|bench, hook, direction| {
        let link = bench.link(hook, &asm::verdict(Verdict::AllowConnection), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello ");
        bench.sim.indicate(flow, direction, b"again");
        assert_eq!(bench.out(flow, direction), b"hello again");
        assert_eq!(bench.counters(link).runs, 1);
    });
}

#[test]
fn the_first_link_with_an_opinion_decides() {
    everywhere(|bench, hook, direction| {
        bench.link(hook, &asm::verdict(Verdict::Continue), OnError::Block);
        bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
        let last = bench.link(hook, &asm::verdict(Verdict::Permit), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello");
        assert_eq!(bench.out(flow, direction), b"");
        assert_eq!(bench.counters(last).runs, 0);
    });
}

#[test]
fn what_is_enforced_in_part_is_shown_again_from_there() {
    everywhere(|bench, hook, direction| {
        let link = bench.link(hook, &asm::enforce(1, Verdict::Permit), OnError::Permit);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello");
        assert_eq!(bench.out(flow, direction), b"hello");
        assert_eq!((bench.counters(link).runs, bench.counters(link).bytes_shown), (5, 5 + 4 + 3 + 2 + 1));
    });
}

#[test]
fn a_link_that_continues_with_less_is_shown_the_rest_again() {
    everywhere(|bench, hook, direction| {
        let careful = bench.link(hook, &asm::enforce(2, Verdict::Continue), OnError::Permit);
        let easy = bench.link(hook, &asm::verdict(Verdict::Continue), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abcd");
        assert_eq!(bench.out(flow, direction), b"abcd");
        assert_eq!((bench.counters(careful).runs, bench.counters(easy).runs), (2, 2));
    });
}

#[test]
fn no_link_decides_on_bytes_that_one_before_it_wants_to_see_again() {
    for (verdict, out) in [(Verdict::Permit, &b"abcd"[..]), (Verdict::Block, b"")] {
        everywhere(|bench, hook, direction| {
            let careful = bench.link(hook, &asm::enforce(2, Verdict::Continue), OnError::Permit);
            let hasty = bench.link(hook, &asm::verdict(verdict), OnError::Block);
            let flow = bench.flow(hook);
            bench.sim.indicate(flow, direction, b"abcd");
            assert_eq!(bench.out(flow, direction), out);
            assert_eq!((bench.counters(careful).runs, bench.counters(hasty).runs), (2, 2));
            assert_eq!(bench.counters(careful).bytes_shown, 4 + 2);
        });
    }
}

#[test]
fn an_edit_of_bytes_that_a_link_before_wants_to_see_again_is_an_error() {
    for (offset, out) in [(1, &b"aXcX"[..]), (2, b"abcd")] {
        everywhere(|bench, hook, direction| {
            bench.link(hook, &asm::enforce(2, Verdict::Continue), OnError::Permit);
            let edit = bench.link(hook, &asm::edits(&[(offset, 1, b"X")], Verdict::Permit), OnError::Permit);
            let flow = bench.flow(hook);
            bench.sim.indicate(flow, direction, b"abcd");
            assert_eq!((offset, bench.out(flow, direction)), (offset, out.to_vec()));
            assert_eq!(bench.counters(edit).errors, u64::from(offset == 2));
        });
    }
}

#[test]
fn to_decide_on_more_than_was_shown_is_an_error() {
    for (on_error, out, state) in
        [(OnError::Block, &b""[..], FlowState::Dropped), (OnError::Permit, b"hello", FlowState::Open)]
    {
        everywhere(|bench, hook, direction| {
            let link = bench.link(hook, &asm::enforce(6, Verdict::Permit), on_error);
            let flow = bench.flow(hook);
            bench.sim.indicate(flow, direction, b"hello");
            assert_eq!(bench.out(flow, direction), out);
            assert_eq!(bench.sim.flow_state(flow), state);
            let counters = bench.counters(link);
            assert_eq!((counters.runs, counters.errors), (1, 1));
        });
    }
}

#[test]
fn a_link_that_fails_open_does_not_keep_the_next_one_from_deciding() {
    everywhere(|bench, hook, direction| {
        bench.link(hook, &asm::fail(), OnError::Permit);
        bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello");
        assert_eq!(bench.out(flow, direction), b"");
    });
}

#[test]
fn need_more_data_holds_bytes_back_until_there_are_enough_or_no_more_come() {
    for need_more in [NeedMore::Additional, NeedMore::Total, NeedMore::Any] {
        let bench = Bench::new(Config { need_more, ..Config::default() });
        let link = bench.link(Hook::StreamV4, &asm::replace_ab(b"!"), OnError::Block);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"a");
        assert_eq!(bench.out(flow, Direction::Send), b"");
        bench.sim.indicate(flow, Direction::Send, b"ba");
        assert_eq!(bench.out(flow, Direction::Send), b"!");
        bench.sim.fin(flow, Direction::Send);
        assert_eq!(bench.out(flow, Direction::Send), b"!a");
        assert!(bench.sim.delivered(flow, Direction::Send).fin);
        assert_eq!(bench.counters(link).errors, 0);
        bench.finish();
    }
}

#[test]
fn need_more_data_where_none_can_come_is_an_error() {
    everywhere(|bench, hook, direction| {
        let link = bench.link(hook, &asm::need(1), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"hello");
        bench.sim.fin(flow, direction);
        bench.sim.settle();
        assert_eq!(bench.sim.flow_state(flow), FlowState::Dropped);
        assert_eq!(bench.counters(link).errors, 1);
    });
}

#[test]
fn need_more_data_with_a_full_window_is_an_error() {
    let bench = Bench::new(Config::default());
    let link = bench.link(Hook::StreamV4, &asm::need(i32::MAX), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, &[7; MAX_WINDOW - 1]);
    assert_eq!(bench.sim.flow_state(flow), FlowState::Open);
    bench.sim.indicate(flow, Direction::Send, &[7]);
    assert_eq!(bench.sim.flow_state(flow), FlowState::Dropped);
    let counters = bench.counters(link);
    assert_eq!((counters.verdicts[Verdict::NeedMoreData as usize], counters.errors), (1, 1));
    bench.finish();
}

#[test]
fn an_indication_larger_than_a_window_is_shown_in_pieces() {
    for split in [Split::Contiguous, Split::Every(1000), Split::Random] {
        let bench = Bench::new(Config { split, ..Config::default() });
        let link = bench.link(Hook::StreamV4, &asm::edits(&[(0, 1, b"<")], Verdict::Permit), OnError::Block);
        let flow = bench.flow(Hook::StreamV4);
        let data: Vec<u8> = (0..2 * MAX_WINDOW + 9).map(|at| at as u8).collect();
        bench.sim.indicate(flow, Direction::Receive, &data);
        let mut expected = data;
        for piece in 0..3 {
            expected[piece * MAX_WINDOW] = b'<';
        }
        assert!(bench.out(flow, Direction::Receive) == expected);
        assert_eq!(bench.counters(link).edited, 3);
        bench.finish();
    }
}

#[test]
fn a_reset_is_shown_and_passes_whatever_the_links_say() {
    for code in [asm::verdict(Verdict::Block), asm::edits(&[(0, 0, b"x")], Verdict::Permit), asm::fail()] {
        everywhere(|bench, hook, direction| {
            let link = bench.link(hook, &code, OnError::Block);
            let flow = bench.flow(hook);
            bench.sim.abort(flow, direction);
            bench.sim.settle();
            assert_eq!(bench.sim.flow_state(flow), FlowState::Aborted);
            assert_eq!(bench.out(flow, direction), b"");
            assert_eq!(bench.counters(link).runs, 1);
        });
    }
}

#[test]
fn bytes_can_be_added_in_front_of_the_end() {
    everywhere(|bench, hook, direction| {
        let link = bench.link(hook, &asm::edits(&[(0, 0, b"bye")], Verdict::Continue), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.fin(flow, direction);
        assert_eq!(bench.out(flow, direction), b"bye");
        assert!(bench.sim.delivered(flow, direction).fin);
        assert_eq!(bench.counters(link).edited, 1);
    });
}

#[test]
fn an_edit_carries_the_flags_of_its_indication() {
    let bench = Bench::new(Config::default());
    bench.link(Hook::StreamV4, &asm::edits(&[(1, 1, b"--")], Verdict::Permit), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    let push = FWPS_STREAM_FLAG::RECEIVE_PUSH;
    bench.sim.indicate_with(flow, Direction::Receive, b"abc", push);
    assert_eq!(bench.out(flow, Direction::Receive), b"a--c");
    let injected = format!("{:?}", FWPS_STREAM_FLAG::RECEIVE | push);
    assert!(bench.sim.trace().contains(&injected), "{}", bench.sim.trace());
    bench.finish();
}

#[test]
fn everything_can_be_removed() {
    everywhere(|bench, hook, direction| {
        bench.link(hook, &asm::edits(&[(0, 3, b"")], Verdict::Permit), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        assert_eq!(bench.out(flow, direction), b"");
        assert_eq!(bench.counts().injected, 0);
    });
}

#[test]
fn edits_are_dropped_with_the_bytes_they_were_for() {
    for (verdict, state) in [
        (Verdict::Block, FlowState::Open),
        (Verdict::DropConnection, FlowState::Dropped),
        (Verdict::NeedMoreData, FlowState::Open),
    ] {
        everywhere(|bench, hook, direction| {
            let link = bench.link(hook, &asm::edits(&[(0, 1, b"x")], verdict), OnError::Block);
            let flow = bench.flow(hook);
            bench.sim.indicate(flow, direction, b"abc");
            assert_eq!(bench.out(flow, direction), b"");
            assert_eq!(bench.sim.flow_state(flow), state);
            assert_eq!(bench.counters(link).edited, 0);
            bench.sim.close_flow(flow);
        });
    }
}

#[test]
fn an_edited_continue_ends_the_chain() {
    everywhere(|bench, hook, direction| {
        bench.link(hook, &asm::edits(&[(0, 1, b"x")], Verdict::Continue), OnError::Block);
        let last = bench.link(hook, &asm::verdict(Verdict::Block), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        assert_eq!(bench.out(flow, direction), b"xbc");
        assert_eq!(bench.counters(last).runs, 0);
    });
}

#[test]
fn a_clone_goes_in_the_place_of_blocked_bytes() {
    everywhere(|bench, hook, direction| {
        let (clone, inject) = (helper::CLONE_STREAM_DATA, helper::STREAM_INJECT);
        let link = bench.link(hook, &asm::clone(clone, inject, 1, 1, b"--", Verdict::Block), OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        assert_eq!(bench.out(flow, direction), b"a--c");
        let counters = bench.counters(link);
        assert_eq!((counters.injected, counters.edited, counters.errors), (1, 0, 0));
    });
}

#[test]
fn an_injected_clone_beside_passing_bytes_is_refused() {
    everywhere(|bench, hook, _| {
        let (clone, inject) = (helper::CLONE_STREAM_DATA, helper::STREAM_INJECT);
        let code = asm::clone(clone, inject, 1, 1, b"--", Verdict::Permit);
        assert_eq!(bench.refused(hook, &code), "TG0603");
    });
}

#[test]
fn a_discarded_clone_changes_nothing() {
    everywhere(|bench, hook, direction| {
        let code = asm::clone(helper::CLONE_STREAM_DATA, helper::CLONE_DISCARD, 1, 1, b"--", Verdict::Permit);
        bench.link(hook, &code, OnError::Block);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        assert_eq!(bench.out(flow, direction), b"abc");
    });
}

#[test]
fn a_run_holds_one_clone() {
    everywhere(|bench, hook, direction| {
        let link = bench.link(hook, &asm::one_clone_only(), OnError::Permit);
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, direction, b"abc");
        assert_eq!(bench.out(flow, direction), b"abc");
        assert_eq!(bench.counters(link).injected, 1);
    });
}

#[test]
fn a_run_may_search_and_copy_together_as_much_as_the_limit_says() {
    let (times, loads) = (MAX_SCAN / MAX_WINDOW, MAX_WINDOW / asm::LOADED);
    for (times, loads, errors) in
        [(times, 0, 0), (times + 1, 0, 1), (times, 1, 1), (times - 1, loads, 0), (times - 1, loads + 1, 1)]
    {
        let bench = Bench::new(Config::default());
        let code = asm::search_and_load(times, loads);
        let link = bench.link(Hook::StreamV4, &code, OnError::Permit);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, &[0; MAX_WINDOW]);
        assert_eq!(bench.out(flow, Direction::Send).len(), MAX_WINDOW);
        assert_eq!(bench.counters(link).errors, errors);
        bench.finish();
    }
}

#[test]
fn at_the_engine_s_buffer_limit_everything_is_decided_on_at_once() {
    for (code, state) in [
        (asm::need(1), FlowState::Dropped),
        (asm::enforce(7, Verdict::Permit), FlowState::Dropped),
        (asm::enforce(8, Verdict::Permit), FlowState::Open),
        (asm::edits(&[(0, 1, b"<>")], Verdict::Permit), FlowState::Open),
    ] {
        let bench = Bench::new(Config { buffer_limit: 8, ..Config::default() });
        let link = bench.link(Hook::StreamV4, &code, OnError::Block);
        let flow = bench.flow(Hook::StreamV4);
        bench.sim.indicate(flow, Direction::Send, b"12345678");
        bench.sim.settle();
        assert_eq!(bench.sim.flow_state(flow), state);
        assert_eq!(bench.counters(link).errors, u64::from(state == FlowState::Dropped));
        bench.finish();
    }
}

#[test]
fn an_end_that_comes_with_bytes_is_not_lost_with_them() {
    for (code, out, state) in [
        (asm::verdict(Verdict::Permit), &b"abc"[..], FlowState::Open),
        (asm::verdict(Verdict::Block), b"", FlowState::Dropped),
        (asm::edits(&[(0, 1, b"x")], Verdict::Permit), b"", FlowState::Dropped),
    ] {
        let bench = Bench::new(Config::default());
        bench.link(Hook::StreamV4, &code, OnError::Block);
        let flow = bench.flow(Hook::StreamV4);
        let end = FWPS_STREAM_FLAG::SEND_DISCONNECT;
        bench.sim.indicate_with(flow, Direction::Send, b"abc", end);
        assert_eq!(bench.out(flow, Direction::Send), out);
        assert_eq!(bench.sim.flow_state(flow), state);
        bench.finish();
    }
}

#[test]
fn edits_have_room_for_as_much_as_the_limits_say() {
    let bench = Bench::new(Config::default());
    let most = [b'x'; 128];
    let whole: Vec<_> = (0..MAX_EDIT_BYTES / most.len()).map(|at| (at as i32, 1, &most[..])).collect();
    let link = bench.link(Hook::StreamV4, &asm::edits(&whole, Verdict::Permit), OnError::Block);
    let flow = bench.flow(Hook::StreamV4);
    bench.sim.indicate(flow, Direction::Send, &[b'o'; 17]);
    let mut expected = [b'x'; MAX_EDIT_BYTES].to_vec();
    expected.push(b'o');
    assert_eq!(bench.out(flow, Direction::Send), expected);
    assert_eq!(bench.counters(link).edited, 1);
    bench.finish();
}

#[test]
fn bytes_that_a_callout_above_took_are_counted_as_missed() {
    let bench = Bench::new(Config::default());
    let hook = Hook::StreamV4;
    // The same callout twice: what the upper one blocks, the lower one misses.
    let above = Filter::at(LAYERS[hook.index()].id, key(hook))
        .context(bench.callouts.as_ref().expect("registered").context())
        .sublayer(0xf000);
    bench.sim.add_filter(above);
    bench.link(hook, &asm::block_x_drop_missed(), OnError::Permit);
    for (data, state) in [(&b"xab"[..], FlowState::Open), (b"xxab", FlowState::Dropped)] {
        let flow = bench.flow(hook);
        bench.sim.indicate(flow, Direction::Send, data);
        bench.sim.settle();
        assert_eq!(bench.sim.flow_state(flow), state);
    }
    bench.finish();
}

/// Cuts `bytes` at these places, taken modulo what is left.
fn cut<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for cut in cuts {
        if rest.len() < 2 {
            break;
        }
        let (piece, behind) = rest.split_at(1 + cut % (rest.len() - 1));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn edits_come_out_as_on_a_string_whatever_the_layout_and_the_completions(
        seed: u64,
        v6: bool,
        receive: bool,
        data in collection::vec(any::<u8>(), 1..400),
        cuts in collection::vec(any::<usize>(), 0..4),
        wanted in collection::vec((0..12_usize, 0..12_usize, collection::vec(any::<u8>(), 0..40)), 1..6),
    ) {
        let bench = Bench::new(Config::random(seed));
        let hook = STREAMS[usize::from(v6)];
        let direction = Direction::BOTH[usize::from(receive)];
        let mut at = 0;
        let edits: Vec<(usize, usize, &[u8])> = wanted
            .iter()
            .map(|(gap, remove, new)| {
                let offset = at + gap;
                at = offset + remove;
                (offset, *remove, &**new)
            })
            .collect();
        let program: Vec<_> = edits.iter().map(|(o, r, new)| (*o as i32, *r as i32, *new)).collect();
        let link = bench.link(hook, &asm::edits(&program, Verdict::Permit), OnError::Block);
        let flow = bench.flow(hook);
        let mut expected = Vec::new();
        for piece in cut(&data, &cuts) {
            bench.sim.indicate(flow, direction, piece);
            let mut edited = piece.to_vec();
            // An edit that does not fit is refused, and so are none behind it that would.
            let fitting = edits.iter().filter(|(offset, remove, _)| offset + remove <= piece.len());
            for (offset, remove, new) in fitting.rev() {
                edited.splice(*offset..offset + remove, new.iter().copied());
            }
            expected.extend(edited);
        }
        prop_assert_eq!(bench.out(flow, direction), expected);
        prop_assert_eq!(bench.counters(link).errors, 0);
        bench.finish();
    }

    #[test]
    fn how_a_stream_is_cut_does_not_change_what_comes_out(
        seed: u64,
        receive: bool,
        data in "[abc]{0,60}",
        cuts in collection::vec(any::<usize>(), 0..12),
        new in "[xyz]{1,5}",
    ) {
        let bench = Bench::new(Config::random(seed));
        let direction = Direction::BOTH[usize::from(receive)];
        let link = bench.link(Hook::StreamV6, &asm::replace_ab(new.as_bytes()), OnError::Block);
        let flow = bench.flow(Hook::StreamV6);
        for piece in cut(data.as_bytes(), &cuts) {
            bench.sim.indicate(flow, direction, piece);
        }
        bench.sim.fin(flow, direction);
        let out = String::from_utf8(bench.out(flow, direction)).expect("letters");
        prop_assert_eq!(out, data.replace("ab", &new));
        prop_assert!(bench.sim.delivered(flow, direction).fin);
        prop_assert_eq!(bench.counters(link).errors, 0);
        bench.finish();
    }
}
