//! Captures: reading and writing pcap files.
