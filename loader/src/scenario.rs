//! Scenarios: what a policy is shown, and what must come of it.
