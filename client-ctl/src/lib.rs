//! The client control manager: a member's daemon
