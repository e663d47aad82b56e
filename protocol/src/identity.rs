//! Who somebody is: one URI, compared octet by octet.

use std::fmt;

use thiserror::Error;

/// Longest identity in octets: what fits a log line and a database key without thought.
pub const MAX_IDENTITY: usize = 255;

/// Why a text is not an identity. Whoever wrote it is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no identity: {why}")]
pub struct IdentityError {
    /// The text, cut to a bounded length.
    pub text: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// A URI `spiffe://trust-domain/path`, in its one canonical spelling. There is no other spelling of the same
/// identity, so octets are compared and nothing is ever normalized.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity(String);

impl Identity {
    /// Checks the spelling.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        match flaw(text) {
            None => Ok(Self(text.to_owned())),
            Some(why) => Err(IdentityError { text: text.chars().take(80).collect(), why }),
        }
    }

    /// The URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn flaw(text: &str) -> Option<&'static str> {
    if text.len() > MAX_IDENTITY {
        return Some("longer than 255 octets");
    }
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return Some("does not begin with `spiffe://`");
    };
    let Some((domain, path)) = rest.split_once('/') else {
        return Some("has no path");
    };
    let in_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if domain.is_empty() || !domain.chars().all(in_domain) {
        return Some("the trust domain must be of a-z, 0-9, `.`, `_`, `-`");
    }
    let in_path = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    for segment in path.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." {
            return Some("a path segment is empty, `.` or `..`");
        }
        if !segment.chars().all(in_path) {
            return Some("the path must be of A-Z, a-z, 0-9, `.`, `_`, `-`");
        }
    }
    None
}

/// One identity, or all whose path begins with some segments: `spiffe://domain/path/*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityPattern {
    /// This one, byte for byte.
    Exact(Identity),
    /// All that begin with this text, which ends in `/`.
    Prefix(String),
}

impl IdentityPattern {
    /// Reads `URI` or `URI-prefix/*`.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let Some(prefix) = text.strip_suffix("/*") else {
            return Identity::parse(text).map(Self::Exact);
        };
        // `spiffe://domain/*` allows a whole trust domain; with a path the path must be well spelt.
        Identity::parse(&format!("{prefix}/x"))?;
        Ok(Self::Prefix(format!("{prefix}/")))
    }

    /// Whether `identity` is meant.
    pub fn matches(&self, identity: &Identity) -> bool {
        match self {
            Self::Exact(one) => one == identity,
            Self::Prefix(prefix) => identity.0.starts_with(prefix),
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(one) => one.fmt(f),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

macro_rules! from_text {
    ($type:ident) => {
        impl std::str::FromStr for $type {
            type Err = IdentityError;
            fn from_str(text: &str) -> Result<Self, IdentityError> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = IdentityError;
            fn try_from(text: String) -> Result<Self, IdentityError> {
                Self::parse(&text)
            }
        }
    };
}
from_text!(Identity);
from_text!(IdentityPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        for good in ["spiffe://demo/member/m1", "spiffe://a.b-c_d/x", "spiffe://d/A/b.c"] {
            assert_eq!(Identity::parse(good).unwrap().as_str(), good);
        }
        let long = format!("spiffe://d/{}", "x".repeat(300));
        for bad in [
            "",
            "http://demo/x",
            "spiffe://demo",
            "spiffe://demo/",
            "spiffe:///x",
            "spiffe://Demo/x",
            "spiffe://demo/x/",
            "spiffe://demo//x",
            "spiffe://demo/./x",
            "spiffe://demo/../x",
            "spiffe://demo/%41",
            "spiffe://demo/a b",
            "spiffe://demo/x?y",
            "spiffe://demo/x#y",
            "SPIFFE://demo/x",
            "spiffe://de:mo/x",
            "spiffe://demo/\u{e9}",
            &long,
        ] {
            assert!(Identity::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let p = IdentityPattern::parse("spiffe://demo/member/*").unwrap();
        assert!(p.matches(&Identity::parse("spiffe://demo/member/m1").unwrap()));
        assert!(p.matches(&Identity::parse("spiffe://demo/member/a/b").unwrap()));
        for other in
            ["spiffe://demo/memberx", "spiffe://demo/member", "spiffe://demo/Member/m1", "spiffe://other/member/m1"]
        {
            assert!(!p.matches(&Identity::parse(other).unwrap()), "{other}");
        }
        for bad in ["*", "spiffe://*", "spiffe://demo/mem*", "spiffe://demo/../*", "spiffe:///*"] {
            assert!(IdentityPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
