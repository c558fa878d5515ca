//! The typed client of a runtime's control messages.
