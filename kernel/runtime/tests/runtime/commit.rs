//! Many changes of links in one message: all of them, or none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::*;
use proptest::prelude::*;
use tidegate_abi::control::*;
use tidegate_abi::{Hook, ProgramType, limits};
use tidegate_runtime::Runtime;

/// The message's room for so many changes.
fn written(changes: &[Change]) -> Vec<u8> {
    let mut room = vec![0; 64 * changes.len()];
    let whole = room.len();
    let mut out = &mut room[..];
    for change in changes {
        out = change.write(out).expect("room");
    }
    let left = out.len();
    room.truncate(whole - left);
    room
}

pub(crate) fn commit(runtime: &Runtime, changes: &[Change]) -> Result<Committed, Status> {
    call(runtime, &LinkCommit { changes: &written(changes) })
}

fn attaching(program: Id, hook: Hook, priority: u16) -> Change {
    let (on_error, snapshot) = (OnError::Block, false);
    Change::Attach(LinkAttach { program, hook, priority, on_error, budget: 100, snapshot, filter: None })
}

/// Hook, id, program and priority of every link, in the order that they run.
fn links(runtime: &Runtime) -> Vec<(Hook, Id, Id, u16)> {
    let of = |hook| {
        let ids = call(runtime, &LinkList { hook }).expect("a list");
        ids.into_iter().map(move |link| {
            let info = call(runtime, &LinkInfo { link }).expect("it is listed");
            (hook, link, info.program, info.priority)
        })
    };
    Hook::ALL.into_iter().flat_map(of).collect()
}

#[test]
fn links_of_several_hooks_change_together() {
    let runtime = runtime();
    let [first, second] = [1, 2].map(|r0| load(&runtime, ProgramType::Stream, &returning(r0), &[]).unwrap());
    let [old, kept] = [5, 7].map(|priority| attach(&runtime, first, Hook::StreamV4, priority).expect("room"));
    let changes = [
        attaching(second, Hook::StreamV4, 6),
        Change::Detach { link: old },
        attaching(second, Hook::StreamV6, 1),
        Change::Replace { link: kept, program: second },
    ];
    let Committed { first: new, draining } = commit(&runtime, &changes).expect("it fits");
    assert_eq!(draining, 0);
    let expected = [
        (Hook::StreamV4, new, second, 6),
        (Hook::StreamV4, kept, second, 7),
        (Hook::StreamV6, new + 1, second, 1),
    ];
    assert_eq!(links(&runtime), expected);
    assert_eq!(commit(&runtime, &[]), Ok(Committed { first: 0, draining: 0 }), "nothing is a change too");
    let [_, kept, _] = expected;
    assert_eq!(
        commit(&runtime, &[Change::Detach { link: kept.1 }, attaching(77, Hook::StreamV4, 1)]),
        Err(Status::NotFound)
    );
    assert_eq!(links(&runtime), expected, "what stood in front of the mistake was not made either");
}

#[test]
fn what_cannot_be_is_refused() {
    let runtime = runtime();
    let program = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let link = attach(&runtime, program, Hook::StreamV4, 5).expect("room");
    let before = dump(&runtime);
    let (on_error, hook, priority, snapshot) = (OnError::Block, Hook::StreamV4, 1, false);
    let with_budget = |budget| {
        Change::Attach(LinkAttach { program, hook, priority, on_error, budget, snapshot, filter: None })
    };
    let many: Vec<_> = (0..limits::MAX_LINKS as u16).map(|at| attaching(program, hook, at)).collect();
    let too_many = vec![Change::Replace { link, program }; limits::MAX_CHANGES + 1];
    for (changes, status) in [
        (&[Change::Detach { link: 99 }][..], Status::NotFound),
        (&[Change::Detach { link }, Change::Detach { link }], Status::NotFound),
        (&[Change::Detach { link }, Change::Replace { link, program }], Status::NotFound),
        (&[Change::Replace { link, program: 99 }], Status::NotFound),
        (&[attaching(program, Hook::OutboundTransportV4, 1)], Status::Invalid),
        (&[with_budget(0)], Status::Invalid),
        (&[with_budget(1)], Status::OverBudget),
        (&[Change::Move { link: 99, priority: 1 }], Status::NotFound),
        (&[Change::Detach { link }, Change::Move { link, priority: 1 }], Status::NotFound),
        (&many, Status::Full),
        (&too_many, Status::Invalid),
    ] {
        assert_eq!(commit(&runtime, changes), Err(status), "{:?}", changes.first());
        assert_eq!(dump(&runtime), before);
    }
    for changes in [&[9][..], &[0], &[1, 1, 0, 0, 0]] {
        assert_eq!(call(&runtime, &LinkCommit { changes }), Err(Status::Malformed), "{changes:?}");
    }
    let fits: Vec<_> = [Change::Detach { link }].into_iter().chain(many).collect();
    assert!(commit(&runtime, &fits).is_ok(), "the one that ends makes room");
}

