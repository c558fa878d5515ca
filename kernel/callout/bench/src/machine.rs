//! What is classified, by whom: the callouts with programs linked, or the callout by hand.

use std::ffi::c_void;
use std::ptr::null_mut;

use anyhow::{Context, Result, anyhow};
use fwps_sys::*;
use tidegate_abi::control::{
    LinkAttach, Loaded, Name, OnError, Operation, ProgramLoad, parse_reply, write_request,
};
use tidegate_abi::limits::DEFAULT_BUDGET;
use tidegate_abi::{Grants, Hook, SendContext, StreamContext, Verdict};
use tidegate_callout::{Callouts, NOTICES, Objects, Options, key};
use tidegate_runtime::Runtime;
use tidegate_vm::{Cause, Fault, Host, Memory, Shared, Stack};

use crate::hand::{self, Policies, Shown, Wish};
use crate::{asm, null, os};

/// What the last link does; the links in front of it have no opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Permit,
    Block,
    Inspect,
    SameLength,
    Grow,
    Send,
}

impl Case {
    pub(crate) const ALL: [Self; 6] =
        [Self::Permit, Self::Block, Self::Inspect, Self::SameLength, Self::Grow, Self::Send];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Permit => "permit-all",
            Self::Block => "block",
            Self::Inspect => "inspect 1460 B",
            Self::SameLength => "same-length replace",
            Self::Grow => "grow by 20 B",
            Self::Send => "transport clone-modify-inject",
        }
    }

    fn hook(self) -> Hook {
        if self == Self::Send { Hook::OutboundTransportV4 } else { Hook::StreamV4 }
    }

    /// Bytecode of the last link.
    fn program(self) -> Vec<u8> {
        match self {
            Self::Permit => asm::verdict(Verdict::Permit),
            Self::Block => asm::verdict(Verdict::Block),
            Self::Inspect => asm::search_and_load(1, 0),
            Self::SameLength => asm::edits(&[(AT as i32, SAME.len() as i32, SAME)], Verdict::Permit),
            Self::Grow => asm::edits(&[(AT as i32, 0, MORE)], Verdict::Permit),
            Self::Send => asm::edits(&[(AT as i32, SAME.len() as i32, SAME)], Verdict::Permit),
        }
    }

    /// The last policy of the callout by hand.
    fn policy(self) -> fn(&Shown<'_>) -> Wish {
        match self {
            Self::Permit => |_| Wish::Permit,
            Self::Block => |_| Wish::Block,
            Self::Inspect => |shown| match memchr::memmem::find(shown.bytes, b"#") {
                None => Wish::Permit,
                Some(_) => Wish::Block,
            },
            Self::SameLength | Self::Send => |_| Wish::Replace(AT, SAME.len(), SAME),
            Self::Grow => |_| Wish::Replace(AT, 0, MORE),
        }
    }
}

/// Where edits are made.
const AT: usize = 700;
const SAME: &[u8] = b"twenty bytes instead";
const MORE: &[u8] = b"twenty bytes of more";

/// Bytes of an indication, and of a packet with its header.
pub(crate) const LENGTH: usize = 1460;

/// A runtime with links at a hook, and the callouts in front of it.
pub(crate) struct Tidegate {
    runtime: Shared<Runtime>,
    callouts: Option<Callouts>,
}

impl Tidegate {
    fn new(case: Case, links: usize) -> Result<Self> {
        let runtime = Runtime::shared(os::platform()).map_err(|status| anyhow!("{}", status.text()))?;
        let objects = Objects { driver: null_mut(), device: null_mut() };
        let callouts = Callouts::register(objects, Shared::clone(&runtime), Options::default())?;
        let machine = Self { runtime, callouts: Some(callouts) };
        for link in 0..links {
            let last = link + 1 == links;
            let code = if last { case.program() } else { asm::verdict(Verdict::Continue) };
            machine.link(case.hook(), &code)?;
        }
        Ok(machine)
    }

    fn ask<T: Operation>(&self, request: &T) -> Vec<u8> {
        let (mut message, mut reply) = (vec![0; 65_536], vec![0; 65_536]);
        let length = write_request(request, &mut message).unwrap_or_default();
        let length = self.runtime.handle(&message[..length], &mut reply);
        reply.truncate(length);
        reply
    }

