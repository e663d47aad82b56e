//! One entry for each decoder, and each state machine, that faces the network, and for what an operator writes by hand: any octets go in, and what must hold of
//! whatever is accepted is asserted. `cargo test` and `cargo fuzz` run the same entries.
//!
//! An entry looks no further than its input: the same octets always do the same. Nothing in an input makes it work for
//! long, so that a time-out is a finding too.

mod history;
mod messages;
mod peers;
mod policy;
mod published;
mod repair;
mod site;
mod streams;
mod subscriber;

/// A decoder or state machine under test.
pub struct Entry {
    /// Its name, as in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Takes any octets. Whether they were accepted: what that means is said at the function. Panics if something is
    /// accepted that must not be, or comes out other than it went in.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that are accepted, to begin from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// About how many times the work of a plain decoder one input is; it is given so many times fewer.
    pub cost: u64,
}

const fn entry(name: &'static str, run: fn(&[u8]) -> bool, seeds: fn() -> Vec<Vec<u8>>) -> Entry {
    Entry { name, run, seeds, cost: 1 }
}

/// One that signs, verifies, or carries a state machine to where its input begins.
const fn slow(name: &'static str, run: fn(&[u8]) -> bool, seeds: fn() -> Vec<Vec<u8>>, cost: u64) -> Entry {
    Entry { name, run, seeds, cost }
}

/// All entries.
pub const ENTRIES: &[Entry] = &[
    slow("unit", messages::unit, messages::unit_seeds, 4),
    slow("beacon", messages::beacon, messages::beacon_seeds, 4),
    entry("rekey_message", messages::rekey_message, messages::rekey_message_seeds),
    entry("preamble", messages::preamble, messages::preamble_seeds),
    entry("request", messages::request, messages::request_seeds),
    entry("reply", messages::reply, messages::reply_seeds),
    entry("identity", messages::identity, messages::identity_seeds),
    slow("site_certificate", messages::site_certificate, messages::site_certificate_seeds, 8),
    entry("from_client", messages::from_client, messages::from_client_seeds),
    entry("to_client", messages::to_client, messages::to_client_seeds),
    entry("from_registrar", messages::from_registrar, messages::from_registrar_seeds),
    entry("to_registrar", messages::to_registrar, messages::to_registrar_seeds),
    entry("frame", streams::frame, streams::frame_seeds),
    slow("handshake", streams::handshake, streams::handshake_seeds, 8),
    slow("offers", streams::offers, streams::offers_seeds, 40),
    entry("certificate", streams::certificate, streams::certificate_seeds),
    entry("assembly", repair::assembly, repair::assembly_seeds),
    entry("reassembly", repair::reassembly, repair::reassembly_seeds),
    slow("client_datagrams", subscriber::datagrams, subscriber::datagrams_seeds, 40),
    slow("client_signed", subscriber::signed, subscriber::signed_seeds, 40),
    slow("client_reply", subscriber::reply, subscriber::reply_seeds, 10),
    entry("page", published::page, published::page_seeds),
    slow("pages_head", published::head, published::head_seeds, 8),
    entry("published_epoch", published::epoch, published::epoch_seeds),
    slow("client_published", published::member, published::member_seeds, 40),
    slow("keyserver_registrar", peers::registrar_frames, peers::registrar_frames_seeds, 20),
    slow("keyserver_request", peers::requests, peers::requests_seeds, 20),
    entry("registrar", peers::registrar, peers::registrar_seeds),
    slow("policy", policy::policy, policy::policy_seeds, 20),
];

/// Runs one entry: what a target of `cargo fuzz` calls.
pub fn run(name: &str, data: &[u8]) {
    let entry = ENTRIES.iter().find(|entry| entry.name == name).expect("an entry of this name");
    (entry.run)(data);
}

/// Inputs in one sequence at the most: bounds the work of entries that take several.
const MAX_PIECES: usize = 64;

/// The pieces of a sequence: each behind its length (u16, big-endian), the last one cut short where octets are missing.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let next = move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()));
        data = rest;
        Some(piece)
    };
    std::iter::from_fn(next).take(MAX_PIECES)
}

/// The sequence of these pieces.
fn sequence<T: AsRef<[u8]>>(pieces: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&u16::try_from(piece.as_ref().len()).unwrap().to_be_bytes());
        out.extend_from_slice(piece.as_ref());
    }
    out
}
