//! Control messages that are not well formed, or ask for what can't be: an error, and nothing changes.

use crate::common::*;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tidegate_abi::control::*;
use tidegate_abi::{Grants, Hook, MapDef, MapKind, ProgramType, Verdict};
use tidegate_runtime::Runtime;

/// A runtime with something of everything.
fn furnished() -> Runtime {
    let runtime = runtime();
    let hash = map(&runtime, MapKind::Hash, 3, 5, 4);
    map(&runtime, MapKind::PerCpuArray, 4, 4, 2);
    map(&runtime, MapKind::RingBuf, 0, 0, 4096);
    call(&runtime, &MapUpdate { map: hash, key: b"abc", value: b"value", flags: 0 }).expect("room");
    let program = load(&runtime, ProgramType::Stream, &returning(1), &[hash]).expect("accepted");
    attach(&runtime, program, Hook::StreamV4, 1).expect("room");
    call(&runtime, &TraceBegin { link: 0, flow: 0, ends: 0, bytes: 4096 }).expect("room");
    runtime
}

/// A well-formed message of every operation. Ids of [`furnished`]: maps 1 to 3, program 4, link 5.
fn messages() -> Vec<Vec<u8>> {
    let def = MapDef { kind: MapKind::LruHash, key_size: 4, value_size: 4, max_entries: 16, flags: 0 };
    let code = code(&returning(2));
    let load = ProgramLoad {
        name: name("next"),
        program_type: ProgramType::Stream,
        code: &code,
        maps: [1, 2].into_iter().collect(),
        grants: Grants { capabilities: 0x10, hooks: 1, budget: 300 },
    };
    let (on_error, budget) = (OnError::Permit, 70);
    let attach = LinkAttach {
        program: 4,
        hook: Hook::StreamV6,
        priority: 300,
        on_error,
        budget,
        snapshot: false,
        filter: None,
    };
    vec![
        message(&Version {}),
        message(&State {}),
        message(&MapCreate { name: name("new"), def }),
        message(&MapRelease { map: 2 }),
        message(&MapUpdate { map: 1, key: b"key", value: b"other", flags: 1 }),
        message(&MapUpdate { map: 2, key: &[1, 0, 0, 0], value: &[1; 16], flags: 0 }),
        message(&MapLookup { map: 1, key: b"abc" }),
        message(&MapDelete { map: 1, key: b"abc" }),
        message(&MapNextKey { map: 2, key: Some(&[0; 4]) }),
        message(&MapNextKey { map: 1, key: None }),
        message(&MapInfo { map: 3 }),
        message(&MapList { after: 1 }),
        message(&MapFreeze { map: 1 }),
        message(&load),
        message(&ProgramUnload { program: 4 }),
        message(&ProgramInfo { program: 4 }),
        message(&ProgramList { after: 0 }),
        message(&ProgramCode { program: 4 }),
        message(&attach),
        message(&LinkDetach { link: 5 }),
        message(&LinkReplace { link: 5, program: 4 }),
        message(&LinkCommit { changes: &[0, 5] }),
        message(&LinkTry { link: 5, trial: Some(Trial { program: 4, mode: TrialMode::Shadow }) }),
        message(&LinkInfo { link: 5 }),
        message(&LinkTimes { link: 5, verdict: Some(Verdict::Block) }),
        message(&LinkList { hook: Hook::StreamV4 }),
        message(&EventRead { map: 3, max: 100 }),
        message(&FlowList { from: 0 }),
        message(&TraceBegin { link: 0, flow: 0, ends: 0, bytes: 4096 }),
        message(&TraceRead { trace: 6, max: 100 }),
        message(&TraceEnd { trace: 6 }),
    ]
}

/// Sends a message to a furnished runtime and returns the status; unless it is `Ok`, nothing may have changed.
fn judge(message: &[u8], reply_size: usize) -> Option<Status> {
    let runtime = furnished();
    let before = dump(&runtime);
    let mut reply = vec![0; reply_size];
    let length = runtime.handle(message, &mut reply);
    let status = (length > 0).then(|| status(&reply[..length]));
    if status != Some(Status::Ok) {
        assert_eq!(dump(&runtime), before, "{status:?}");
    }
    status
}

