//! Grants: what a program may do at most, as whoever answers for it says when it is loaded.
//!
//! The verifier proves what a program uses. A grant says what it may use, where it may run, and at what cost; the runtime holds
//! one against the other when the program is loaded and whenever it gets a link, so that nothing is asked while it runs.

use serde::{Deserialize, Serialize};

use crate::helper::Capability;
use crate::hook::Hook;
use crate::limits;

/// What a program may do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// [`Capability`] bits that it may use.
    pub capabilities: u32,
    /// Where it may run: a bit for each [`Hook`], by its number.
    pub hooks: u16,
    /// Instructions that one run may take, and the highest budget that its links may have.
    pub budget: u32,
}

impl Grants {
    /// Everything.
    pub const ALL: Self =
        Self { capabilities: Capability::ALL.0, hooks: Self::hooks(&Hook::ALL), budget: limits::MAX_BUDGET };

    /// The bits of these hooks.
    pub const fn hooks(hooks: &[Hook]) -> u16 {
        let (mut bits, mut at) = (0, 0);
        while at < hooks.len() {
            bits |= 1 << hooks[at].index();
            at += 1;
        }
        bits
    }

    /// Whether it grants nothing but what there is.
    pub const fn is_valid(self) -> bool {
        self.is_within(Self::ALL)
    }

    /// Whether it grants nothing that `other` does not.
    pub const fn is_within(self, other: Self) -> bool {
        self.capabilities & !other.capabilities == 0
            && self.hooks & !other.hooks == 0
            && self.budget <= other.budget
    }

    /// Whether a program may use `capabilities`.
    pub const fn covers(self, capabilities: Capability) -> bool {
        capabilities.0 & !self.capabilities == 0
    }

    /// Whether a program may run at `hook`.
    pub const fn allows(self, hook: Hook) -> bool {
        self.hooks & (1 << hook.index()) != 0
    }

    /// What both grant.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            capabilities: self.capabilities & other.capabilities,
            hooks: self.hooks & other.hooks,
            budget: if self.budget < other.budget { self.budget } else { other.budget },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_power_every_hook_and_the_highest_budget() {
        let all = Grants::ALL;
        assert!(all.is_valid());
        assert!(Capability::NAMED.iter().all(|(power, _)| all.covers(*power)));
        assert!(Hook::ALL.iter().all(|hook| all.allows(*hook)));
        assert_eq!(Capability::NAMED.iter().fold(0, |bits, (power, _)| bits | power.0), all.capabilities);
        for more in [
            Grants { capabilities: all.capabilities | 1 << 31, ..all },
            Grants { hooks: all.hooks | 1 << 15, ..all },
            Grants { budget: all.budget + 1, ..all },
        ] {
            assert!(!more.is_valid(), "{more:?}");
            assert_eq!(more.and(all), all);
        }
    }

    #[test]
    fn what_both_grant_is_within_each() {
        let one = Grants { capabilities: Capability::EDIT.0 | Capability::DROP.0, budget: 10, ..Grants::ALL };
        let other = Grants { capabilities: Capability::DROP.0 | 1, hooks: 0b11, budget: 20 };
        let both = one.and(other);
        assert_eq!(both, Grants { capabilities: Capability::DROP.0, hooks: 0b11, budget: 10 });
        assert!(both.is_within(one) && both.is_within(other));
        assert!(!one.is_within(other) && !other.is_within(one));
    }
}
