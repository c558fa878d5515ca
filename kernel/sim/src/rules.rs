//! The platform's contract, line by line: what is checked, and what the simulator shows.
//!
//! An id never changes: `S`, section of the contract, place in it. 3.1 to 3.9 are about functions (parameters, ownership, IRQL),
//! 4.1 to 4.4 about streams, 4.5 about sends, 4.6 about the answers of packet layers, 4.7 about packet memory, 4.8 about
//! checksums, 4.9 and 4.10 about what else travels, 4.11 about IRQL and time, 4.12 about unloading. Every line is here: an
//! obligation of a callout is checked, and a test in `tests/rules/` breaks it and sees the check fire; a description of the
//! engine is shown by the simulator, and a test sees it; the few lines that are neither say why. `docs/rules.md` is made from
//! this table.

use std::fmt;
use std::panic::Location;

/// How a line of the contract is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The simulator notices a callout that breaks it.
    Checked,
    /// The simulator behaves so: a callout that counts on anything else fails its tests.
    Shown,
    /// Who breaks it breaks this rule, which is checked.
    Like(&'static str),
    /// A simulator can't hold anyone to it, for this reason.
    Unchecked(&'static str),
}

/// One line of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// `S`, section, place.
    pub id: &'static str,
    /// What a callout must do or must not do, or what the engine does.
    pub text: &'static str,
    /// How it is held.
    pub kind: Kind,
}

/// One rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Id of the rule.
    pub rule: &'static str,
    /// What happened.
    pub text: String,
    /// Where the simulator noticed it.
    pub check: &'static Location<'static>,
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

macro_rules! kind {
    () => {
        Kind::Checked
    };
    (shown) => {
        Kind::Shown
    };
    (like $other:literal) => {
        Kind::Like($other)
    };
    (unchecked $why:literal) => {
        Kind::Unchecked($why)
    };
}

macro_rules! rules {
    ($($name:ident $id:literal $text:literal $($kind:ident $($why:literal)?)?;)*) => {
        $(#[doc = $text] pub const $name: Rule =
            Rule { id: $id, text: $text, kind: kind!($($kind $($why)?)?) };)*

        /// Every line, in the contract's order.
        pub const ALL: &[Rule] = &[$($name,)*];
    };
}

