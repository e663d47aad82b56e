//! One type for each secret: zeroed when dropped, silent in `Debug`, compared in constant time.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes 32 octets that are secret from here on. The caller wipes its own copy.
            pub fn new(octets: [u8; 32]) -> Self {
                Self(octets)
            }

            /// The octets, for the one place that needs them.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(***)"))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }
        impl Eq for $name {}
    };
}

secret! {
    /// Secret of a k-node or of a leaf. Never used directly: the key schedule derives a key per purpose. Where the
    /// suite's secrets are shorter, zeros follow.
    NodeSecret
}
/// All zeros: what an array holds where there is no secret. Nothing hands it out.
impl Default for NodeSecret {
    fn default() -> Self {
        Self([0; 32])
    }
}

secret! {
    /// The only key that leaves Keystone: a data processor's key of one epoch.
    DataKey
}
secret! {
    /// Shared by one client and its key server since registration: the PSK of requests. Never in a key graph.
    IndividualKey
}
secret! {
    /// What a key server gives a client in a sealed registration; the individual key is made of it.
    Share
}
secret! {
    /// Seed from which the fresh secrets of one change are expanded; the journal keeps it, sealed.
    Seed
}
