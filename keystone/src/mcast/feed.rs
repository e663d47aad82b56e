//! One line of the feed of `client-ctl`: the full state of a group, with the keys that are alive.

use std::time::Duration;

use protocol::DataKey;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest line in octets: 32 live keys of 1 KiB each, four times over.
pub(super) const MAX_LINE: usize = 128 << 10;

/// Why a line is no state. `client-ctl` is to blame; the state before stays.
#[derive(Debug, Error)]
pub(super) enum FeedError {
    /// No JSON, or not the JSON that is expected.
    #[error("line {line} column {column} of a state of the feed is not understood ({category:?})")]
    Json {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
        /// What kind of fault; the text itself may hold a key.
        category: serde_json::error::Category,
    },
    /// Another version of the feed.
    #[error("the feed speaks version {0}, expected 1")]
    Version(u32),
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// No key yet.
    Joining,
    /// Has the keys.
    Member,
    /// Has not heard from its key server for a while.
    Stale,
    /// Has left.
    Left,
    /// Was evicted.
    Evicted,
    /// May not join.
    Refused,
    /// A word of a later version, which must not end a data processor.
    #[serde(other)]
    Other,
}

/// A group as its member sees it; times are those of the data processor's clock.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Number of the group, once known.
    pub(super) group: Option<u32>,
    /// This member's number as a sender, once known.
    pub(super) sender: Option<u32>,
    /// Whether the policy means this member to send. Nothing but its own data processors can keep to that.
    pub(super) may_send: bool,
    /// Where the member stands.
    pub(super) status: Status,
    /// Why, in words.
    pub(super) detail: String,
    /// How long a receiver holds packets whose key is on its way.
    pub(super) hold: Option<Duration>,
    /// Oldest first.
    pub(super) keys: Vec<Key>,
}

/// The data key of an epoch.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// The epoch.
    pub(super) epoch: u64,
    /// Whether older keys must not be used for sending from here on.
    pub(super) revoke: bool,
    /// Senders wait until then.
    pub(super) send_not_before: Duration,
    /// Senders stop then.
    pub(super) send_until: Option<Duration>,
    /// Receivers forget it then.
    pub(super) receive_until: Option<Duration>,
    /// The key.
    pub(super) secret: DataKey,
}

impl Status {
    /// Whether the member is out and no further key will come.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Left | Self::Evicted | Self::Refused)
    }
}

impl State {
    /// Reads a line that arrived at `now`.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub(super) fn parse(line: &[u8], now: Duration) -> Result<Self, FeedError> {
        let line: Line = serde_json::from_slice(line).map_err(|why| FeedError::Json {
            line: why.line(),
            column: why.column(),
            category: why.classify(),
        })?;
        if line.v != 1 {
            return Err(FeedError::Version(line.v));
        }
        let mut keys: Vec<Key> = line.keys.into_iter().map(|key| key.at(now)).collect();
        keys.sort_by_key(|key| key.epoch);
        Ok(Self {
            group: line.group_id,
            sender: line.sender_id,
            may_send: line.role.as_deref() != Some("receiver"),
            status: line.status,
            detail: line.detail.unwrap_or_default(),
            hold: line.hold_ms.map(Duration::from_millis),
            keys,
        })
    }
}

#[derive(Deserialize)]
struct Line {
    v: u32,
    group_id: Option<u32>,
    sender_id: Option<u32>,
    #[serde(default)]
    role: Option<String>,
    status: Status,
    detail: Option<String>,
    hold_ms: Option<u64>,
    keys: Vec<LineKey>,
}

#[derive(Deserialize)]
struct LineKey {
    epoch: u64,
    #[serde(default)]
    revoke: bool,
    #[serde(default)]
    send_not_before_ms: u64,
    send_until_ms: Option<u64>,
    receive_until_ms: Option<u64>,
    #[serde(deserialize_with = "secret")]
    secret: DataKey,
}

impl LineKey {
    fn at(self, now: Duration) -> Key {
        let then = |ms| now + Duration::from_millis(ms);
        Key {
            epoch: self.epoch,
            revoke: self.revoke,
            send_not_before: then(self.send_not_before_ms),
            send_until: self.send_until_ms.map(then),
            receive_until: self.receive_until_ms.map(then),
            secret: self.secret,
        }
    }
}

/// 64 hexadecimal digits, without a copy of the text.
fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<DataKey, D::Error> {
    let text = <&str>::deserialize(from)?;
    let mut octets = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text, octets.as_mut_slice())
        .map_err(|_| D::Error::custom("the secret is not 64 hexadecimal digits"))?;
    Ok(DataKey::new(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(keys: &str) -> String {
        format!(
            r#"{{"v":1,"group":"demo","group_id":1,"status":"member","detail":"","sender_id":7,
            "joined_epoch":3,"left_epoch":null,"hold_ms":2500,"new":{{}},"keys":[{keys}]}}"#
        )
    }

    #[test]
    fn a_state() {
        let secret = "0b".repeat(32);
        let keys = format!(
            r#"{{"epoch":6,"kid":6,"parity":0,"state":"current","reason":"join","revoke":false,
            "send_not_before_ms":250,"send_until_ms":null,"receive_from_ms":0,"receive_until_ms":900,
            "time_to_next_ms":null,"lifetime_ms":null,"secret":"{secret}","derived":{{}}}}"#
        );
        let state = State::parse(line(&keys).as_bytes(), Duration::from_secs(1)).unwrap();
        assert_eq!((state.group, state.sender, state.status), (Some(1), Some(7), Status::Member));
        assert_eq!((state.hold, state.may_send), (Some(Duration::from_millis(2500)), true));
        for (role, may_send) in [("sender", true), ("both", true), ("receiver", false)] {
            let text = line("").replace("\"new\":{}", &format!("\"role\":\"{role}\""));
            assert_eq!(State::parse(text.as_bytes(), Duration::ZERO).unwrap().may_send, may_send);
        }
        let [key] = &state.keys[..] else { panic!("one key") };
        assert_eq!((key.epoch, key.revoke, key.send_until), (6, false, None));
        assert_eq!(key.send_not_before, Duration::from_millis(1250));
        assert_eq!(key.receive_until, Some(Duration::from_millis(1900)));
        assert_eq!(key.secret.expose(), &[0x0b; 32]);
        assert!(!format!("{state:?}").contains("0b0b"));
    }

    #[test]
    fn what_is_not_known_yet_and_what_is_new() {
        let text = r#"{"v":1,"group_id":null,"sender_id":null,"status":"joining","keys":[]}"#;
        let state = State::parse(text.as_bytes(), Duration::ZERO).unwrap();
        assert_eq!((state.group, state.sender, state.hold), (None, None, None));
        let text = text.replace("joining", "hibernating");
        let state = State::parse(text.as_bytes(), Duration::ZERO).unwrap();
        assert!(!state.status.is_over());
    }

    #[test]
    fn an_error_tells_no_secret() {
        let keys = format!(r#"{{"epoch":6,"secret":"zz{}"}}"#, "0b".repeat(31));
        let error = State::parse(line(&keys).as_bytes(), Duration::ZERO).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("0b0b"), "{error:?}");
        let error = State::parse(line("").replace("\"v\":1", "\"v\":2").as_bytes(), Duration::ZERO);
        assert_eq!(error.unwrap_err().to_string(), "the feed speaks version 2, expected 1");
        State::parse(b"{", Duration::ZERO).unwrap_err();
    }
}
