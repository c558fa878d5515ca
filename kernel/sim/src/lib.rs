//! A filter engine in user space that answers the symbols fwps-sys declares.
