//! A runtime, the callouts and the simulated filter engine in one process.
