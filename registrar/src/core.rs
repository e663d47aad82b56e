//! The pure core of the registrar: one small state machine for each client that is registering.
//!
//! ```text
//! Register -> FetchNumber -> Number -> Export -> HandOver -> Durable -> Registered
//! ```
//!
//! Of a sealed registration nothing is made here: Register -> RegisterSealed -> DurableSealed -> RegisteredSealed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{
    Answer, FromClient, FromRegistrar, Refusal, RefusalCode, ToClient, ToRegistrar, exporter_context,
};
use protocol::{Credential, IndividualKey, MemberId};
use zeroize::Zeroizing;

pub use self::io::{Event, Input, Output, Tally};

mod io;

/// Time since an arbitrary start.
pub type Now = Duration;

/// Clients that register at once: ten times the handshakes in flight, 1 KB each.
const MAX_SESSIONS: usize = 1_000;
/// A registration takes two questions to the key server and one write there.
const SESSION_TIME: Duration = Duration::from_secs(10);
/// A key server that says nothing for so long after a question is gone, though its connection still looks open.
const SILENCE: Duration = Duration::from_secs(10);
/// What a client is told to wait at the least when the key server is away, or answers too late.
const RETRY: Duration = Duration::from_secs(1);
/// Those who were told so come back one after the other, at this distance: about what one core can do. The last are told this
/// much, which is as long as clients believe.
const RETRY_EACH: Duration = Duration::from_millis(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Clients in the list: more than one key server admits.
const MAX_CLIENTS: usize = 4_000_000;

/// What the registrar is told once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its own identity.
    pub identity: Identity,
    /// The clients that it serves; the key server has the last word.
    pub clients: Vec<IdentityPattern>,
}

enum State {
    /// Authenticated; has not said anything.
    Silent,
    /// Its number was asked for.
    Asked,
    /// It was told its number, the key is being made.
    Numbered(MemberId, u64),
    /// Its key was handed over.
    HandedOver(MemberId),
    /// What it offers was passed on.
    Sealed,
}

struct Session {
    identity: Identity,
    credential: Credential,
    state: State,
    deadline: Now,
}

/// The registrar's state and rules.
pub struct Core {
    config: Config,
    /// Name of the key server while it is connected and has sent its list.
    key_server: Option<String>,
    linked: bool,
    clients: BTreeMap<Identity, MemberId>,
    sessions: BTreeMap<u64, Session>,
    /// Sessions by the tag of their open question.
    tags: BTreeMap<u32, u64>,
    next_tag: u32,
    /// Since when the key server owes an answer and has said nothing at all.
    owed_since: Option<Now>,
    /// When the last of those is expected who found no key server.
    expected: Now,
    tally: Tally,
    outputs: VecDeque<Output>,
}

impl Core {
    /// A registrar that is not connected yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            key_server: None,
            linked: false,
            clients: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tags: BTreeMap::new(),
            next_tag: 0,
            owed_since: None,
            expected: Now::ZERO,
            tally: Tally::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The client list: the ID number of an identity.
    pub fn client(&self, identity: &Identity) -> Option<MemberId> {
        self.clients.get(identity).copied()
    }

