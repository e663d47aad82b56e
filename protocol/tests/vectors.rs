//! Golden vectors for other implementations: `tests/vectors/*.json`, with every intermediate key. This test compares the
//! files with what the code makes; with `KEYSTONE_WRITE_VECTORS` set it writes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::common::{Server, announcement};
use fec::{Layout, ReedSolomon, RepairScheme};
use keygraph::Change::{Compact, Join, Leave, Refresh, Renew};
use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Plan, Source, Strategy};
use protocol::execute::Executed;
use protocol::pages::{Book, Head, Standing};
use protocol::schedule::expand;
use protocol::unit::{BlockHeader, sign_block};
use protocol::{
    Beacon, EpochContext, EpochHeader, GroupId, HeaderHash, KeyPath, NodeSecret, SigningKey, Suite, TagKey,
};
use serde_json::{Value, json};

/// Members whose paths are shown before and after each epoch.
const SHOWN: [u32; 2] = [1, 6];

fn name(key: KeyRef) -> Value {
    json!([key.node.0, key.version])
}

fn name_octets(key: KeyRef) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&key.node.0.to_be_bytes());
    out[4..].copy_from_slice(&key.version.to_be_bytes());
    out
}

fn path(path: &KeyPath, server: &Server) -> Value {
    let length = server.suite.secret_len();
    let keys = path.held().map(|key| json!([key.node.0, key.version, secret(server, key, length)]));
    json!({ "leaf": path.leaf().0, "keys": keys.collect::<Vec<_>>() })
}

fn secret(server: &Server, key: KeyRef, length: usize) -> String {
    hex::encode(&server.held.0[&key.node].1.expose()[..length])
}

/// One group, its changes one after the other.
struct Recorder {
    server: Server,
    signing: SigningKey,
    previous: HeaderHash,
    /// Every secret that ever was.
    secrets: BTreeMap<KeyRef, NodeSecret>,
}

impl Recorder {
    fn epoch(&mut self, changes: &[Change]) -> Value {
        let epoch = self.server.epoch() + 1;
        let context = self.server.context(epoch);
        let length = context.suite.secret_len();
        for (node, (version, secret)) in &self.server.held.0 {
            self.secrets.insert(KeyRef { node: *node, version: *version }, secret.clone());
        }
        let member = |id: &u32| self.server.tree.contains(MemberId(*id)).then(|| self.server.path(MemberId(*id)));
        let before: BTreeMap<u32, Value> =
            SHOWN.iter().filter_map(|id| Some((*id, path(&member(id)?, &self.server)))).collect();
        let tag = self.server.context(epoch - 1).tag(&self.server.held.0[&NodeId::ROOT].1);
        let (executed, plan) = self.server.change(changes, u8::try_from(epoch).unwrap());
        for (node, secret) in &executed.secrets {
            self.secrets.insert(KeyRef { node: *node, version: epoch }, secret.clone());
        }
        let joined: Vec<u32> = plan.joined.iter().map(|(member, _)| member.0).collect();
        let follows = |id: &u32| before.contains_key(id) && !joined.contains(id);
        let after = SHOWN.iter().filter(|id| follows(id) && self.server.tree.contains(MemberId(**id)));
        let members: BTreeMap<u32, Value> = after
            .map(|id| {
                let after = path(&self.server.path(MemberId(*id)), &self.server);
                (*id, json!({ "before": before[id], "after": after }))
            })
            .collect();
        let header = EpochHeader {
            suite: context.suite,
            group: context.group,
            incarnation: context.incarnation,
            term: context.term,
            epoch,
            previous: self.previous,
        };
        self.previous = header.hash(&executed.commitment);
        let root = &self.server.held.0[&NodeId::ROOT].1;
        json!({
            "epoch": epoch,
            "changes": changes.iter().map(|change| format!("{change:?}")).collect::<Vec<_>>(),
            "previous": hex::encode(header.previous.0),
            "header_hash": hex::encode(self.previous.0),
            "messages": executed.messages.iter().map(|message| hex::encode(message.encode())).collect::<Vec<_>>(),
            "datagrams": self.datagrams(&header, &executed, &tag),
            "commitment": hex::encode(executed.commitment.0),
            "data_key": hex::encode(context.data(root).expose()),
            "secrets": secrets(&plan, &executed, length),
            "wraps": self.wraps(&context, &plan, &executed),
            "members": members,
        })
    }

