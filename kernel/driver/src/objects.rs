//! What the filter engine is told: one provider, one sublayer, and for each hook a callout and the filter that leads to it.

use fwps_sys::{
    FWPM_CALLOUT_FLAG, FWPM_FILTER_FLAG, FWPM_PROVIDER_FLAG, FWPM_SESSION_FLAG, FWPM_SUBLAYER_FLAG, GUID,
    guid, layer,
};
use tidegate_abi::Hook;

use crate::parameters::Parameters;

/// Key of the provider.
pub const PROVIDER: GUID = GUID::from_u128(0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c0f0);
/// Key of the sublayer.
pub const SUBLAYER: GUID = GUID::from_u128(0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c0f1);

/// Key of a hook's filter.
pub const fn filter_key(hook: Hook) -> GUID {
    GUID::from_u128(match hook {
        Hook::StreamV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c101,
        Hook::StreamV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c102,
        Hook::OutboundTransportV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c103,
        Hook::OutboundTransportV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c104,
        Hook::DatagramDataV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c105,
        Hook::DatagramDataV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c106,
        Hook::OutboundIcmpErrorV4 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c107,
        Hook::OutboundIcmpErrorV6 => 0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c108,
    })
}

/// The layer of a hook, as management names it.
pub const fn layer_of(hook: Hook) -> GUID {
    match hook {
        Hook::StreamV4 => guid::LAYER_STREAM_V4,
        Hook::StreamV6 => guid::LAYER_STREAM_V6,
        Hook::OutboundTransportV4 => guid::LAYER_OUTBOUND_TRANSPORT_V4,
        Hook::OutboundTransportV6 => guid::LAYER_OUTBOUND_TRANSPORT_V6,
        Hook::DatagramDataV4 => guid::LAYER_DATAGRAM_DATA_V4,
        Hook::DatagramDataV6 => guid::LAYER_DATAGRAM_DATA_V6,
        Hook::OutboundIcmpErrorV4 => guid::LAYER_OUTBOUND_ICMP_ERROR_V4,
        Hook::OutboundIcmpErrorV6 => guid::LAYER_OUTBOUND_ICMP_ERROR_V6,
    }
}

/// Key of the filter at a layer that only tells, and the layer as management names it; `None` when it is not one of ours.
pub const fn notice(layer: u16) -> Option<(GUID, GUID)> {
    let (key, layer) = match layer {
        layer::ALE_FLOW_ESTABLISHED_V4 => {
            (0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c301, guid::LAYER_ALE_FLOW_ESTABLISHED_V4)
        }
        layer::ALE_FLOW_ESTABLISHED_V6 => {
            (0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c302, guid::LAYER_ALE_FLOW_ESTABLISHED_V6)
        }
        layer::ALE_ENDPOINT_CLOSURE_V4 => {
            (0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c303, guid::LAYER_ALE_ENDPOINT_CLOSURE_V4)
        }
        layer::ALE_ENDPOINT_CLOSURE_V6 => {
            (0x8d3a5c60_6f0e_4b52_9f27_51d1a7e4c304, guid::LAYER_ALE_ENDPOINT_CLOSURE_V6)
        }
        _ => return None,
    };
    Some((GUID::from_u128(key), layer))
}

/// How long the objects live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Of the session that adds them.
    pub session: FWPM_SESSION_FLAG,
    /// Of the provider.
    pub provider: FWPM_PROVIDER_FLAG,
    /// Of the sublayer.
    pub sublayer: FWPM_SUBLAYER_FLAG,
    /// Of the callouts.
    pub callout: FWPM_CALLOUT_FLAG,
    /// Of the filters.
    pub filter: FWPM_FILTER_FLAG,
}

impl Lifetime {
    /// What the parameters choose: objects of a dynamic session, which go with it, or persistent ones.
    pub fn of(parameters: &Parameters) -> Self {
        let open = if parameters.permit_if_unloaded {
            FWPM_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED
        } else {
            FWPM_FILTER_FLAG::NONE
        };
        if parameters.boot_persistent {
            Self {
                session: FWPM_SESSION_FLAG::NONE,
                provider: FWPM_PROVIDER_FLAG::PERSISTENT,
                sublayer: FWPM_SUBLAYER_FLAG::PERSISTENT,
                callout: FWPM_CALLOUT_FLAG::PERSISTENT,
                filter: FWPM_FILTER_FLAG::PERSISTENT | open,
            }
        } else {
            Self {
                session: FWPM_SESSION_FLAG::DYNAMIC,
                provider: FWPM_PROVIDER_FLAG::NONE,
                sublayer: FWPM_SUBLAYER_FLAG::NONE,
                callout: FWPM_CALLOUT_FLAG::NONE,
                filter: open,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_dynamic_session_adds_nothing_that_stays() {
        let dynamic = Lifetime::of(&Parameters::default());
        assert_eq!(dynamic.session, FWPM_SESSION_FLAG::DYNAMIC);
        assert_eq!(dynamic.filter, FWPM_FILTER_FLAG::NONE, "and fails closed");
        let stays = (dynamic.provider.0, dynamic.sublayer.0, dynamic.callout.0, dynamic.filter.0);
        assert_eq!(stays, (0, 0, 0, 0));
    }

    #[test]
    fn what_stays_stays_whole() {
        // A filter that outlives its sublayer or its callout is refused by the engine (FWP_LIFETIME_MISMATCH).
        let parameters =
            Parameters { boot_persistent: true, permit_if_unloaded: true, ..Parameters::default() };
        let persistent = Lifetime::of(&parameters);
        assert_eq!(persistent.session, FWPM_SESSION_FLAG::NONE);
        assert!(
            persistent
                .filter
                .has(FWPM_FILTER_FLAG::PERSISTENT | FWPM_FILTER_FLAG::PERMIT_IF_CALLOUT_UNREGISTERED)
        );
        assert!(persistent.provider.has(FWPM_PROVIDER_FLAG::PERSISTENT));
        assert!(persistent.sublayer.has(FWPM_SUBLAYER_FLAG::PERSISTENT));
        assert!(persistent.callout.has(FWPM_CALLOUT_FLAG::PERSISTENT));
    }

    #[test]
    fn every_key_is_its_own() {
        let keys = Hook::ALL.into_iter().flat_map(|hook| [filter_key(hook), layer_of(hook)]);
        let told = (0..100).filter_map(notice).flat_map(|(key, layer)| [key, layer]);
        let keys: BTreeSet<_> = keys.chain(told).chain([PROVIDER, SUBLAYER]).collect();
        assert_eq!(keys.len(), 2 * (Hook::ALL.len() + 4) + 2);
    }
}
