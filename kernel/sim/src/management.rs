//! What the base filtering engine keeps: sessions, transactions, providers, sublayers, callouts and filters.

use std::collections::BTreeMap;
use std::sync::Arc;

use fwps_sys::*;

use crate::engine::filters::{self, Filter};
use crate::state::Inner;

/// Everything that the management functions know.
pub(crate) struct Management {
    /// What is in force, or would be if the transaction ended now.
    pub(crate) objects: Objects,
    /// The session that has a transaction, and what was in force before it.
    pub(crate) transaction: Option<(usize, Objects)>,
    /// Filters in force, with the number that the engine has given each.
    in_force: BTreeMap<GUID, u64>,
    pub(crate) sessions: BTreeMap<usize, FWPM_SESSION_FLAG>,
    pub(crate) state: FWPM_SERVICE_STATE,
    pub(crate) subscriptions: BTreeMap<usize, Subscription>,
}

impl Default for Management {
    fn default() -> Self {
        Self {
            objects: Objects::default(),
            transaction: None,
            in_force: BTreeMap::new(),
            sessions: BTreeMap::new(),
            state: FWPM_SERVICE_STATE::RUNNING,
            subscriptions: BTreeMap::new(),
        }
    }
}

impl Management {
    /// Forgets every session, what it has begun, and all objects but persistent ones.
    pub(crate) fn end_sessions(&mut self) {
        if let Some((_, before)) = self.transaction.take() {
            self.objects = before;
        }
        self.sessions.clear();
        self.objects.keep(|life| *life == Life::Persistent);
    }
}

/// Who wants to hear of the engine's state.
#[derive(Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    pub(crate) context: usize,
}

/// Objects by their keys.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    pub(crate) providers: BTreeMap<GUID, Life>,
    pub(crate) sublayers: BTreeMap<GUID, (Life, u16)>,
    pub(crate) callouts: BTreeMap<GUID, Life>,
    pub(crate) filters: BTreeMap<GUID, (Life, Rule)>,
}

/// How long an object stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// Until this session closes.
    Session(usize),
    /// Until the engine stops.
    Engine,
    /// For ever.
    Persistent,
}

impl Life {
    /// Whether an object of this life may refer to one of `other`: what it refers to must not go before it.
    fn may_refer_to(self, other: Self) -> bool {
        match self {
            Self::Session(_) => true,
            Self::Engine => !matches!(other, Self::Session(_)),
            Self::Persistent => other == Self::Persistent,
        }
    }
}

/// A filter as management sees it.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) layer: u16,
    pub(crate) sublayer: GUID,
    pub(crate) callout: GUID,
    pub(crate) weight: u64,
    pub(crate) action: FWP_ACTION,
    pub(crate) flags: FWPS_FILTER_FLAG,
    pub(crate) context: u64,
    /// What the caller was told.
    pub(crate) id: u64,
}

/// A reference to another object: a key of zeros is none.
fn refers(life: Life, found: Option<Life>, key: GUID, absent: NTSTATUS) -> Result<(), NTSTATUS> {
    match found {
        _ if key == GUID::default() => Ok(()),
        None => Err(absent),
        Some(other) if life.may_refer_to(other) => Ok(()),
        Some(_) => Err(NTSTATUS::FWP_LIFETIME_MISMATCH),
    }
}

fn insert<T>(map: &mut BTreeMap<GUID, T>, key: GUID, value: T) -> Result<(), NTSTATUS> {
    match map.entry(key) {
        std::collections::btree_map::Entry::Occupied(_) => Err(NTSTATUS::FWP_ALREADY_EXISTS),
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(value);
            Ok(())
        }
    }
}

impl Objects {
    pub(crate) fn provider(&self, life: Life, key: GUID) -> Result<(), NTSTATUS> {
        refers(life, self.providers.get(&key).copied(), key, NTSTATUS::FWP_PROVIDER_NOT_FOUND)
    }

    pub(crate) fn add_provider(&mut self, key: GUID, life: Life) -> Result<(), NTSTATUS> {
        insert(&mut self.providers, key, life)
    }

    pub(crate) fn add_sublayer(&mut self, key: GUID, life: Life, weight: u16) -> Result<(), NTSTATUS> {
        insert(&mut self.sublayers, key, (life, weight))
    }