    /// Each once, however often it is sent.
    fn datagrams(&self, epoch: &EpochHeader, executed: &Executed, tag: &TagKey) -> Vec<String> {
        let mut all = Vec::new();
        for (message, number) in executed.messages.iter().zip(0..) {
            let message = message.encode();
            let layout = Layout::new(message.len(), &RepairScheme::Rs1).unwrap();
            for (block, at) in fec::encode(&message, &layout, &ReedSolomon::new()).unwrap().iter().zip(0..) {
                let header = BlockHeader {
                    epoch: *epoch,
                    message: number,
                    messages: u16::try_from(executed.messages.len()).unwrap(),
                    message_len: u32::try_from(message.len()).unwrap(),
                    blocks: layout.block_count(),
                    block: at,
                    s: block.shape.s(),
                    r: block.shape.r(),
                };
                all.extend(sign_block(&header, &block.units, &self.signing, tag).unwrap().iter().map(hex::encode));
            }
        }
        all.dedup();
        all
    }

    fn wraps(&self, context: &EpochContext, plan: &Plan, executed: &Executed) -> Vec<Value> {
        let length = context.suite.secret_len();
        let sent: Vec<String> = executed
            .messages
            .iter()
            .flat_map(|m| &m.entries)
            .flat_map(|e| e.wraps())
            .map(|w| hex::encode(&w[..length]))
            .collect();
        let one = |update: &keygraph::Update, kek: KeyRef| {
            let target = KeyRef { node: update.node, version: plan.epoch };
            let mut names = Vec::new();
            names.push(context.suite as u8);
            names.extend_from_slice(&context.group.0.to_be_bytes());
            names.extend_from_slice(&context.incarnation.0);
            names.extend_from_slice(&context.term.to_be_bytes());
            names.extend_from_slice(&context.epoch.to_be_bytes());
            names.extend_from_slice(&name_octets(kek));
            names.extend_from_slice(&name_octets(target));
            let one_time: [u8; 48] = expand(self.secrets[&kek].expose(), b"wrap", &[&names]);
            let (key, iv) = one_time[..length + 16].split_at(length);
            json!({ "kek": name(kek), "target": name(target), "key": hex::encode(key), "iv": hex::encode(iv) })
        };
        let wraps = plan.updates.iter().flat_map(|update| update.wraps.iter().map(move |wrap| one(update, wrap.kek)));
        let all: Vec<Value> = wraps.collect();
        // Each wrap is sent in some message, and nothing else is.
        assert!(sent.len() >= all.len());
        all
    }
}

/// Every secret that an epoch makes, and what from.
fn secrets(plan: &Plan, executed: &Executed, length: usize) -> Vec<Value> {
    let made: BTreeMap<NodeId, &NodeSecret> = executed.secrets.iter().map(|(node, secret)| (*node, secret)).collect();
    let show = |node: NodeId, from: Value| {
        let key = KeyRef { node, version: plan.epoch };
        json!({ "name": name(key), "from": from, "secret": hex::encode(&made[&node].expose()[..length]) })
    };
    let updates = plan.updates.iter().map(|update| {
        let from = match update.source {
            Source::Fresh => json!("fresh"),
            Source::Advance { from } => json!({ "advance": name(KeyRef { node: update.node, version: from }) }),
            Source::Derive { from } => json!({ "derive": name(KeyRef { node: from, version: plan.epoch }) }),
        };
        show(update.node, from)
    });
    let joined = plan.joined.iter().map(|(_, leaf)| show(*leaf, json!("fresh")));
    let advanced = plan.advanced.iter().map(|leaf| show(leaf.to, json!({ "leaf": name(leaf.from) })));
    updates.chain(joined).chain(advanced).collect()
}

/// Joins, leaves, a rejoin, a renewal, a refresh, a split, a compaction with moves that are named, a batch.
fn history() -> Vec<Vec<Change>> {
    let members = |ids: std::ops::RangeInclusive<u32>| ids.map(MemberId);
    vec![
        members(1..=9).map(Join).collect(),
        vec![Leave(MemberId(9))],
        vec![Join(MemberId(9))],
        members(10..=40).map(Join).collect(),
        vec![Renew(MemberId(3)), Refresh],
        vec![Leave(MemberId(4)), Join(MemberId(4)), Leave(MemberId(7))],
        members(8..=38).map(Leave).collect(),
        vec![Compact(6)],
        vec![Compact(6), Leave(MemberId(2)), Join(MemberId(30))],
    ]
}

