//! A refusal, and why.

use crate::codec::{DecodeError, Reader, Write};

/// Longest text in octets.
const MAX_TEXT: usize = 200;

/// Why a registration was refused. Codes are on the wire; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalCode {
    /// The identity may not register, here or anywhere.
    Identity = 1,
    /// The registrar has no key server at the moment; ask again later.
    Unavailable = 2,
    /// Another key server is meant.
    KeyServer = 3,
    /// A limit is reached; ask again later.
    Busy = 4,
    /// The message is not one that was expected.
    Malformed = 5,
    /// What the client has shown does not prove who it is; with another credential it may ask again.
    Credential = 6,
    /// The individual key cannot be made in this way: no offer is for this key server, or it takes sealed ones only.
    Key = 7,
}

impl TryFrom<u8> for RefusalCode {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        Ok(match value {
            1 => Self::Identity,
            2 => Self::Unavailable,
            3 => Self::KeyServer,
            4 => Self::Busy,
            5 => Self::Malformed,
            6 => Self::Credential,
            7 => Self::Key,
            _ => {
                return Err(DecodeError::Value { what: "refusal", value: value.into() });
            }
        })
    }
}

/// A refusal with its reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind.
    pub code: RefusalCode,
    /// In words, at most 200 octets.
    pub text: String,
    /// Milliseconds before asking again makes sense; 0 if it never does.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// Cuts `text` to its limit.
    pub fn new(code: RefusalCode, text: &str, retry_after_ms: u32) -> Self {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self { code, text: text[..end].to_owned(), retry_after_ms }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.code as u8);
        out.put_text(&self.text);
        out.extend_from_slice(&self.retry_after_ms.to_be_bytes());
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            code: r.u8("refusal")?.try_into()?,
            text: r.text(MAX_TEXT, "refusal text")?.to_owned(),
            retry_after_ms: r.u32("retry after")?,
        })
    }
}