rules! {
    IMPORTS "S3.0-01" "Fwps* and Fwpm* are imported from fwpkclnt.sys, Ndis* from ndis.sys, the rest from ntoskrnl.exe" unchecked "the linker answers the names here; fwps-sys says the images";

    STATUSES "S3.1-01" "statuses have their published numbers; OBJECT_NAME_EXISTS passes NT_SUCCESS, DEVICE_BUSY does not" shown;

    REGISTERED_ONCE "S3.2-01" "a callout key is registered once; a second time is FWP_ALREADY_EXISTS" shown;
    UNREGISTER_STATUS "S3.2-02" "unregistering answers DEVICE_BUSY while flow contexts are left, FWP_IN_USE while a classify runs, FWP_CALLOUT_NOT_FOUND for what is none" shown;
    HANDLE_KIND "S3.2-03" "an injection handle is made for an address family, and used for what it was made for";
    DESTROY_WAITS "S3.2-04" "FwpsInjectionHandleDestroy0 returns when everything injected through the handle has completed" shown;
    QUERY_PACKETS "S3.2-05" "the injection state is asked of packets, never of a stream's data";

    CLONE_SHARES "S3.3-01" "a clone has descriptors of its own over its original's pages, from its current start on, and holds its original" shown;
    WRONG_FREE "S3.3-02" "a clone is freed with FwpsFreeCloneNetBufferList0, a built NBL with FwpsFreeNetBufferList0";
    DEEP_CLONE "S3.3-03" "FwpsAllocateDeepCloneNetBufferList0 exists on very recent Windows only" unchecked "fwps-sys does not declare it, so no callout calls it";
    BAD_NBL_PARAMETERS "S3.3-04" "context sizes are multiples of 16, and the MDL chain holds dataOffset + dataLength bytes";
    FREED_NBL "S3.3-05" "an NBL is freed once, and not used afterwards";
    REFERENCE_HOLDS "S3.3-06" "a reference keeps what was shown alive behind classifyFn, until it is given back" shown;
    LIST_SECURITY "S3.3-07" "FwpsGetPacketListSecurityInformation0 says what IPsec does to a list" unchecked "there is no IPsec in the simulator, and a callout that asks does not link";
    IP_HEADER "S3.3-08" "FwpsConstructIpHeaderForTransportPacket0 builds an IP header and completes checksums" unchecked "the simulator has no IP layer, and a callout that calls it does not link";

    NBL_IN_FLIGHT "S3.4-01" "an injected NBL belongs to its completion: it is not freed or injected again before";
    SEND_ASYNC_0 "S3.4-02" "FwpsInjectTransportSendAsync0 takes parameters without a raw header" unchecked "fwps-sys does not declare it, so no callout calls it";
    INJECT_RECEIVE "S3.4-03" "FwpsInjectTransportReceiveAsync0 injects inbound" unchecked "the simulator has no inbound packet layers, and a callout that calls it does not link";

    STREAM_STATUS "S3.5-01" "a refused stream injection says why: FWP_INVALID_PARAMETER for flags that don't fit, FWP_NULL_POINTER without completionFn, FWP_INJECT_HANDLE_CLOSING" shown;
    STREAM_CLONES "S3.5-02" "FwpsCloneStreamData0 gives a chain trimmed to dataLength, of several NBLs where several were shown, and an empty NBL for a FIN" shown;
    BAD_DISCARD "S3.5-03" "FwpsDiscardClonedStreamData0 takes only chains of FwpsCloneStreamData0 that were not injected";
    COPIES_BYTES "S3.5-04" "FwpsCopyStreamDataToBuffer0 copies what was indicated from its start, and says how much" shown;
    CONTINUE_FLAGS "S3.5-05" "FwpsStreamContinue0 is given the flags of the indication that was deferred";
    FLOW_ABORT "S3.5-06" "FwpsFlowAbort0 resets the connection, from any thread" shown;

    ASSOCIATE "S3.6-01" "a context is not 0, its callout has a flowDeleteFn, and one that is there already stays: OBJECT_NAME_EXISTS" shown;
    REMOVE_STATUS "S3.6-02" "removing a context answers SUCCESS when flowDeleteFn has run, PENDING when it waits for a classify, UNSUCCESSFUL without context" shown;

    MANAGEMENT "S3.7-01" "Fwpm* functions run at PASSIVE_LEVEL and need the base filtering engine running" shown;
    DELETE_ORDER "S3.7-02" "filters go first, then callouts, sublayer and provider" shown;

    NULL_NDIS_HANDLE "S3.8-01" "pools of NBLs are made for an NDIS object, or for none" shown;
    NB_POOLS "S3.8-02" "pools of NBs and generic objects are made and freed like pools of NBLs" shown;
    BAD_DATA_BUFFER "S3.8-03" "NdisGetDataBuffer is asked for at least one byte, with a power of two as alignment";
    RETREAT "S3.8-04" "a retreat moves the start of an NB back where there is room, and fails where there is none" shown;
    ADVANCE "S3.8-05" "an advance undoes a retreat of the same delta" shown;
    LIST_STARTS "S3.8-06" "the list forms of retreat and advance move every NB of the list, or none" shown;
    COPY_NB "S3.8-07" "NdisCopyFromNetBufferToNetBuffer copies between NBs at any offsets, and says how much" shown;

    BAD_MDL "S3.9-01" "an MDL is built before it is used, and a partial MDL stays inside its source and its own length";
    FREED_MDL "S3.9-02" "an MDL is freed once, by who allocated it, and not used afterwards";
    MAPPING "S3.9-03" "an MDL that is not mapped has no address before MmMapLockedPagesSpecifyCache, which may fail" shown;
    POOL_MEMORY "S3.9-04" "ExAllocatePool2 gives zeroed nonpaged memory or NULL" unchecked "memory is the allocator's of the test process; callouts make their own fail";
    WORK_ITEM "S3.9-05" "a work item is not queued twice, nor freed while it is queued";
    SPIN_LOCKS "S3.9-06" "KeAcquireSpinLockRaiseToDpc and KeReleaseSpinLock exclude threads from each other" unchecked "who answers them (the doubles of the lab) tells the simulator who holds one";

    STREAM_PARAMETERS "S4.1-01" "stream injection: flags 0, a stream layer, a flow that was seen there, the callout's own id";
    ONE_DIRECTION "S4.1-02" "stream injection carries SEND or RECEIVE, never flags of both directions, never none";
    DISCONNECT_NEEDS_DIRECTION "S4.1-03" "a DISCONNECT flag is given together with SEND or RECEIVE of its direction";
    COMPLETION_REQUIRED "S4.1-04" "completionFn is never NULL";
    NULL_NBL "S4.1-05" "the NBL is NULL only with a DISCONNECT flag";
    CHAIN_COMPLETES "S4.1-06" "a chain completes once for each NBL, each time with the same context" shown;
    COMPLETION_FREES "S4.1-07" "each completion frees its own NBL, once";
    FAILURE_FREES "S4.1-08" "after a failed injection the caller frees the chain";
    HANDS_OFF "S4.1-09" "after a successful injection the NBL and its bytes are not touched before the completion";
    LOST_BYTES "S4.1-10" "a flow is aborted when the completion of its injection reports an error: bytes of it are lost";
    DATA_LENGTH "S4.1-11" "dataLength is the number of bytes that the chain describes";
    SHOWN_BELOW "S4.1-12" "injected data is not shown to its callout again, but to those of lighter sublayers" shown;
    LOCK_INJECT "S4.1-13" "no spin lock is held across an injection, which may show the data to others at once";
    AFTER_ABORT "S4.1-14" "nothing is injected into a direction that was reset";
    KEEP_FLAGS "S4.1-15" "PUSH, EXPEDITED and NODELAY of the indication are carried over when its clone is injected";

    OWN_FLOW_ONLY "S4.2-01" "inside classifyFn only the flow that is being classified is injected into";
    WHILE_DEFERRED "S4.2-02" "outside classifyFn an inbound stream may be injected into while its callout defers it" shown;
    AFTER_PENDED_FIN "S4.2-03" "outside classifyFn a stream may be injected into after its FIN was pended" shown;
    INJECT_OUTSIDE "S4.2-04" "outside classifyFn a stream is injected into only while deferred, while its FIN is pended, or after cloning and blocking all that was shown";
    CLONE_BLOCKS "S4.2-05" "a clone of what is shown is injected in place of it: the indication is blocked";
    STICKY "S4.2-06" "while cloned data is unsent, everything shown in that direction is cloned and blocked too";
    IN_ORDER "S4.2-07" "cloned data is injected in the order in which it was shown";
    CONTINUE_OUTSIDE "S4.2-08" "FwpsStreamContinue0 is called outside classifyFn, for a deferred inbound stream";
    REMOVED_BUSY "S4.2-09" "a stream filter or callout is not removed while its flows wait for data, are deferred or have cloned data queued";
    ONE_AT_A_TIME "S4.2-10" "classifyFn is not entered twice at once for a flow, but for different flows" shown;

    SHOWN_AGAIN "S4.3-01" "a decision covers countBytesEnforced bytes, and the rest is shown again at once" shown;
    ENFORCED_ZERO "S4.3-02" "countBytesEnforced of 0 is the whole indication" shown;
    ENFORCED "S4.3-03" "countBytesEnforced is at most dataLength";
    ACTION_SET "S4.3-04" "a stream callout always sets PERMIT or BLOCK when it has no stream action";
    STREAM_ABSORB "S4.3-05" "BLOCK takes bytes out of a stream, with ABSORB and without" shown;
    ACTION_NONE "S4.3-06" "with a stream action the action is NONE or CONTINUE, and is ignored";
    STALE_OUTPUT "S4.3-07" "streamAction and countBytesRequired are reset for an ordinary permit or block";
    NEED_NOTHING "S4.3-08" "NEED_MORE_DATA asks for at least one byte";
    ONE_LONGER "S4.3-09" "after NEED_MORE_DATA old and new bytes are shown as one longer indication" shown;
    BUFFER_LIMIT "S4.3-10" "with BUFFER_LIMIT_REACHED the whole indication is taken";
    NO_MORE "S4.3-11" "with NO_MORE_DATA there is no NEED_MORE_DATA";
    NEED_AT_END "S4.3-12" "an indication of DISCONNECT or ABORT is not answered with NEED_MORE_DATA";
    DEFER "S4.3-13" "only inbound data is deferred, and each DEFER is continued";
    ALLOW_DRAINED "S4.3-14" "ALLOW_CONNECTION is said when nothing of the flow is queued";
    DROP_RIGHT "S4.3-15" "DROP_CONNECTION is given for terminating and unknown filters, not for inspection";
    MISSED_BYTES "S4.3-16" "missedBytes counts what a heavier callout took in front of an indication" shown;
    CLONE_CHAIN "S4.3-17" "bytes come cut anywhere: across NBLs, MDLs and indications" shown;

    AFTER_FIN "S4.4-01" "the FIN is the last item of its direction";
    HALF_CLOSED "S4.4-02" "a FIN ends one direction; the other goes on" shown;
    FIN_WAITS "S4.4-03" "the FIN is pended while cloned data is queued, and injected last";
    FIN_PERMITTED "S4.4-04" "inline, a permitted FIN comes behind what was injected before it" shown;
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
    ENDPOINT_SOURCE "S4.5-09" "endpoint handles come from the metadata of outbound transport, outbound datagram-data and ICMP error layers";
    RAW_TEST "S4.5-10" "a raw socket sends where the size of the IP header is there and not 0" shown;
    RAW_HEADER "S4.5-11" "what a raw socket sends is injected with its IP header, and nothing else is";
    RAW_OFFSET "S4.5-12" "at outbound transport a raw send begins with its IP header" shown;
    SEVERAL_PACKETS "S4.5-13" "a list may have several packets" shown;
    SHORT_PACKETS "S4.5-14" "a packet may have no payload, or less than a header" shown;
    OWN_INJECTION "S4.5-15" "a callout permits what it injected itself, and does not inject it again";
    PING_PONG "S4.5-16" "what another product injected is not injected again for ever";
    SAME_HANDLE "S4.5-17" "an injection from classify goes through the handle that was asked about the packet";
    TOO_LONG "S4.5-18" "a completion reports what went wrong later, as INVALID_BUFFER_SIZE for a packet that is too long" shown;
    INJECTION_CONTEXT "S4.5-19" "injectionContext comes back from the query" shown;

    RIGHTS "S4.6-01" "without the right to write the action is not changed, except from PERMIT to BLOCK, and nothing is injected in its place";
    BLOCK_CLEARS "S4.6-02" "BLOCK clears the right to write";
    PERMIT_CLEARS "S4.6-03" "PERMIT clears the right to write exactly when the filter has CLEAR_ACTION_RIGHT";
    ABSORB_AND_INJECT "S4.6-04" "a packet that is injected in another form is blocked with ABSORB and without the right to write";
    ABSORB_ONLY "S4.6-05" "a plain block does not set ABSORB";
    MODIFY_ABSORBS "S4.6-06" "a packet referenced with intendToModify is blocked with ABSORB and without the right to write";
    CONTINUES "S4.6-07" "CONTINUE asks the next filter of the sublayer, PERMIT and BLOCK end it" shown;
    SUBLAYERS "S4.6-08" "sublayers are asked from the heaviest down; a hard permit is overruled by a veto only" shown;
    TERMINATING "S4.6-09" "the callout of a terminating filter permits or blocks; what an inspection says is ignored";
    UNREGISTERED "S4.6-10" "a filter without its callout blocks, unless it inspects or has PERMIT_IF_CALLOUT_UNREGISTERED" shown;
    NOTIFY_ONLY "S4.6-11" "at ALE_FLOW_ESTABLISHED and ALE_ENDPOINT_CLOSURE a callout only continues";
    READ_ONLY_OUT "S4.6-12" "of classifyOut only action, rights and flags are written";
    MID_LIFE "S4.6-13" "flows may be met in the middle of their life" shown;

    NOTHING_SHOWN "S4.7-01" "layerData may be NULL" shown;
    READ_ONLY_DATA "S4.7-02" "bytes that were shown are not written, neither directly nor through a clone";
    BUILT_AND_FREED "S4.7-03" "changed bytes go out in memory of the callout's own: allocate, copy, describe, inject, and free in the completion" shown;
    FREED_IS_GONE "S4.7-04" "an NBL that was freed says nothing: what is freed with it is known from the context" shown;
    POOL "S4.7-05" "NBLs are built from a pool with fAllocateNetBuffer and no data of its own";
    SHORT_CHAIN "S4.7-06" "an NB's MDL chain holds as many bytes as the NB says";
    UNREADABLE "S4.7-07" "the address of bytes may be unknowable: NULL from NdisGetDataBuffer and from a mapping" shown;
    OWN_LENGTH "S4.7-08" "DataLength counts its own packet of a list" shown;
    KEEP_REFERENCE "S4.7-09" "what was shown is used after classifyFn only under a reference or through a clone, and each reference is given back once";
    HELD_LONG "S4.7-10" "references and clones are not held for long" unchecked "nobody says how long: a simulator that never lets go finds no deadlock, a leak is found";
    IDLE_CLONE "S4.7-11" "a clone is made to be injected, and freed";
    BALANCE "S4.7-12" "a retreat is balanced by an advance, before classifyFn returns or the clone is freed";
    INHERITED "S4.7-13" "a new NBL has no offload hints; a clone may have its original's or none" shown;

    NO_HEADERS "S4.8-01" "stream data has no headers and no checksums" shown;
    PARTIAL_SUM "S4.8-02" "with a checksum bit set the header has the sum of the pseudo-header that fits the packet";
    CLONE_SUM "S4.8-03" "an injected clone without checksum bits has the full, right checksum that its addresses need";
    FULL_SUM "S4.8-04" "an injected packet without checksum bits has a right length and a full, right checksum";
    UDP6_ZERO "S4.8-05" "UDP over IPv6 has a checksum";
    PSEUDO_SOURCE "S4.8-06" "the pseudo-header has the layer's local address as its source" like "S4.8-04";
    SEGMENTATION "S4.8-07" "what hardware would have cut is injected with the same instruction, or in pieces";
    IP_SUM "S4.8-08" "the IP header is built below the transport layers, its checksum with it" shown;

    OFFLOADS_OFF "S4.9-01" "without ALLOW_OFFLOAD, ALLOW_RSC, ALLOW_USO and ALLOW_URO the stack turns these off for what filters match" unchecked "a matter of speed: data is right either way, and the simulator shows segmented lists whatever a callout says";
    L2_BATCH "S4.9-02" "no callout asks for ALLOW_L2_BATCH_CLASSIFY";
    CONDITIONAL "S4.9-03" "a callout with CONDITIONAL_ON_FLOW is shown only flows that have its context at that layer" shown;
    OLDER_FLOWS "S4.9-04" "flows older than the filter are not told of, and shown only with ALLOW_MID_STREAM_INSPECTION" shown;

    CLEAR_DATA "S4.10-01" "stream, datagram and transport layers see data before encryption and after decryption" unchecked "there is no IPsec in the simulator";
    IPSEC_PASSES "S4.10-02" "a transport callout beside IPsec permits what ALE still has to classify and skips tunnels" unchecked "there is no IPsec in the simulator";
    IPSEC_MATCH "S4.10-03" "an injected clone keeps the IPsec policy match of its original" unchecked "there is no IPsec in the simulator";
    LOOPBACK "S4.10-04" "loopback data says so in its flags" shown;

    PASSIVE "S4.11-01" "functions for PASSIVE_LEVEL are not called from classifyFn, completions or flowDeleteFn";
    REFUSED_FILTER "S4.11-02" "a filter whose notifyFn refuses it is not added" shown;
    LOCK_CLONE "S4.11-03" "no spin lock is held across a clone";
    LONG_LOOPS "S4.11-04" "work at DISPATCH_LEVEL is bounded" unchecked "there is no number in the contract; the verifier proves a bound for programs, and the bench measures the rest";
    STACK "S4.11-05" "frames are small: the kernel's stack is about 24 KiB for all nested callouts" unchecked "a matter of the callout's machine code: a painted stack measures it (cargo xtask test engine)";
    REGISTERS "S4.11-06" "kernel code uses no AVX and no x87 without saving them" unchecked "a matter of the driver's target features";

    STOPS_FIRST "S4.12-01" "when unloading begins a callout permits, and nothing new is held back or injected" like "S4.12-02";
    QUEUES_FIRST "S4.12-02" "before injection handles are destroyed no stream is held back any more";
    CONTEXTS_LEFT "S4.12-03" "every flow context is removed before unload";
    HANDLE_LIFE "S4.12-04" "injection handles are destroyed once, before unload, and not used afterwards";
    CALLOUT_LEFT "S4.12-05" "work items are drained and callouts unregistered before unload";
    POOL_LEFT "S4.12-06" "pools and NDIS objects are freed, once, when nothing of them is left";
    EITHER_ORDER "S4.12-07" "callouts may be unregistered before injection handles are destroyed, or after" shown;
    DELETED_ONCE "S4.12-08" "flowDeleteFn is called once for each context, however its flow ends" shown;
    REMOVE_RACE "S4.12-09" "removing a context of a flow that has ended is UNSUCCESSFUL: flowDeleteFn has had it" shown;
    LOCK_REMOVE "S4.12-10" "no spin lock is held across FwpsFlowRemoveContext0, which calls flowDeleteFn";
    DYNAMIC_SESSION "S4.12-11" "closing a dynamic session removes its objects; others stay and block without their callout" shown;
    FAILED_START "S4.12-12" "a start that fails leaves no callout registered" like "S4.12-05";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section and place of an id.
    fn place(id: &str) -> Option<(u32, u32, u32)> {
        let (section, at) = id.strip_prefix('S')?.split_once('-')?;
        let (part, section) = section.split_once('.')?;
        Some((part.parse().ok()?, section.parse().ok()?, at.parse().ok()?))
    }

    #[test]
    fn rules_are_numbered_as_the_contract_is_without_gaps() {
        let places: Vec<_> = ALL.iter().map(|rule| place(rule.id).expect(rule.id)).collect();
        for pair in places.windows(2) {
            let ((part, section, at), next) = (pair[0], pair[1]);
            let expected = [(part, section, at + 1), (part, section + 1, 1), (part + 1, 1, 1)];
            assert!(expected.contains(&next), "{next:?} behind {:?}", pair[0]);
        }
    }

    #[test]
    fn what_is_like_another_rule_names_one_that_is_checked() {
        for rule in ALL {
            if let Kind::Like(other) = rule.kind {
                let other = ALL.iter().find(|rule| rule.id == other).expect("a rule");
                assert_eq!(other.kind, Kind::Checked, "{}", rule.id);
            }
        }
    }
}
