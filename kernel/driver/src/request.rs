//! What becomes of a request to the device, before a byte of it is looked at by anyone else.

use fwps_sys::NTSTATUS;
use tidegate_abi::control::{self, Header};
use tidegate_abi::device;
use tidegate_abi::limits::MAX_MESSAGE;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The runtime answers it at once.
    Answer,
    /// It waits until there are events.
    Wait,
}

/// The system's part of a request: code and lengths.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Bytes that came in.
    pub input: usize,
    /// Bytes that the answer may take.
    pub output: usize,
}

/// Judges a request by its code, its lengths and the message that it brings.
///
/// What is well formed for the system is answered by a reply, whose header says what was wrong with the message; a status of
/// the system stands only where there can be no reply.
///
/// # Errors
/// The status that the request is completed with.
pub fn judge(code: u32, lengths: Lengths, message: &[u8]) -> Result<Kind, NTSTATUS> {
    if ![device::QUERY, device::CHANGE, device::WAIT].contains(&code) {
        return Err(NTSTATUS::INVALID_DEVICE_REQUEST);
    }
    if lengths.input > MAX_MESSAGE || lengths.output > MAX_MESSAGE {
        return Err(NTSTATUS::INVALID_BUFFER_SIZE);
    }
    if lengths.output < device::MIN_REPLY {
        return Err(NTSTATUS::BUFFER_TOO_SMALL);
    }
    // A message without a header changes nothing, and the runtime says so better than a status could.
    let operation = Header::parse(message).ok().map(|(header, _)| header.code);
    match code {
        device::QUERY if operation.is_some_and(control::changes) => Err(NTSTATUS::ACCESS_DENIED),
        // Anything but a request for events is answered at once, if only by a refusal.
        device::WAIT if operation == Some(<control::EventRead as control::Operation>::NUMBER) => {
            Ok(Kind::Wait)
        }
        device::WAIT if operation.is_some() => Err(NTSTATUS::INVALID_PARAMETER),
        _ => Ok(Kind::Answer),
    }
}

/// Whether a reply to an event request says that nothing waits: then the request goes on waiting.
pub fn is_empty(reply: &[u8]) -> bool {
    control::parse_reply::<control::Events<'_>>(reply).is_ok_and(|events| events.records.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_abi::control::{EventRead, Events, MapList, MapRelease, Operation, Version, write};

    use super::*;

    const ROOM: Lengths = Lengths { input: 64, output: 4096 };

    fn message<O: Operation>(request: &O) -> std::vec::Vec<u8> {
        let mut out = [0; 64];
        let length = control::write_request(request, &mut out).expect("small");
        out[..length].to_vec()
    }

    #[test]
    fn a_handle_that_may_only_read_changes_nothing() {
        for number in 0..=u16::MAX {
            let header = Header { version: tidegate_abi::API_VERSION, code: number, length: 0, reserved: 0 };
            let judged = judge(device::QUERY, ROOM, &header.to_bytes());
            assert_eq!(judged == Ok(Kind::Answer), !control::changes(number), "{number}");
        }
        assert_eq!(judge(device::QUERY, ROOM, &message(&Version {})), Ok(Kind::Answer));
        assert_eq!(judge(device::QUERY, ROOM, &message(&MapList { after: 0 })), Ok(Kind::Answer));
        assert_eq!(
            judge(device::QUERY, ROOM, &message(&MapRelease { map: 1 })),
            Err(NTSTATUS::ACCESS_DENIED)
        );
        assert_eq!(judge(device::CHANGE, ROOM, &message(&MapRelease { map: 1 })), Ok(Kind::Answer));
    }

    #[test]
    fn only_requests_for_events_wait() {
        assert_eq!(judge(device::WAIT, ROOM, &message(&EventRead { map: 1, max: 9 })), Ok(Kind::Wait));
        assert_eq!(judge(device::WAIT, ROOM, &message(&Version {})), Err(NTSTATUS::INVALID_PARAMETER));
        assert_eq!(judge(device::WAIT, ROOM, b"nonsense"), Ok(Kind::Answer), "refused in words, at once");
    }

    #[test]
    fn lengths_are_judged_before_the_message() {
        let message = message(&Version {});
        for (input, output, status) in [
            (MAX_MESSAGE + 1, 4096, NTSTATUS::INVALID_BUFFER_SIZE),
            (12, MAX_MESSAGE + 1, NTSTATUS::INVALID_BUFFER_SIZE),
            (12, device::MIN_REPLY - 1, NTSTATUS::BUFFER_TOO_SMALL),
            (12, 0, NTSTATUS::BUFFER_TOO_SMALL),
        ] {
            assert_eq!(judge(device::QUERY, Lengths { input, output }, &message), Err(status));
        }
    }

    #[test]
    fn no_events_is_not_an_answer_and_everything_else_is() {
        let mut out = [0; 64];
        let length = write(0, &Events { dropped: 7, records: &[] }, &mut out).expect("small");
        assert!(is_empty(&out[..length]));
        let length = write(0, &Events { dropped: 0, records: b"\x01\0\0\0x" }, &mut out).expect("small");
        assert!(!is_empty(&out[..length]));
        let length = write(control::Status::NotFound as u16, &(), &mut out).expect("small");
        assert!(!is_empty(&out[..length]), "a map that went away is told");
    }

    proptest! {
        /// Strangers' codes, lengths and bytes get a status or an answer, and never a right that the code does not carry.
        #[test]
        fn anything_is_judged(
            code in prop_oneof![any::<u32>(), Just(device::QUERY), Just(device::CHANGE), Just(device::WAIT)],
            input in 0_usize..1 << 26,
            output in 0_usize..1 << 26,
            message in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let judged = judge(code, Lengths { input, output }, &message);
            if judged.is_ok() {
                prop_assert!(input <= MAX_MESSAGE && (device::MIN_REPLY..=MAX_MESSAGE).contains(&output));
                prop_assert!([device::QUERY, device::CHANGE, device::WAIT].contains(&code));
            }
            prop_assert!(judged != Ok(Kind::Wait) || code == device::WAIT);
        }
    }
}