    fn link(&self, hook: Hook, code: &[u8]) -> Result<()> {
        let name = Name::try_from("bench").map_err(|_| anyhow!("a long name"))?;
        let program_type = hook.program_type();
        let reply = self.ask(&ProgramLoad {
            name,
            program_type,
            code,
            maps: Default::default(),
            grants: Grants::ALL,
        });
        let loaded: Loaded = parse_reply(&reply).map_err(|status| anyhow!("{}", status.text()))?;
        let (program, on_error) = (loaded.program, OnError::Block);
        let attach = LinkAttach {
            program,
            hook,
            priority: 1,
            on_error,
            budget: DEFAULT_BUDGET,
            snapshot: false,
            filter: None,
        };
        parse_reply::<tidegate_abi::control::Id>(&self.ask(&attach))
            .map(drop)
            .map_err(|status| anyhow!("{}", status.text()))
    }
}

impl Drop for Tidegate {
    fn drop(&mut self) {
        if let Some(callouts) = self.callouts.take() {
            null::settle();
            // Nothing runs any more; if it were busy all the same, it stays registered.
            drop(callouts.unregister());
        }
    }
}

/// One way to classify, over and over.
pub(crate) struct Machine {
    classify: FWPS_CALLOUT_CLASSIFY_FN1,
    filter: FWPS_FILTER1,
    data: Data,
    flows: u64,
    flow: u64,
    contexts: Vec<u64>,
    _tidegate: Option<Tidegate>,
    _policies: Option<Box<Policies>>,
}

/// What is shown, laid out once.
struct Data {
    case: Case,
    /// The bytes behind the MDL.
    _bytes: Box<[u8]>,
    nbl: *mut NET_BUFFER_LIST,
    stream: Box<FWPS_STREAM_DATA0>,
    values: Box<[FWPS_INCOMING_VALUE0]>,
    meta: Box<FWPS_INCOMING_METADATA_VALUES0>,
}

