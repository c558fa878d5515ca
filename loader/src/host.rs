//! A whole machine in this process: a runtime, the callouts, and the simulated filter engine that calls them.

mod loaded;
mod platform;

pub use loaded::{Loaded, Setup};
pub use platform::{platform, set_time};
