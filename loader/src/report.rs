//! What the verifier said about a program, told with the source that it speaks of.
