//! Declarations of fwpsk.h, fwpmk.h and nbl.h, and nothing else.
#![no_std]
