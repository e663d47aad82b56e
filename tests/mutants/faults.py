"""One-line faults of planner, executor and member: (name, file, what stands there, what the mutant has instead).

`FEW` are those that the test command tries; all of them are tried by tests/full/mutants.
"""

PLANNER = "keygraph/src/planner.rs"
MARKING = "keygraph/src/marking.rs"
PARTS = "keygraph/src/parts.rs"
EXECUTE = "protocol/src/execute.rs"
SCHEDULE = "protocol/src/schedule.rs"
MEMBER = "protocol/src/member.rs"

FEW = {
    "a secret is advanced although its leaver knows it",
    "a mover keeps what it knows of its old path",
    "derived from a child that did not change",
    "a used leaf secret is not advanced",
    "advancing changes nothing",
}

FAULTS = [
    # Who must not learn what.
    ("a secret is advanced although its leaver knows it", PLANNER,
     "above_leaf(leaf, LOST | SPREADING)", "above_leaf(leaf, 0)"),
    ("a refresh is advanced", PLANNER,
     "let root_is_lost = marking.refresh || marking.tree.is_empty();", "let root_is_lost = marking.tree.is_empty();"),
    ("a group that was empty goes on with its old root", PLANNER,
     "let root_is_lost = marking.refresh || marking.tree.is_empty();", "let root_is_lost = marking.refresh;"),
    ("a mover keeps what it knows of its old path", PLANNER,
     "(*node, if new[1..].contains(node) { 0 } else { LOST })", "(*node, 0)"),
    ("a renewed member's old state keeps its rights", PLANNER,
     "let departures = marking.left.iter().chain(&marking.renewed);", "let departures = marking.left.iter();"),
    ("a k-node of a leaver's path is skipped", PLANNER,
     "if now.is_none_or(|slot| slot.is_leaf()) {",
     "if now.is_none_or(|slot| slot.is_leaf()) || node != NodeId::ROOT && node.0 % 5 == 1 {"),
    # Who must learn what.
    ("a member that moved in is forgotten", PLANNER,
     "if !old.contains(&pair[1]) {", "if false {"),
    ("the last child is forgotten", PLANNER,
     "for branch in branches.iter().filter(|branch| Some(branch.node) != from) {",
     "for branch in branches.iter().filter(|branch| Some(branch.node) != from).take(1) {"),
    ("every k-node counts as told by replies", PLANNER,
     "(if update.silent { State::Silent } else { State::New }, update)", "(State::Silent, update)"),
    ("nobody gets the wrap under the old secret", PLANNER,
     "own = !others.iter().all(|branch| self.is_told_otherwise(branch));", "own = false;"),
    ("a displaced member is forgotten", MARKING,
     "        if let Some(Slot::UNode { member, version }) = self.slot(node) {\n            self.seat(member, to, version);\n        }\n        self.grow(node);",
     "        let _ = to;\n        self.grow(node);"),
    ("a splice is not named", PLANNER,
     "planned.spliced.extend(matches!(old, Some(Slot::KNode { .. })).then_some(node));", ""),
    # Keys that must not be used, or not again.
    ("derived from a child that did not change", PLANNER,
     "in_state(State::New).or_else(|| in_state(State::Silent))",
     "in_state(State::New).or_else(|| branches.iter().find(|branch| !branch.slot.is_leaf()))"),
    ("a used leaf secret is not advanced", PLANNER,
     "Some(LeafAdvance { to: self.leaf_of(wrap)?, from: wrap.kek })",
     "Some(LeafAdvance { to: self.leaf_of(wrap).filter(|_| false)?, from: wrap.kek })"),
    ("a moved leaf secret keeps its name", PLANNER,
     "used.extend(moved.iter().filter_map(", "used.extend(moved.iter().filter(|_| false).filter_map("),
    ("a moved leaf is named by its new place", PLANNER,
     "let node = self.origins.get(&leaf).copied().unwrap_or(leaf);", "let node = leaf;"),
    ("a version is used again", MARKING,
     "if made { Slot::KNode { version } } else { Slot::Spliced }",
     "if made { Slot::KNode { version: version / 2 * 2 } } else { Slot::Spliced }"),
    ("a fresh leaf is a wrapping key", PLANNER,
     "Slot::UNode { version, .. } => version == self.marking.epoch,", "Slot::UNode { .. } => false,"),
    # Places.
    ("a compaction makes leaves fresh that nobody is told of", MARKING,
     "            self.clear(from);\n            if to != largest", "            let version = self.epoch.max(version);\n            self.clear(from);\n            if to != largest"),
    ("the largest k-node is not lowered", MARKING,
     "            self.prune_above(leaf);\n        }\n        self.lower();", "            self.prune_above(leaf);\n        }"),
    ("a place is filled without what is above it", MARKING,
     "            if let Some(above) = parent(node, degree).filter(|above| self.slot(*above).is_none()) {\n                self.grow(above);\n            }\n            self.seat(member, node, self.epoch);",
     "            self.seat(member, node, self.epoch);"),
    # Several messages.
    ("an audience has no exceptions", PARTS,
     "true => self.planner.branches(below).iter().filter(|branch| changed(branch)).map(|b| b.child).collect(),",
     "true => self.planner.branches(below).iter().filter(|branch| changed(branch) && false).map(|b| b.child).collect(),"),
    ("who holds a key already is not asked", PARTS,
     "false => wrap.kek.version < self.planner.marking.epoch,", "false => true,"),
    ("a subtree's message ends below the root", PARTS,
     "entries.extend(self.above(*below).map(|(at, child)| (at, wrap_for(&updates[at], child))));",
     "entries.extend(self.above(*below).take(1).map(|(at, child)| (at, wrap_for(&updates[at], child))));"),
    # The executor and the key schedule.
    ("advancing changes nothing", SCHEDULE,
     'self.secret(secret.expose(), b"advance", &name(from))', '{ let _ = from; secret.clone() }'),
    ("deriving changes nothing", SCHEDULE,
     'self.secret(secret.expose(), b"derive", &names)', '{ let _ = names; secret.clone() }'),
    ("all fresh secrets are one", SCHEDULE,
     'self.secret(seed.expose(), b"fresh", &node.0.to_be_bytes())', '{ let _ = node; self.secret(seed.expose(), b"fresh", &[]) }'),
    ("a one-time key serves several targets", SCHEDULE,
     "        names[12..].copy_from_slice(&name(target));\n        let mut out", "        let _ = target;\n        let mut out"),
    ("keys of all epochs are alike", SCHEDULE,
     "        out[29..37].copy_from_slice(&self.epoch.to_be_bytes());", "        out[29..37].copy_from_slice(&[0; 8]);"),
    ("a parent is wrapped under a child's old secret", EXECUTE,
     "        if key.version != self.plan.epoch {\n            return self.held.secret(key).ok_or(missing);\n        }",
     "        if let Some(held) = self.held.secret(key).or(self.held.secret(KeyRef { version: self.plan.epoch - 1, ..key })) {\n            return Ok(held);\n        }"),
    ("a leaf secret is not advanced by the key server", EXECUTE,
     "Ok((leaf.to, context.advance_leaf(secret)))", "Ok((leaf.to, secret.clone()))"),
    # The member.
    ("a member takes what is for others", MEMBER,
     "message.audience.as_ref().filter(|audience| !audience.is_at(&way, self.degree))",
     "message.audience.as_ref().filter(|audience| !audience.is_at(&way, self.degree) && false)"),
    ("a member does not advance its leaf", MEMBER,
     "        let own = match climb.leaf_used {", "        let own = match climb.leaf_used && false {"),
    ("a member takes any root", MEMBER,
     "if *version == context.epoch && context.commit(root) == message.commitment => {}", "if *version == context.epoch && (true || context.commit(root) == message.commitment) => {}"),
]