    /// Takes one input. Drain [`Core::poll_output`] before the next.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::LinkUp => self.linked = true,
            Input::LinkDown => {
                self.linked = false;
                self.key_server = None;
                self.owed_since = None;
                // Numbers die with the connection that fetched them, so whoever has said something begins again.
                let under_way = self.sessions.iter().filter(|(_, session)| !matches!(session.state, State::Silent));
                for session in under_way.map(|(session, _)| *session).collect::<Vec<_>>() {
                    self.unavailable(now, session, AWAY);
                }
            }
            Input::FromKeyServer(frame) => {
                self.owed_since = None;
                self.on_key_server(frame);
            }
            Input::ClientUp { session, identity, credential } => self.client_up(now, session, identity, credential),
            Input::Unproved { session, refusal } => {
                self.tally.unproved += 1;
                let event = Event::Unproved { why: refusal.text.clone() };
                let frame = ToClient::Refused(refusal).encode();
                self.outputs.push_back(Output::ToClient { session, frame, close: true });
                self.outputs.push_back(Output::Event(event));
            }
            Input::Failed => self.tally.failed += 1,
            Input::FromClient { session, frame } => self.on_client(now, session, frame),
            Input::Exported { session, key } => self.exported(now, session, key),
            Input::ClientDown { session } => self.forget(session),
            Input::Timeout => {}
        }
        let late: Vec<u64> =
            self.sessions.iter().filter(|(_, s)| s.deadline <= now).map(|(session, _)| *session).collect();
        for session in late {
            self.unavailable(now, session, "the registration took too long");
        }
        if self.owed_since.is_some_and(|since| since + SILENCE <= now) {
            self.owed_since = None;
            self.outputs.push_back(Output::CutKeyServer);
        }
    }

    /// The next thing to be done, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Core::handle`] with a time-out at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Now, &'static str)> {
        let sessions = self.sessions.values().map(|session| (session.deadline, "a registration takes too long"));
        let silence = self.owed_since.map(|since| (since + SILENCE, "the key server answers nothing"));
        sessions.chain(silence).min()
    }

    /// How many clients came to what since the start.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Registrations that are under way.
    pub fn under_way(&self) -> usize {
        self.sessions.len()
    }

    /// The key server's name, while it is connected and has sent its list.
    pub fn key_server(&self) -> Option<&str> {
        self.key_server.as_deref()
    }

    /// Clients in its list.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    fn client_up(&mut self, now: Now, session: u64, identity: Identity, credential: Credential) {
        let served = self.config.clients.iter().any(|pattern| pattern.matches(&identity));
        let full = self.sessions.len() >= MAX_SESSIONS;
        let deadline = now + SESSION_TIME;
        self.sessions.insert(session, Session { identity, credential, state: State::Silent, deadline });
        if !served {
            let text = "this registrar does not serve this identity";
            self.refuse(session, Refusal::new(RefusalCode::Identity, text, 0));
        } else if full {
            self.refuse(session, Refusal::new(RefusalCode::Busy, "too many registrations at once", millis(RETRY)));
        }
    }

    fn on_client(&mut self, now: Now, session: u64, frame: &[u8]) {
        let Some(known) = self.sessions.get(&session) else {
            return;
        };
        let Ok(message) = FromClient::decode(frame) else {
            return self.refuse(session, Refusal::new(RefusalCode::Malformed, "not a registration", 0));
        };
        if !matches!(known.state, State::Silent) {
            return self.refuse(session, Refusal::new(RefusalCode::Malformed, "asked twice", 0));
        }
        match &self.key_server {
            None => self.unavailable(now, session, AWAY),
            Some(name) if name != message.key_server() => {
                let text = format!("this registrar serves key server {name}");
                self.refuse(session, Refusal::new(RefusalCode::KeyServer, &text, 0));
            }
            Some(_) => {
                let (identity, Credential { kind, ends, name }) = (known.identity.clone(), known.credential.clone());
                let offers = message.offers().to_vec();
                if offers.is_empty() {
                    self.ask(now, session, |tag| FromRegistrar::FetchNumber { tag, kind, identity });
                    return self.advance(session, State::Asked);
                }
                let credential = name;
                self.ask(now, session, |tag| FromRegistrar::RegisterSealed {
                    tag,
                    kind,
                    identity,
                    offers,
                    ends,
                    credential,
                });
                self.advance(session, State::Sealed);
            }
        }
    }

    fn exported(&mut self, now: Now, session: u64, key: IndividualKey) {
        let known = self.sessions.get(&session);
        let Some(Session { state: State::Numbered(client, registration), credential, .. }) = known else {
            return;
        };
        let (client, registration) = (*client, *registration);
        let (ends, credential) = (credential.ends, credential.name.clone());
        self.ask(now, session, |tag| FromRegistrar::HandOver { tag, client, registration, key, ends, credential });
        self.advance(session, State::HandedOver(client));
    }

    fn on_key_server(&mut self, frame: &[u8]) {
        let message = match ToRegistrar::decode(frame) {
            Ok(message) if self.linked => message,
            _ => return self.outputs.push_back(Output::CutKeyServer),
        };
        match message {
            ToRegistrar::ClientList { key_server, first, last, entries } => {
                if first {
                    self.clients.clear();
                }
                entries.into_iter().for_each(|entry| self.list(entry.identity, entry.client));
                if last {
                    self.key_server = Some(key_server);
                    self.outputs.push_back(Output::Event(Event::ClientList { clients: self.clients.len() }));
                }
            }
            ToRegistrar::ClientAdded(entry) => self.list(entry.identity, entry.client),
            ToRegistrar::Number { tag, client, registration } => self.numbered(tag, client, registration),
            ToRegistrar::Durable { tag } => self.durable(tag, None),
            ToRegistrar::DurableSealed { tag, client, answer } => self.durable(tag, Some((client, answer))),
            ToRegistrar::Refused { tag, refusal } => {
                if let Some(session) = self.tags.remove(&tag) {
                    self.refuse(session, refusal);
                }
            }
        }
    }

    fn list(&mut self, identity: Identity, client: MemberId) {
        if self.clients.len() < MAX_CLIENTS {
            self.clients.insert(identity, client);
        }
    }

    fn numbered(&mut self, tag: u32, client: MemberId, registration: u64) {
        let (Some(&session), Some(key_server)) = (self.tags.get(&tag), self.key_server.clone()) else {
            return;
        };
        let Some(Session { identity, state: State::Asked, .. }) = self.sessions.get(&session) else {
            return self.outputs.push_back(Output::CutKeyServer);
        };
        let context = exporter_context(identity, &self.config.identity, &key_server, client, registration);
        let frame = ToClient::Number { client, registration }.encode();
        self.outputs.push_back(Output::ToClient { session, frame, close: false });
        self.outputs.push_back(Output::Export { session, context });
        self.tags.remove(&tag);
        self.advance(session, State::Numbered(client, registration));
    }

    /// The key server has what it was told about a client: the exported key, or the one that goes with this answer.
    fn durable(&mut self, tag: u32, sealed: Option<(MemberId, Box<Answer>)>) {
        let Some(&session) = self.tags.get(&tag) else {
            return;
        };
        let Some(Session { identity, state, .. }) = self.sessions.get(&session) else {
            return;
        };
        let (client, last) = match (state, sealed) {
            (State::HandedOver(client), None) => (*client, ToClient::Registered),
            (State::Sealed, Some((client, answer))) => (client, ToClient::RegisteredSealed(answer)),
            _ => return self.outputs.push_back(Output::CutKeyServer),
        };
        let event = Event::Registered { client, identity: identity.clone() };
        self.tally.registered += 1;
        self.forget(session);
        self.outputs.push_back(Output::ToClient { session, frame: last.encode(), close: true });
        self.outputs.push_back(Output::Event(event));
    }

    /// Asks the key server about `session`. A tag serves once: an answer that comes after its client has gone must
    /// never be taken for the answer to another client's question, whose key would then be that client's.
    fn ask(&mut self, now: Now, session: u64, question: impl FnOnce(u32) -> FromRegistrar) {
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        self.tags.insert(tag, session);
        self.owed_since.get_or_insert(now);
        self.outputs.push_back(Output::ToKeyServer(Zeroizing::new(question(tag).encode())));
    }

    fn advance(&mut self, session: u64, state: State) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.state = state;
        }
    }

    /// No key server now: clients come back one after the other.
    fn unavailable(&mut self, now: Now, session: u64, why: &str) {
        self.expected = (self.expected + RETRY_EACH).clamp(now + RETRY, now + RETRY_LAST);
        self.refuse(session, Refusal::new(RefusalCode::Unavailable, why, millis(self.expected - now)));
    }

    fn refuse(&mut self, session: u64, refusal: Refusal) {
        let Some(Session { identity, .. }) = self.sessions.get(&session) else {
            return;
        };
        let (identity, why) = (identity.clone(), refusal.text.clone());
        self.tally.refused += 1;
        self.forget(session);
        let frame = ToClient::Refused(refusal).encode();
        self.outputs.push_back(Output::ToClient { session, frame, close: true });
        self.outputs.push_back(Output::Event(Event::Refused { identity, why }));
    }

    fn forget(&mut self, session: u64) {
        self.sessions.remove(&session);
        self.tags.retain(|_, asked| *asked != session);
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

const AWAY: &str = "the key server cannot be reached";

fn millis(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
