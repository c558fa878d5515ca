//! What classify answers: a decision into the members that the filter engine reads.

use fwps_sys::{
    FWP_ACTION, FWPS_CLASSIFY_OUT_FLAG, FWPS_CLASSIFY_OUT0, FWPS_FILTER_FLAG, FWPS_RIGHT, FWPS_STREAM_ACTION,
    FWPS_STREAM_CALLOUT_IO_PACKET0,
};

/// The answer at a stream layer. Sublayers form a waterfall there: the right to write means nothing and is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamOutcome {
    /// The first so many bytes pass.
    Permit(usize),
    /// The first so many bytes are taken out of the stream.
    Block(usize),
    /// At least so many more bytes are needed; not 0.
    NeedMore(usize),
    /// The connection is reset.
    Drop,
    /// Everything passes, and the flow is not shown again.
    Allow,
}

impl StreamOutcome {
    /// Writes the answer. `packet`'s part of it holds leftovers, so every member is written.
    #[inline]
    pub(crate) fn write(self, packet: &mut FWPS_STREAM_CALLOUT_IO_PACKET0, out: &mut FWPS_CLASSIFY_OUT0) {
        let (action, stream, enforced, required) = match self {
            Self::Permit(bytes) => (FWP_ACTION::PERMIT, FWPS_STREAM_ACTION::NONE, bytes, 0),
            Self::Block(bytes) => (FWP_ACTION::BLOCK, FWPS_STREAM_ACTION::NONE, bytes, 0),
            rare => rare.instead(),
        };
        packet.streamAction = stream;
        packet.countBytesEnforced = enforced;
        packet.countBytesRequired = required;
        out.actionType = action;
    }

    /// The members of an answer that is an action of the stream.
    #[cold]
    #[inline(never)]
    fn instead(self) -> (FWP_ACTION, FWPS_STREAM_ACTION, usize, u32) {
        let (action, required) = match self {
            Self::NeedMore(bytes) => (FWPS_STREAM_ACTION::NEED_MORE_DATA, bytes as u32),
            Self::Allow => (FWPS_STREAM_ACTION::ALLOW_CONNECTION, 0),
            _ => (FWPS_STREAM_ACTION::DROP_CONNECTION, 0),
        };
        (FWP_ACTION::NONE, action, 0, required)
    }
}

/// The answer at a packet layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendOutcome {
    /// The list is sent.
    Permit,
    /// The list is dropped: an audit event, an error up.
    Block,
    /// The list is dropped in silence, since it is sent in another form.
    Absorb,
}

impl SendOutcome {
    /// Writes the answer, as far as the callouts before left the right to: without it a PERMIT stays theirs, but BLOCK is
    /// a veto that always counts.
    pub(crate) fn write(self, filter: FWPS_FILTER_FLAG, out: &mut FWPS_CLASSIFY_OUT0) {
        let may_write = out.rights.has(FWPS_RIGHT::ACTION_WRITE);
        match self {
            Self::Permit if may_write => {
                out.actionType = FWP_ACTION::PERMIT;
                if filter.has(FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT) {
                    out.rights = out.rights.without(FWPS_RIGHT::ACTION_WRITE);
                }
            }
            Self::Permit => {}
            Self::Block | Self::Absorb => {
                out.actionType = FWP_ACTION::BLOCK;
                out.rights = out.rights.without(FWPS_RIGHT::ACTION_WRITE);
                if self == Self::Absorb {
                    out.flags |= FWPS_CLASSIFY_OUT_FLAG::ABSORB;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::ptr;

    use super::*;

    fn classify_out(action: FWP_ACTION, rights: FWPS_RIGHT) -> FWPS_CLASSIFY_OUT0 {
        FWPS_CLASSIFY_OUT0 {
            actionType: action,
            outContext: 11,
            filterId: 12,
            rights,
            flags: FWPS_CLASSIFY_OUT_FLAG::NONE,
            reserved: 13,
        }
    }

    #[test]
    fn no_leftover_survives_a_stream_answer() {
        for outcome in [
            StreamOutcome::Permit(7),
            StreamOutcome::Block(7),
            StreamOutcome::NeedMore(7),
            StreamOutcome::Drop,
            StreamOutcome::Allow,
        ] {
            let mut packet = FWPS_STREAM_CALLOUT_IO_PACKET0 {
                streamData: ptr::null_mut(),
                missedBytes: 0,
                countBytesRequired: 99,
                countBytesEnforced: 99,
                streamAction: FWPS_STREAM_ACTION::DEFER,
            };
            let mut out = classify_out(FWP_ACTION::CONTINUE, FWPS_RIGHT::ACTION_WRITE);
            outcome.write(&mut packet, &mut out);
            assert_eq!(packet.streamAction == FWPS_STREAM_ACTION::NONE, out.actionType != FWP_ACTION::NONE);
            assert!(packet.countBytesRequired != 99 && packet.countBytesEnforced != 99);
            assert_eq!(packet.countBytesRequired != 0, matches!(outcome, StreamOutcome::NeedMore(_)));
            assert_eq!(out.rights, FWPS_RIGHT::ACTION_WRITE);
        }
    }

    #[test]
    fn without_the_right_to_write_only_a_veto_counts() {
        let mut out = classify_out(FWP_ACTION::PERMIT, FWPS_RIGHT::NONE);
        SendOutcome::Permit.write(FWPS_FILTER_FLAG::NONE, &mut out);
        assert_eq!(out.actionType, FWP_ACTION::PERMIT);
        SendOutcome::Block.write(FWPS_FILTER_FLAG::NONE, &mut out);
        assert_eq!((out.actionType, out.rights), (FWP_ACTION::BLOCK, FWPS_RIGHT::NONE));
    }

    #[test]
    fn permit_is_hard_only_when_the_filter_says_so() {
        for (flags, rights) in [
            (FWPS_FILTER_FLAG::NONE, FWPS_RIGHT::ACTION_WRITE),
            (FWPS_FILTER_FLAG::CLEAR_ACTION_RIGHT, FWPS_RIGHT::NONE),
        ] {
            let mut out = classify_out(FWP_ACTION::CONTINUE, FWPS_RIGHT::ACTION_WRITE);
            SendOutcome::Permit.write(flags, &mut out);
            assert_eq!((out.actionType, out.rights), (FWP_ACTION::PERMIT, rights));
        }
    }

    #[test]
    fn a_packet_sent_in_another_form_is_absorbed_and_a_plain_block_is_seen() {
        for (outcome, flags) in [
            (SendOutcome::Absorb, FWPS_CLASSIFY_OUT_FLAG::ABSORB),
            (SendOutcome::Block, FWPS_CLASSIFY_OUT_FLAG::NONE),
        ] {
            let mut out = classify_out(FWP_ACTION::CONTINUE, FWPS_RIGHT::ACTION_WRITE);
            outcome.write(FWPS_FILTER_FLAG::NONE, &mut out);
            assert_eq!((out.actionType, out.rights, out.flags), (FWP_ACTION::BLOCK, FWPS_RIGHT::NONE, flags));
            assert_eq!((out.outContext, out.filterId, out.reserved), (11, 12, 13));
        }
    }
}
