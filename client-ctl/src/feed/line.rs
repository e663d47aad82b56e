//! One line of the feed: a group's state as JSON, with times relative to the moment at which it is written.

use std::time::Duration;

use protocol::request::Role;
use protocol::{DataKey, Reason};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::core::{LiveKey, Now, Snapshot, Status};

/// Version of the feed.
const VERSION: u8 = 1;

#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    group: &'a str,
    group_id: Option<u32>,
    status: Status,
    detail: &'a str,
    sender_id: Option<u32>,
    role: Option<&'static str>,
    joined_epoch: Option<u64>,
    left_epoch: Option<u64>,
    hold_ms: u64,
    keys: Vec<Key>,
}

#[derive(Serialize)]
struct Key {
    epoch: u64,
    kid: u32,
    parity: u8,
    state: &'static str,
    reason: &'static str,
    revoke: bool,
    send_not_before_ms: u64,
    send_until_ms: Option<u64>,
    receive_from_ms: u64,
    receive_until_ms: Option<u64>,
    time_to_next_ms: Option<u64>,
    lifetime_ms: Option<u64>,
    secret: Hex,
    derived: Derived,
}

#[derive(Serialize)]
struct Derived {
    /// 32 octets of key, 12 of salt (RFC 7714).
    #[serde(rename = "srtp/aes-256-gcm")]
    srtp: Hex,
    /// 32 octets of key, 4 of salt (RFC 4106).
    #[serde(rename = "esp/aes-256-gcm")]
    esp: Hex,
    /// 32 octets of key (IEEE 802.1AE).
    #[serde(rename = "macsec/gcm-aes-256")]
    macsec: Hex,
}

/// A secret in hexadecimal digits, wiped when written.
struct Hex(Zeroizing<String>);

impl Hex {
    fn new(octets: &[u8]) -> Self {
        Self(Zeroizing::new(hex::encode(octets)))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The state of a group as one JSON object and a line feed. Numbers that are not known yet (`group_id`, `sender_id`) are null.
pub fn line(snapshot: &Snapshot, now: Now) -> Zeroizing<Vec<u8>> {
    let newest = snapshot.keys.last().map(|live| live.epoch);
    let line = Line {
        v: VERSION,
        group: &snapshot.group,
        group_id: snapshot.group_id.map(|id| id.0),
        status: snapshot.status,
        detail: &snapshot.detail,
        sender_id: snapshot.sender_id.map(|id| id.0),
        role: snapshot.role.map(Role::name),
        joined_epoch: snapshot.joined_epoch,
        left_epoch: snapshot.left_epoch,
        hold_ms: snapshot.hold_ms,
        keys: snapshot.keys.iter().map(|live| key(live, newest == Some(live.epoch), now)).collect(),
    };
    // Room for everything at once, so that growth leaves no copy of a secret behind: a key takes under 800 octets.
    let mut out = Zeroizing::new(Vec::with_capacity(2_048 + 1_024 * line.keys.len()));
    // Strings and numbers into memory: this cannot fail.
    let _ = serde_json::to_writer(&mut *out, &line);
    out.push(b'\n');
    out
}

fn key(live: &LiveKey, is_newest: bool, now: Now) -> Key {
    let until = |at: Option<Now>| at.map(|at| ms(at.saturating_sub(now)));
    Key {
        epoch: live.epoch,
        kid: kid(live.epoch),
        parity: u8::from(live.epoch % 2 == 1),
        state: if is_newest { "current" } else { "previous" },
        reason: live.reason.map_or("earlier", reason),
        revoke: live.reason.is_some_and(Reason::revokes),
        send_not_before_ms: ms(live.send_not_before.saturating_sub(now)),
        send_until_ms: until(live.send_until),
        receive_from_ms: ms(live.receive_from.saturating_sub(now)),
        receive_until_ms: until(live.receive_until),
        time_to_next_ms: None,
        lifetime_ms: None,
        secret: Hex::new(live.key.expose()),
        derived: Derived {
            srtp: derived::<44>(&live.key, b"srtp/aes-256-gcm"),
            esp: derived::<36>(&live.key, b"esp/aes-256-gcm"),
            macsec: derived::<32>(&live.key, b"macsec/gcm-aes-256"),
        },
    }
}

fn derived<const N: usize>(key: &DataKey, profile: &[u8]) -> Hex {
    let octets: Zeroizing<[u8; N]> = Zeroizing::new(protocol::schedule::expand(key.expose(), b"profile", &[profile]));
    Hex::new(&*octets)
}

/// The number of a key for data planes that have 32 bits for it: the epoch below 2^32, and beyond it 1 to 2^32 - 1 again
/// and again, so never 0 and never the same for two epochs that are live together.
pub fn kid(epoch: u64) -> u32 {
    u32::try_from(epoch.saturating_sub(1) % u64::from(u32::MAX) + 1).unwrap_or(u32::MAX)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Join => "join",
        Reason::Leave => "leave",
        Reason::Evict => "evict",
        Reason::Refresh => "refresh",
        Reason::Restart => "restart",
        Reason::Renew => "renew",
        Reason::Batch => "batch",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{GroupId, MemberId};

    #[test]
    fn times_are_relative_and_lengths_right() {
        let at = |ms| Duration::from_millis(ms);
        let live = |epoch, send_until, receive_until| LiveKey {
            epoch,
            reason: Some(Reason::Evict),
            send_not_before: at(1_250),
            send_until,
            receive_from: at(1_000),
            receive_until,
            key: DataKey::new([7; 32]),
        };
        let snapshot = Snapshot {
            group: "demo".into(),
            group_id: Some(GroupId(1)),
            status: Status::Member,
            detail: String::new(),
            sender_id: Some(MemberId(9)),
            role: Some(Role::Receiver),
            joined_epoch: Some(5),
            left_epoch: None,
            hold_ms: 4_000,
            keys: vec![live(5, Some(at(900)), Some(at(5_000))), live(6, None, None)],
        };
        let out = line(&snapshot, at(1_100));
        assert_eq!(out.iter().filter(|octet| **octet == b'\n').count(), 1);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["role"], "receiver");
        assert_eq!((&json["v"], &json["status"], &json["sender_id"]), (&1.into(), &"member".into(), &9.into()));
        let (five, six) = (&json["keys"][0], &json["keys"][1]);
        assert_eq!((&five["state"], &five["send_until_ms"]), (&"previous".into(), &0.into()));
        assert_eq!((&five["receive_until_ms"], &five["parity"]), (&3_900.into(), &1.into()));
        assert_eq!((&six["state"], &six["send_not_before_ms"]), (&"current".into(), &150.into()));
        assert!(six["send_until_ms"].is_null() && six["revoke"] == true && six["reason"] == "evict");
        assert_eq!(six["secret"], "07".repeat(32));
        let digits = |name: &str| six["derived"][name].as_str().unwrap().len();
        assert_eq!(["srtp/aes-256-gcm", "esp/aes-256-gcm", "macsec/gcm-aes-256"].map(digits), [88, 72, 64]);
    }

    #[test]
    fn a_kid_is_never_zero_and_never_twice_in_a_row() {
        let wrap = u64::from(u32::MAX);
        assert_eq!([1, 6, wrap].map(kid), [1, 6, u32::MAX]);
        assert_eq!([wrap + 1, wrap + 2, 2 * wrap, 2 * wrap + 1].map(kid), [1, 2, u32::MAX, 1]);
        assert_eq!(kid(0), 1);
    }
}
