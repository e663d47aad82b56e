//! Reading and writing octets: big-endian integers, length-prefixed strings, no padding, one encoding per value.

use thiserror::Error;

/// Why octets are not a message. The sender is to blame; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The message ends early.
    #[error("truncated: {what} needs {need} octets, {have} are left")]
    Truncated {
        /// The field that was being read.
        what: &'static str,
        /// Octets that it needs.
        need: usize,
        /// Octets that are left.
        have: usize,
    },
    /// Octets follow the end of the message.
    #[error("{octets} octets after the end of {what}")]
    Trailing {
        /// The message that had ended.
        what: &'static str,
        /// How many octets follow.
        octets: usize,
    },
    /// A field has a value that it cannot have.
    #[error("{what} cannot be {value}")]
    Value {
        /// The field.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A length or count is above its limit.
    #[error("{what} of {have} is above the limit of {limit}")]
    Limit {
        /// The field.
        what: &'static str,
        /// What it holds.
        have: usize,
        /// The limit.
        limit: usize,
    },
    /// Text is not UTF-8, or not of the kind that is expected.
    #[error("{what} is not valid text")]
    Text {
        /// The field.
        what: &'static str,
    },
}

/// A cursor over received octets. Every read can fail; none panics.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `octets`.
    pub fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    /// The next `n` octets.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, tail) =
            self.rest.split_at_checked(n).ok_or(DecodeError::Truncated { what, need: n, have: self.rest.len() })?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` octets.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let have = self.rest.len();
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { what, need: N, have })?;
        self.rest = tail;
        Ok(*head)
    }

    /// One octet.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[b]| b)
    }

    /// Two octets, big-endian.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// Four octets, big-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// Eight octets, big-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// One octet that is 0 or 1.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Value { what, value: other.into() }),
        }
    }

    /// Octets behind a u16 length of at most `limit`.
    pub fn octets(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let have = usize::from(self.u16(what)?);
        if have > limit {
            return Err(DecodeError::Limit { what, have, limit });
        }
        self.take(have, what)
    }

    /// UTF-8 text behind a u16 length of at most `limit` octets.
    pub fn text(&mut self, limit: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.octets(limit, what)?).map_err(|_| DecodeError::Text { what })
    }

    /// A u16 count of at most `limit`.
    pub fn count(&mut self, limit: usize, what: &'static str) -> Result<usize, DecodeError> {
        let have = usize::from(self.u16(what)?);
        if have > limit {
            return Err(DecodeError::Limit { what, have, limit });
        }
        Ok(have)
    }

    /// Octets that are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The end must be here: a longer message is another message.
    pub fn end(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            octets => Err(DecodeError::Trailing { what, octets }),
        }
    }
}

/// Writers of the same encodings.
pub trait Write {
    /// Appends `octets` behind a u16 length. Callers keep below 65,536; longer input is cut by the type of its limit.
    fn put_octets(&mut self, octets: &[u8]);
    /// Appends text behind a u16 length.
    fn put_text(&mut self, text: &str);
    /// Appends a u16 count.
    fn put_count(&mut self, count: usize);
}

impl Write for Vec<u8> {
    fn put_octets(&mut self, octets: &[u8]) {
        self.put_count(octets.len());
        self.extend_from_slice(octets);
    }

    fn put_text(&mut self, text: &str) {
        self.put_octets(text.as_bytes());
    }

    fn put_count(&mut self, count: usize) {
        debug_assert!(count <= usize::from(u16::MAX));
        self.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
    }
}

/// Octets from or to hexadecimal text, for files that people see.
pub fn from_hex<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], DecodeError> {
    let mut out = [0; N];
    hex::decode_to_slice(text.trim(), &mut out).map_err(|_| DecodeError::Text { what })?;
    Ok(out)
}