fn vectors(suite: Suite, degree: Degree, strategy: Strategy, splicing: bool) -> Value {
    let mut server = Server::of(suite, degree, strategy);
    server.tree.set_splicing(splicing);
    let signing = SigningKey::from_seed(&[0x33; 32]).unwrap();
    let public = hex::encode(signing.public().octets());
    let context = server.context(0);
    let first_root = hex::encode(&server.held.0[&NodeId::ROOT].1.expose()[..suite.secret_len()]);
    let mut recorder = Recorder { server, signing, previous: HeaderHash::NONE, secrets: BTreeMap::new() };
    let mut epochs: Vec<Value> = Vec::new();
    let mut begun: Vec<KeyPath> = Vec::new();
    for changes in history() {
        epochs.push(recorder.epoch(&changes));
        if begun.is_empty() {
            begun = SHOWN.iter().map(|id| recorder.server.path(MemberId(*id))).collect();
        }
    }
    let last = recorder.server.context(recorder.server.epoch());
    let beacon = Beacon {
        context: last,
        commitment: last.commit(&recorder.server.held.0[&NodeId::ROOT].1),
        header_hash: recorder.previous,
        counter: 5,
        interval_ms: 2_000,
        resync_wait_ms: 1_000,
        report_one_in: 0,
    };
    let tag = last.tag(&recorder.server.held.0[&NodeId::ROOT].1);
    let announcement = announcement();
    let beacon = beacon.sign(&recorder.signing, &tag).unwrap();
    let pages = pages(&recorder, &beacon, &begun);
    json!({
        "suite": suite.name(),
        "suite_number": suite as u8,
        "degree": degree.code(),
        "strategy": strategy.name(),
        "splicing": splicing,
        "group": context.group.0,
        "incarnation": hex::encode(context.incarnation.0),
        "term": context.term,
        "seeds": "epoch e is made from 32 octets e",
        "send_delay_ms": announcement.send_delay_ms,
        "keep_old_ms": announcement.keep_old_ms,
        "signing_key": public,
        "first_root": first_root,
        "epochs": epochs,
        "beacon": hex::encode(beacon),
        "pages": pages,
    })
}

/// The pages of the last epoch, and what two members learn from them that have heard nothing since the first.
fn pages(recorder: &Recorder, beacon: &[u8], begun: &[KeyPath]) -> Value {
    let Server { suite, tree, held } = &recorder.server;
    let (book, rewritten) = Book::write(&Standing { suite: *suite, group: GroupId(7), tree, secrets: held });
    let (tops, degree) = (book.tops(), tree.degree());
    let head = Head { beacon: beacon.to_vec(), announcement: announcement(), degree, tree: tops.0, directory: tops.1 };
    let pages: BTreeMap<String, String> =
        rewritten.added.iter().map(|(digest, octets)| (digest.to_string(), hex::encode(octets))).collect();
    let members: BTreeMap<u32, Value> = (SHOWN.iter().zip(begun))
        .map(|(id, held)| {
            let after = path(&recorder.server.path(MemberId(*id)), &recorder.server);
            let leaf = held.held().last().unwrap();
            let secret = recorder.secrets.get(&leaf).unwrap().expose();
            let held = json!([leaf.version, hex::encode(&secret[..suite.secret_len()])]);
            (*id, json!({ "leaf_held": held, "after": after }))
        })
        .collect();
    json!({ "head": hex::encode(head.sign(&recorder.signing).unwrap()), "pages": pages, "members": members })
}

#[test]
fn the_files_are_what_the_code_makes() {
    let of = |degree| Degree::new(degree).unwrap();
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors"));
    let cases = [
        (Suite::Aes256, of(2), Strategy::Chain, false),
        (Suite::Aes128, of(2), Strategy::Chain, true),
        (Suite::Aes128, of(4), Strategy::Chain, false),
        (Suite::Aes256, of(3), Strategy::Group, false),
        (Suite::Aes128, of(3), Strategy::User, false),
        (Suite::Aes256, of(2), Strategy::User, true),
        (Suite::Aes256, of(4), Strategy::Key, true),
        (Suite::Aes128, of(2), Strategy::Hybrid, false),
        (Suite::Aes256, Degree::STAR, Strategy::Chain, false),
    ];
    for (suite, degree, strategy, splicing) in cases {
        let splice = if splicing { "-splice" } else { "" };
        let file = folder.join(format!("{strategy}-d{degree}-{suite}{splice}.json"));
        let text = serde_json::to_string_pretty(&vectors(suite, degree, strategy, splicing)).unwrap() + "\n";
        if std::env::var("KEYSTONE_WRITE_VECTORS").is_ok() {
            std::fs::write(&file, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text == expected, "{} is not what the code makes", file.display());
    }
}
