//! The operator's command: demo, pki, mcast, status, evict

pub mod mcast;