    pub(crate) fn add_callout(&mut self, key: GUID, life: Life) -> Result<(), NTSTATUS> {
        insert(&mut self.callouts, key, life)
    }

    pub(crate) fn add_filter(&mut self, key: GUID, life: Life, rule: Rule) -> Result<(), NTSTATUS> {
        let sublayer = self.sublayers.get(&rule.sublayer).map(|(life, _)| *life);
        refers(life, sublayer, rule.sublayer, NTSTATUS::FWP_SUBLAYER_NOT_FOUND)?;
        let callout = self.callouts.get(&rule.callout).copied();
        refers(life, callout, rule.callout, NTSTATUS::FWP_CALLOUT_NOT_FOUND)?;
        insert(&mut self.filters, key, (life, rule))
    }

    pub(crate) fn delete_provider(&mut self, key: GUID) -> Result<(), NTSTATUS> {
        self.providers.remove(&key).map(drop).ok_or(NTSTATUS::FWP_PROVIDER_NOT_FOUND)
    }

    pub(crate) fn delete_sublayer(&mut self, key: GUID) -> Result<(), NTSTATUS> {
        if self.filters.values().any(|(_, rule)| rule.sublayer == key) {
            return Err(NTSTATUS::FWP_IN_USE);
        }
        self.sublayers.remove(&key).map(drop).ok_or(NTSTATUS::FWP_SUBLAYER_NOT_FOUND)
    }

    pub(crate) fn delete_callout(&mut self, key: GUID) -> Result<(), NTSTATUS> {
        if self.filters.values().any(|(_, rule)| rule.callout == key) {
            return Err(NTSTATUS::FWP_IN_USE);
        }
        self.callouts.remove(&key).map(drop).ok_or(NTSTATUS::FWP_CALLOUT_NOT_FOUND)
    }

    pub(crate) fn delete_filter(&mut self, key: GUID) -> Result<(), NTSTATUS> {
        self.filters.remove(&key).map(drop).ok_or(NTSTATUS::FWP_FILTER_NOT_FOUND)
    }

    /// Removes what goes with a session.
    pub(crate) fn end_session(&mut self, session: usize) {
        self.keep(|life| *life != Life::Session(session));
    }

    fn keep(&mut self, stays: impl Fn(&Life) -> bool) {
        self.filters.retain(|_, (life, _)| stays(life));
        self.callouts.retain(|_, life| stays(life));
        self.sublayers.retain(|_, (life, _)| stays(life));
        self.providers.retain(|_, life| stays(life));
    }
}

/// Puts the filters in force that management has, and takes those out that it has no more. Nothing is locked by the
/// caller: callouts are told.
pub(crate) fn enforce(sim: &Arc<Inner>) -> Result<(), NTSTATUS> {
    let (gone, new) = {
        let mut state = sim.lock();
        let management = &mut state.management;
        if management.transaction.is_some() {
            return Ok(());
        }
        let gone: Vec<GUID> = management
            .in_force
            .keys()
            .filter(|key| !management.objects.filters.contains_key(key))
            .copied()
            .collect();
        let gone: Vec<u64> = gone.iter().filter_map(|key| management.in_force.remove(key)).collect();
        let new: Vec<(GUID, Filter)> = management
            .objects
            .filters
            .iter()
            .filter(|(key, _)| !management.in_force.contains_key(key))
            .map(|(key, (_, rule))| {
                let sublayer =
                    management.objects.sublayers.get(&rule.sublayer).map_or(0, |(_, weight)| *weight);
                let filter = Filter::at(rule.layer, rule.callout)
                    .sublayer(sublayer)
                    .weight(rule.weight)
                    .action(rule.action)
                    .flags(rule.flags)
                    .context(rule.context);
                (*key, filter)
            })
            .collect();
        (gone, new)
    };
    for id in gone {
        filters::remove(sim, id);
    }
    for (key, filter) in new {
        match filters::add(sim, &filter) {
            Ok(id) => {
                sim.lock().management.in_force.insert(key, id);
            }
            Err(_) => {
                sim.lock().management.objects.filters.remove(&key);
                return Err(NTSTATUS::FWP_CALLOUT_NOTIFICATION_FAILED);
            }
        }
    }
    Ok(())
}
