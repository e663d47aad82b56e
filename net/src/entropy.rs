//! Randomness of the operating system, by aws-lc.

use protocol::Entropy;

use crate::exit::Exit;

/// What a shell hands to a core in production.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    /// Ends the process if the system gives no randomness: a key server with guessable keys is worse than none.
    fn fill(&mut self, out: &mut [u8]) {
        if aws_lc_rs::rand::fill(out).is_err() {
            tracing::error!("the operating system gives no randomness; ending, because keys would be guessable");
            std::process::exit(i32::from(Exit::Failure.code()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills() {
        let (a, b): ([u8; 32], [u8; 32]) = (OsEntropy.array(), OsEntropy.array());
        assert_ne!(a, b);
    }
}
