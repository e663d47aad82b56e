//! Every message of Keystone, its key schedule and its signatures