#[test]
fn a_link_that_moves_stays_what_it_is_and_runs_at_its_new_place() {
    let runtime = runtime();
    let program = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let [one, two, three] =
        [5; 3].map(|priority| attach(&runtime, program, Hook::StreamV4, priority).expect("room"));
    let order =
        || links(&runtime).into_iter().map(|(_, link, _, priority)| (link, priority)).collect::<Vec<_>>();
    let info = call(&runtime, &LinkInfo { link: three }).expect("it is there");
    commit(&runtime, &[Change::Move { link: three, priority: 4 }]).expect("it is there");
    assert_eq!(order(), [(three, 4), (one, 5), (two, 5)]);
    assert_eq!(call(&runtime, &LinkInfo { link: three }), Ok(LinkInfoReply { priority: 4, ..info.clone() }));
    commit(&runtime, &[Change::Move { link: one, priority: 6 }, Change::Move { link: three, priority: 5 }])
        .unwrap();
    assert_eq!(order(), [(two, 5), (three, 5), (one, 6)], "equal ones in the order that they were attached");
    // A link that moves and gets another program in one message has both.
    let other = load(&runtime, ProgramType::Stream, &returning(2), &[]).expect("accepted");
    let both = [Change::Move { link: two, priority: 9 }, Change::Replace { link: two, program: other }];
    commit(&runtime, &both).expect("it is there");
    let moved = call(&runtime, &LinkInfo { link: two }).expect("it is there");
    assert_eq!((moved.program, moved.priority), (other, 9));
}

/// A change of links that exist or don't, by programs that fit or don't.
fn change() -> impl Strategy<Value = Change> {
    let hook = (0..3_usize).prop_map(|at| [Hook::StreamV4, Hook::StreamV6, Hook::OutboundTransportV4][at]);
    // Programs 1 (streams), 2 (streams) and 3 (packets); links 4 to 7, and one that never is.
    let link = || prop_oneof![6 => 4..8_u32, 1 => Just(99)];
    prop_oneof![
        link().prop_map(|link| Change::Detach { link }),
        (1..5_u32, hook, 0..4_u16).prop_map(|(program, hook, priority)| attaching(program, hook, priority)),
        (link(), 1..5_u32).prop_map(|(link, program)| Change::Replace { link, program }),
        (link(), 0..4_u16).prop_map(|(link, priority)| Change::Move { link, priority }),
    ]
}

proptest! {
    #[test]
    fn any_changes_come_out_as_one_after_the_other_or_not_at_all(changes in prop::collection::vec(change(), 0..8)) {
        let [whole, stepwise] = [(), ()].map(|()| {
            let runtime = runtime();
            let types = [ProgramType::Stream, ProgramType::Stream, ProgramType::Send];
            let [one, two, _] = types.map(|kind| load(&runtime, kind, &returning(1), &[]).expect("accepted"));
            for (program, hook) in
                [(one, Hook::StreamV4), (two, Hook::StreamV4), (one, Hook::StreamV6), (two, Hook::StreamV6)]
            {
                attach(&runtime, program, hook, 2).expect("room");
            }
            runtime
        });
        let before = links(&whole);
        let steps: Vec<_> = changes
            .iter()
            .map(|change| match *change {
                Change::Detach { link } => call(&stepwise, &LinkDetach { link }).map(drop),
                Change::Replace { link, program } => call(&stepwise, &LinkReplace { link, program }),
                Change::Attach(LinkAttach { program, hook, priority, .. }) => {
                    attach(&stepwise, program, hook, priority).map(drop)
                }
                Change::Move { .. } => commit(&stepwise, std::slice::from_ref(change)).map(drop),
            })
            .collect();
        let after = |runtime: &Runtime| {
            let links = links(runtime);
            links.into_iter().map(|(hook, _, program, priority)| (hook, program, priority)).collect::<Vec<_>>()
        };
        match (commit(&whole, &changes), steps.iter().find_map(|step| step.err())) {
            (Ok(_), None) => prop_assert_eq!(after(&whole), after(&stepwise)),
            (Err(status), Some(first)) => {
                prop_assert_eq!(status, first);
                prop_assert_eq!(links(&whole), before);
            }
            (done, step) => prop_assert!(false, "{done:?} at once, {step:?} one by one"),
        }
    }
}

#[test]
fn whoever_runs_finds_the_old_links_or_the_new_ones() {
    const ROUNDS: u16 = 300;
    let runtime = runtime();
    let program = load(&runtime, ProgramType::Stream, &returning(1), &[]).expect("accepted");
    let set = |round: u16| (0..4).map(move |at| attaching(program, Hook::StreamV4, round * 4 + at));
    commit(&runtime, &set(0).collect::<Vec<_>>()).expect("room");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for processor in 0..PROCESSORS {
            let (runtime, done) = (&runtime, &done);
            scope.spawn(move || {
                PROCESSOR.set(processor);
                while !done.load(Ordering::Acquire) {
                    let chain = runtime.chain(Hook::StreamV4);
                    let places: Vec<u16> = chain.links().iter().map(|link| link.order().0).collect();
                    let first = places[0];
                    assert_eq!(places, [first, first + 1, first + 2, first + 3]);
                    assert_eq!(first % 4, 0, "a whole set");
                    thread::yield_now();
                }
            });
        }
        for round in 1..=ROUNDS {
            let ends = links(&runtime).into_iter().map(|(_, link, _, _)| Change::Detach { link });
            let changes: Vec<_> = ends.chain(set(round)).collect();
            commit(&runtime, &changes).expect("it fits");
        }
        done.store(true, Ordering::Release);
    });
}
