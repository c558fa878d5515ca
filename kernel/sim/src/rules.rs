//! The rules that are checked, by id and in words.
//!
//! An id never changes: 3.x is about functions (parameters, ownership, IRQL), 4.1 to 4.4 about streams, 4.5 sends, 4.6 the
//! answers of packet layers, 4.7 packet memory, 4.8 checksums, 4.11 IRQL, 4.12 unloading. A gap in the numbers is a rule that
//! is not checked. Each rule here has a test in `tests/` that breaks it.

use std::fmt;

/// One rule of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// `S`, section, place.
    pub id: &'static str,
    /// What a callout must do or must not do.
    pub text: &'static str,
}

/// One rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Id of the rule.
    pub rule: &'static str,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)?;
        match ALL.iter().find(|rule| rule.id == self.rule) {
            Some(rule) => write!(f, " (rule: {})", rule.text),
            None => Ok(()),
        }
    }
}

macro_rules! rules {
    ($($name:ident $id:literal $text:literal;)*) => {
        $(#[doc = $text] pub const $name: Rule = Rule { id: $id, text: $text };)*

        /// Every checked rule.
        pub const ALL: &[Rule] = &[$($name,)*];
    };
}

rules! {
    WRONG_FREE "S3.3-02" "a clone is freed with FwpsFreeCloneNetBufferList0, a built NBL with FwpsFreeNetBufferList0";
    BAD_NBL_PARAMETERS "S3.3-04" "context sizes are multiples of 16, and the MDL chain holds dataOffset + dataLength bytes";
    FREED_NBL "S3.3-05" "an NBL is freed once, and not used afterwards";
    NBL_IN_FLIGHT "S3.4-01" "an injected NBL belongs to its completion: it is not freed or injected again before";
    BAD_DISCARD "S3.5-03" "FwpsDiscardClonedStreamData0 takes only chains of FwpsCloneStreamData0 that were not injected";
    BAD_DATA_BUFFER "S3.8-03" "NdisGetDataBuffer is asked for at least one byte, with a power of two as alignment";
    BAD_MDL "S3.9-01" "an MDL is built before it is used, and a partial MDL stays inside its source and its own length";
    FREED_MDL "S3.9-02" "an MDL is freed once, by who allocated it, and not used afterwards";
    WORK_ITEM "S3.9-05" "a work item is not queued twice, nor freed while it is queued";
    STREAM_PARAMETERS "S4.1-01" "stream injection: flags 0, a stream layer, a flow that was seen there, the callout's own id";
    ONE_DIRECTION "S4.1-02" "stream injection carries SEND or RECEIVE, never flags of both directions, never none";
    DISCONNECT_NEEDS_DIRECTION "S4.1-03" "a DISCONNECT flag is given together with SEND or RECEIVE of its direction";
    COMPLETION_REQUIRED "S4.1-04" "completionFn is never NULL";
    NULL_NBL "S4.1-05" "the NBL is NULL only with a DISCONNECT flag";
    COMPLETION_FREES "S4.1-07" "each completion frees its own NBL, once";
    FAILURE_FREES "S4.1-08" "after a failed injection the caller frees the chain";
    HANDS_OFF "S4.1-09" "after a successful injection the NBL and its bytes are not touched before the completion";
    DATA_LENGTH "S4.1-11" "dataLength is the number of bytes that the chain describes";
    AFTER_ABORT "S4.1-14" "nothing is injected into a direction that was reset";
    KEEP_FLAGS "S4.1-15" "PUSH, EXPEDITED and NODELAY of the indication are carried over when its clone is injected";
    OWN_FLOW_ONLY "S4.2-01" "inside classifyFn only the flow that is being classified is injected into";
    INJECT_OUTSIDE "S4.2-04" "outside classifyFn a stream is injected into only while deferred, while its FIN is pended, or after cloning and blocking all that was shown";
    CLONE_BLOCKS "S4.2-05" "a clone of what is shown is injected in place of it: the indication is blocked";
    STICKY "S4.2-06" "while cloned data is unsent, everything shown in that direction is cloned and blocked too";
    IN_ORDER "S4.2-07" "cloned data is injected in the order in which it was shown";
    CONTINUE_OUTSIDE "S4.2-08" "FwpsStreamContinue0 is called outside classifyFn, for a deferred inbound stream";
    REMOVED_BUSY "S4.2-09" "a stream filter or callout is not removed while its flows wait for data, are deferred or have cloned data queued";
    ENFORCED "S4.3-03" "countBytesEnforced is at most dataLength";
    ACTION_SET "S4.3-04" "a stream callout always sets PERMIT or BLOCK when it has no stream action";
    ACTION_NONE "S4.3-06" "with a stream action the action is NONE";
    STALE_OUTPUT "S4.3-07" "streamAction and countBytesRequired are reset for an ordinary permit or block";
    NEED_NOTHING "S4.3-08" "NEED_MORE_DATA asks for at least one byte";
    BUFFER_LIMIT "S4.3-10" "with BUFFER_LIMIT_REACHED the whole indication is taken";
    NO_MORE "S4.3-11" "with NO_MORE_DATA there is no NEED_MORE_DATA";
    NEED_AT_END "S4.3-12" "an indication of DISCONNECT or ABORT is not answered with NEED_MORE_DATA";
    DEFER "S4.3-13" "only inbound data is deferred, and each DEFER is continued";
    DROP_RIGHT "S4.3-15" "DROP_CONNECTION is given for terminating and unknown filters, not for inspection";
    AFTER_FIN "S4.4-01" "the FIN is the last item of its direction";
    FIN_WAITS "S4.4-03" "the FIN is pended while cloned data is queued, and injected last";
    NO_FALSE_FIN "S4.4-05" "a FIN is injected only where one was shown and pended";
    RESET_PASSES "S4.4-06" "a reset is permitted";
    DEAD_FLOW "S4.4-07" "nothing is injected into a flow that has ended";
    TCP_OUTSIDE "S4.5-01" "TCP is never injected from inside a classifyFn of a transport layer";
    SEND_PARAMETERS "S4.5-02" "transport injection: flags 0, the packet's address family, sendArgs unless the NBL begins with an IP header";
    NETWORK_ORDER "S4.5-03" "remoteAddress is in network order, in memory of the callout's own";
    SEND_ARGS_LIVE "S4.5-04" "sendArgs and all it points to stay unchanged until the completion";
    CONTROL_DATA "S4.5-05" "controlData is a copy, given only when there was some";
    SCOPE "S4.5-06" "remoteScopeId is copied from the metadata when its bit is set, else 0";
    COMPARTMENT "S4.5-07" "compartmentId is that of the metadata when its bit is set, else UNSPECIFIED";
    ENDPOINT "S4.5-08" "endpointHandle is that of the metadata, of an endpoint that is open; a packet without one is permitted or blocked, not injected";
    OWN_INJECTION "S4.5-15" "a callout permits what it injected itself, and does not inject it again";
    RIGHTS "S4.6-01" "without the right to write the action is not changed, except from PERMIT to BLOCK, and nothing is injected in its place";
    BLOCK_CLEARS "S4.6-02" "BLOCK clears the right to write";
    PERMIT_CLEARS "S4.6-03" "PERMIT clears the right to write exactly when the filter has CLEAR_ACTION_RIGHT";
    ABSORB_AND_INJECT "S4.6-04" "a packet that is injected in another form is blocked with ABSORB and without the right to write";
    ABSORB_ONLY "S4.6-05" "a plain block does not set ABSORB";
    MODIFY_ABSORBS "S4.6-06" "a packet referenced with intendToModify is blocked with ABSORB and without the right to write";
    TERMINATING "S4.6-09" "the callout of a terminating filter permits or blocks";
    NOTIFY_ONLY "S4.6-11" "at ALE_FLOW_ESTABLISHED and ALE_ENDPOINT_CLOSURE a callout only continues";
    READ_ONLY_OUT "S4.6-12" "of classifyOut only action, rights and flags are written";
    READ_ONLY_DATA "S4.7-02" "bytes that were shown are not written, neither directly nor through a clone";
    POOL "S4.7-05" "NBLs are built from a pool with fAllocateNetBuffer and no data of its own";
    SHORT_CHAIN "S4.7-06" "an NB's MDL chain holds as many bytes as the NB says";
    KEEP_REFERENCE "S4.7-09" "what was shown is used after classifyFn only under a reference or through a clone, and each reference is given back once";
    IDLE_CLONE "S4.7-11" "a clone is made to be injected, and freed";
    BALANCE "S4.7-12" "a retreat is balanced by an advance, before classifyFn returns or the clone is freed";
    PARTIAL_SUM "S4.8-02" "with a checksum bit set the header has the sum of the pseudo-header that fits the packet";
    FULL_SUM "S4.8-04" "an injected packet without checksum bits has a right length and a full, right checksum";
    UDP6_ZERO "S4.8-05" "UDP over IPv6 has a checksum";
    PASSIVE "S4.11-01" "functions for PASSIVE_LEVEL are not called from classifyFn, completions or flowDeleteFn";
    CONTEXTS_LEFT "S4.12-03" "every flow context is removed before unload";
    HANDLE_LIFE "S4.12-04" "injection handles are destroyed once, before unload, and not used afterwards";
    CALLOUT_LEFT "S4.12-05" "work items are drained and callouts unregistered before unload";
    POOL_LEFT "S4.12-06" "pools and NDIS objects are freed, once, when nothing of them is left";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rules_share_an_id() {
        let mut ids: Vec<_> = ALL.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