#[test]
fn every_operation_has_a_message_here_and_all_but_busy_ones_are_carried_out() {
    let messages = messages();
    for (name, number) in OPERATIONS {
        let mut sent = messages.iter().filter(|message| message[2..4] == number.to_le_bytes());
        let first = sent.next().unwrap_or_else(|| panic!("no message of {name}"));
        for message in std::iter::once(first).chain(sent) {
            let expected = if *name == "ProgramUnload" { Status::Busy } else { Status::Ok };
            assert_eq!(judge(message, 4096), Some(expected), "{name}");
        }
    }
}

#[test]
fn cut_and_lengthened_messages_and_those_of_another_version_are_refused() {
    for message in messages() {
        for cut in 0..message.len() {
            assert_eq!(judge(&message[..cut], 4096), Some(Status::Malformed), "cut at {cut}: {message:?}");
        }
        let mut longer = message.clone();
        longer.push(0);
        assert_eq!(judge(&longer, 4096), Some(Status::Malformed), "{longer:?}");
        // Also when the header knows of the byte.
        let length = (longer.len() - HEADER_SIZE) as u32;
        longer[4..8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(judge(&longer, 4096), Some(Status::Malformed), "{longer:?}");
        let mut other = message.clone();
        other[0] ^= 1;
        assert_eq!(judge(&other, 4096), Some(Status::Version), "{other:?}");
    }
}

#[test]
fn unknown_operations_are_refused() {
    for number in (0..=u16::MAX).filter(|number| OPERATIONS.iter().all(|row| row.1 != *number)).step_by(997) {
        let mut message = message(&Version {});
        message[2..4].copy_from_slice(&number.to_le_bytes());
        assert_eq!(judge(&message, 4096), Some(Status::UnknownOperation), "{number}");
    }
}

#[test]
fn a_reply_that_has_no_room_changes_nothing() {
    for message in messages() {
        for size in 0..32 {
            let expected = if size < HEADER_SIZE { None } else { Some(Status::ReplyTooLarge) };
            assert_eq!(judge(&message, size), expected, "{size} bytes for {message:?}");
        }
    }
}

#[test]
fn wrong_keys_values_flags_and_kinds_are_invalid() {
    let cases = [
        message(&MapUpdate { map: 1, key: b"ab", value: b"value", flags: 0 }),
        message(&MapUpdate { map: 1, key: b"abc", value: b"valu", flags: 0 }),
        message(&MapUpdate { map: 1, key: b"abc", value: b"value", flags: 3 }),
        message(&MapUpdate { map: 1, key: b"abc", value: b"value", flags: u64::MAX }),
        message(&MapUpdate { map: 2, key: &[0; 4], value: &[0; 8], flags: 0 }),
        message(&MapUpdate { map: 3, key: b"", value: b"", flags: 0 }),
        message(&MapLookup { map: 3, key: b"" }),
        message(&MapLookup { map: 2, key: &[0; 5] }),
        message(&MapNextKey { map: 3, key: None }),
        message(&MapNextKey { map: 1, key: Some(b"") }),
        message(&MapDelete { map: 2, key: &[0; 4] }),
        message(&EventRead { map: 1, max: 100 }),
        message(&TraceBegin { link: 0, flow: 0, ends: 1 << Verdict::ALL.len(), bytes: 4096 }),
        message(&TraceBegin { link: 0, flow: 0, ends: 1 << 30 | TRACE_FAILED | 1, bytes: 4096 }),
    ];
    for case in cases {
        assert_eq!(judge(&case, 4096), Some(Status::Invalid), "{case:?}");
    }
    for key in [&[2, 0, 0, 0], &[255; 4]] {
        assert_eq!(judge(&message(&MapLookup { map: 2, key }), 4096), Some(Status::NotFound));
    }
}

proptest! {
    #[test]
    fn flipped_bits_never_panic_and_change_something_only_when_the_answer_is_ok(
        message in select(messages()), flips in proptest::collection::vec(any::<Index>(), 1..5)
    ) {
        let mut message = message;
        for flip in flips {
            let bit = flip.index(message.len() * 8);
            message[bit / 8] ^= 1 << (bit % 8);
        }
        judge(&message, 4096);
    }

    #[test]
    fn any_body_of_any_operation_is_answered(
        operation in select(OPERATIONS), body in proptest::collection::vec(any::<u8>(), 0..64)
    ) {
        let length = body.len() as u32;
        let header = Header { version: tidegate_abi::API_VERSION, code: operation.1, length, reserved: 0 };
        let message = [&header.to_bytes()[..], &body].concat();
        prop_assert!(judge(&message, 4096).is_some());
    }
}
