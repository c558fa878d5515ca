//! Connections of a capture: reassembly into what a hook is shown.
