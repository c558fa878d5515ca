//! Shared pointers without memory. Their counting is shown by `callout-orders`, in every order of threads.

use crate::memory::failing;
use crate::shared::Shared;

#[test]
fn without_memory_there_is_none() {
    failing::after(0);
    assert!(Shared::new(1).is_err());
    assert_eq!(*Shared::new(1).unwrap(), 1);
}
