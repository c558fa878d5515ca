//! The WFP side: classify to context, chain, verdict, edit and injection.
#![no_std]
