//! Disassembly of a linked program beside its source.