fn uint32(number: u32) -> FWPS_INCOMING_VALUE0 {
    let data = FWP_VALUE0_DATA { uint32: number };
    FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { r#type: FWP_DATA_TYPE::UINT32, data } }
}

fn uint16(number: u16) -> FWPS_INCOMING_VALUE0 {
    let data = FWP_VALUE0_DATA { uint16: number };
    FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { r#type: FWP_DATA_TYPE::UINT16, data } }
}

fn uint8(number: u8) -> FWPS_INCOMING_VALUE0 {
    let data = FWP_VALUE0_DATA { uint8: number };
    FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { r#type: FWP_DATA_TYPE::UINT8, data } }
}

impl Data {
    fn new(case: Case) -> Self {
        let bytes: Box<[u8]> = (0..LENGTH).map(|at| b'a' + (at % 23) as u8).collect();
        null::show(bytes.as_ptr() as usize..bytes.as_ptr() as usize + LENGTH);
        // SAFETY: zeroes are an MDL.
        let mdl = Box::into_raw(unsafe { Box::<MDL>::new_zeroed().assume_init() });
        null::describe(mdl, bytes.as_ptr() as usize, LENGTH as u32, true);
        let nbl = null::list(mdl, 0, LENGTH as u32);
        let stream = Box::new(FWPS_STREAM_DATA0 {
            flags: FWPS_STREAM_FLAG::SEND,
            dataOffset: FWPS_STREAM_DATA_OFFSET0 {
                netBufferList: nbl,
                // SAFETY: just made.
                netBuffer: unsafe { (*nbl).FirstNetBuffer },
                mdl,
                mdlOffset: 0,
                netBufferOffset: 0,
                streamDataOffset: 0,
            },
            dataLength: LENGTH,
            netBufferListChain: nbl,
        });
        let none = FWPS_INCOMING_VALUE0 { value: FWP_VALUE0::EMPTY };
        let mut values = vec![none; 16].into_boxed_slice();
        if case == Case::Send {
            use layer::outbound_transport as of;
            values[of::IP_PROTOCOL] = uint8(17);
            values[of::IP_LOCAL_ADDRESS] = uint32(0x0a01_0203);
            values[of::IP_REMOTE_ADDRESS] = uint32(0xc000_0207);
            values[of::IP_LOCAL_PORT] = uint16(40_000);
            values[of::IP_REMOTE_PORT] = uint16(53);
            values[of::FLAGS] = uint32(0);
            values[of::COMPARTMENT_ID] = uint32(1);
        } else {
            use layer::stream as of;
            values[of::IP_LOCAL_ADDRESS] = uint32(0x0a01_0203);
            values[of::IP_REMOTE_ADDRESS] = uint32(0xc000_0207);
            values[of::IP_LOCAL_PORT] = uint16(40_000);
            values[of::IP_REMOTE_PORT] = uint16(443);
            values[of::DIRECTION] = uint32(0);
            values[of::FLAGS] = uint32(0);
            values[of::COMPARTMENT_ID] = uint32(1);
        }
        // SAFETY: integers and pointers, for which zeroes are values.
        let mut meta = unsafe { Box::<FWPS_INCOMING_METADATA_VALUES0>::new_zeroed().assume_init() };
        meta.currentMetadataValues = FWPS_METADATA_FIELD::FLOW_HANDLE | FWPS_METADATA_FIELD::SYSTEM_FLAGS;
        if case == Case::Send {
            meta.currentMetadataValues |= FWPS_METADATA_FIELD::TRANSPORT_ENDPOINT_HANDLE
                | FWPS_METADATA_FIELD::TRANSPORT_HEADER_SIZE
                | FWPS_METADATA_FIELD::COMPARTMENT_ID;
            (meta.transportEndpointHandle, meta.transportHeaderSize) = (7, 8);
            meta.compartmentId = COMPARTMENT_ID::DEFAULT;
        }
        Self { case, _bytes: bytes, nbl, stream, values, meta }
    }
}

impl Machine {
    /// The callouts, with so many links.
    pub(crate) fn tidegate(case: Case, links: usize, flows: u64) -> Result<Self> {
        let tidegate = Tidegate::new(case, links)?;
        let callout = null::callout(&key(case.hook())).context("a callout for the hook")?;
        let context = tidegate.callouts.as_ref().map_or(0, Callouts::context);
        let mut machine = Self::new(case, flows, callout.classifyFn, context);
        // SAFETY: the filter lives through the call.
        let status = callout.notifyFn.map(|notify| unsafe {
            notify(FWPS_CALLOUT_NOTIFY_TYPE::ADD_FILTER, std::ptr::null(), &raw mut machine.filter)
        });
        anyhow::ensure!(status == Some(NTSTATUS::SUCCESS), "the callout refuses its filter: {status:?}");
        machine._tidegate = Some(tidegate);
        if case != Case::Send {
            machine.establish()?;
        }
        Ok(machine)
    }

    /// Tells the callouts of every connection, so that they give it a context.
    fn establish(&mut self) -> Result<()> {
        use layer::ale_flow_established as of;
        let [told, ..] = NOTICES;
        let callout = null::callout(&told.key).context("a callout for new connections")?;
        let classify = callout.classifyFn.context("it has a classifyFn")?;
        let none = FWPS_INCOMING_VALUE0 { value: FWP_VALUE0::EMPTY };
        let mut values = [none; 20];
        values[of::IP_PROTOCOL] = uint8(6);
        let fixed = FWPS_INCOMING_VALUES0 {
            layerId: told.layer,
            valueCount: values.len() as u32,
            incomingValue: values.as_mut_ptr(),
        };
        // SAFETY: integers and pointers, for which zeroes are values.
        let mut meta = unsafe { Box::<FWPS_INCOMING_METADATA_VALUES0>::new_zeroed().assume_init() };
        meta.currentMetadataValues = FWPS_METADATA_FIELD::FLOW_HANDLE;
        for flow in 0..self.flows {
            meta.flowHandle = flow + 1;
            let mut out = FWPS_CLASSIFY_OUT0 {
                actionType: FWP_ACTION::CONTINUE,
                outContext: 0,
                filterId: 2,
                rights: FWPS_RIGHT::ACTION_WRITE,
                flags: FWPS_CLASSIFY_OUT_FLAG::NONE,
                reserved: 0,
            };
            let (nothing, out) = (null_mut(), &raw mut out);
            // SAFETY: everything is as at the layer, and lives through the call.
            unsafe {
                classify(
                    &raw const fixed,
                    &raw const *meta,
                    nothing,
                    nothing,
                    &raw const self.filter,
                    0,
                    out,
                );
            };
        }
        self.contexts = null::contexts();
        Ok(())
    }

    /// A callout that does nothing.
    pub(crate) fn nothing(case: Case) -> Self {
        Self::new(case, 1, Some(hand::nothing), 0)
    }

    /// The callout by hand, with so many policies.
    pub(crate) fn hand(case: Case, links: usize, flows: u64) -> Self {
        let mut policies: Policies = vec![|_| Wish::Next; links];
        if let Some(last) = policies.last_mut() {
            *last = case.policy();
        }
        let policies = Box::new(policies);
        let context = std::ptr::from_ref(&*policies).expose_provenance() as u64;
        let classify = if case == Case::Send { hand::send } else { hand::stream };
        let mut machine = Self::new(case, flows, Some(classify), context);
        machine._policies = Some(policies);
        machine
    }

    fn new(case: Case, flows: u64, classify: FWPS_CALLOUT_CLASSIFY_FN1, context: u64) -> Self {
        let filter = FWPS_FILTER1 {
            filterId: 1,
            weight: FWP_VALUE0::EMPTY,
            subLayerWeight: 1,
            flags: FWPS_FILTER_FLAG::NONE,
            numFilterConditions: 0,
            filterCondition: null_mut(),
            action: FWPS_ACTION0 { r#type: FWP_ACTION::CALLOUT_TERMINATING, calloutId: 1 },
            context,
            providerContext: null_mut(),
        };
        let data = Data::new(case);
        let contexts = null::contexts();
        Self { classify, filter, data, flows, flow: 0, contexts, _tidegate: None, _policies: None }
    }

    /// One classify of the next flow, and what completes behind it. Gives back the action.
    #[inline]
    pub(crate) fn classify(&mut self) -> FWP_ACTION {
        // Flows far from each other, so that what is kept of one is rarely near the next.
        self.flow = (self.flow + 7919) % self.flows;
        let data = &mut self.data;
        data.meta.flowHandle = self.flow + 1;
        let send = data.case == Case::Send;
        let values = FWPS_INCOMING_VALUES0 {
            layerId: if send { layer::OUTBOUND_TRANSPORT_V4 } else { layer::STREAM_V4 },
            valueCount: if send { 16 } else { 8 },
            incomingValue: data.values.as_mut_ptr(),
        };
        let mut packet = FWPS_STREAM_CALLOUT_IO_PACKET0 {
            streamData: &raw mut *data.stream,
            missedBytes: 0,
            countBytesRequired: 0,
            countBytesEnforced: 0,
            streamAction: FWPS_STREAM_ACTION::NONE,
        };
        let layer_data: *mut c_void = if send { data.nbl.cast() } else { (&raw mut packet).cast() };
        let mut out = FWPS_CLASSIFY_OUT0 {
            actionType: FWP_ACTION::CONTINUE,
            outContext: 0,
            filterId: 1,
            rights: FWPS_RIGHT::ACTION_WRITE,
            flags: FWPS_CLASSIFY_OUT_FLAG::NONE,
            reserved: 0,
        };
        let context = self.contexts.get(self.flow as usize + 1).copied().unwrap_or(0);
        if let Some(classify) = self.classify {
            // SAFETY: everything is as at the layer, and lives through the call.
            unsafe {
                classify(
                    &raw const values,
                    &raw const *data.meta,
                    layer_data,
                    std::ptr::null(),
                    &raw const self.filter,
                    context,
                    &raw mut out,
                );
            }
        }
        null::settle();
        out.actionType
    }
}

/// Programs that only give a verdict call nobody.
struct NoHelpers;

impl Host for NoHelpers {
    fn call(&mut self, number: u32, _: [u64; 5], _: &mut Memory<'_>) -> Result<u64, Fault> {
        Err(Cause::UnknownHelper { number }.into())
    }
}

/// What the runtime alone does in a case: takes the chain and runs its links, without a callout around them.
pub(crate) fn runs(case: Case, links: usize) -> Result<Box<dyn FnMut() -> FWP_ACTION>> {
    Ok(match case.hook().program_type() {
        tidegate_abi::ProgramType::Stream => runs_with(case, links, StreamContext::default())?,
        tidegate_abi::ProgramType::Send => runs_with(case, links, SendContext::default())?,
    })
}

fn runs_with<C: tidegate_vm::Context + 'static>(
    case: Case,
    links: usize,
    mut context: C,
) -> Result<Box<dyn FnMut() -> FWP_ACTION>> {
    let tidegate = Tidegate::new(case, links)?;
    let window: Vec<u8> = vec![b'a'; LENGTH];
    let mut stack = Stack::new();
    let processor = os::platform().processor;
    Ok(Box::new(move || {
        let processor = processor();
        let chain = tidegate.runtime.chain_on(processor, case.hook());
        for link in chain.links() {
            std::hint::black_box(&link.run(&mut NoHelpers, &mut stack, &mut context, &window, processor));
        }
        FWP_ACTION::NONE
    }))
}
