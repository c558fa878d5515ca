//! Shared pointers without memory. Their counting is shown by `callout-orders`, in every order of threads.

use crate::memory::{failing, shared};

#[test]
fn without_memory_there_is_none() {
    failing::after(0);
    assert!(shared(1).is_err());
    assert_eq!(*shared(1).unwrap(), 1);
}
