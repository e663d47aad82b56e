"""The multicast side of Keystone, from docs/protocol.md alone: units, repair units, rekey messages, keys, beacons, pages.

It shares no line with the programs that it follows. Needs the pip package `cryptography`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

UNIT = 512
TAG = 8
SPLICED = 2**64 - 1
STAR = 2**31 - 1


class Refused(Exception):
    """Octets that are not what they should be, or keys that do not fit."""


class NotAddressed(Exception):
    """A message of several, for other members (§6)."""


class Reader:
    """Takes octets apart from the front; all numbers are big-endian (§1)."""

    def __init__(self, octets: bytes) -> None:
        self.octets, self.at = octets, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.octets):
            raise Refused("truncated")
        self.at += count
        return self.octets[self.at - count:self.at]

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "big")

    def end(self) -> None:
        if self.at != len(self.octets):
            raise Refused("octets left over")


# §5: the key schedule.


@dataclass(frozen=True)
class Suite:
    number: int
    secret: int
    signature: int


SUITES = {1: Suite(1, 32, 64), 2: Suite(2, 16, 64)}


@dataclass(frozen=True)
class Context:
    """What all keys of an epoch are bound to: 37 octets."""

    suite: int
    group: int
    incarnation: bytes
    term: int
    epoch: int

    def octets(self) -> bytes:
        return struct.pack(">BI16sQQ", self.suite, self.group, self.incarnation, self.term, self.epoch)

    @staticmethod
    def read(r: Reader) -> Context:
        context = Context(r.number(1), r.number(4), r.take(16), r.number(8), r.number(8))
        if context.suite not in SUITES:
            raise Refused(f"suite {context.suite}")
        return context

    def lasting(self, epoch: int) -> Context:
        """Of the same group, and bound to no reign."""
        return Context(self.suite, self.group, bytes(16), 0, epoch)

    def length(self) -> int:
        return SUITES[self.suite].secret


Name = tuple[int, int]  # place, version


def name_octets(name: Name) -> bytes:
    return struct.pack(">IQ", *name)


def expand(secret: bytes, label: bytes, context: bytes, names: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869) with SHA-256."""
    info = b"keystone/1 " + label + b"\0" + context + names
    out, block = b"", b""
    for number in range(1, 256):
        if len(out) >= length:
            break
        block = hmac.new(secret, block + info + bytes([number]), hashlib.sha256).digest()
        out += block
    return out[:length]


def advance(context: Context, secret: bytes, name: Name) -> bytes:
    return expand(secret, b"advance", context.octets(), name_octets(name), context.length())


def advance_leaf(context: Context, secret: bytes) -> bytes:
    """One step of a leaf's secret: of the suite and the group, and of no epoch."""
    return expand(secret, b"leaf", context.lasting(0).octets(), b"", context.length())


def derive(context: Context, secret: bytes, name: Name, parent: int) -> bytes:
    return expand(secret, b"derive", context.octets(), name_octets(name) + struct.pack(">I", parent), context.length())


def one_time(context: Context, secret: bytes, kek: Name, target: Name) -> tuple[bytes, bytes]:
    """Key and IV of one wrap."""
    octets = expand(secret, b"wrap", context.octets(), name_octets(kek) + name_octets(target), context.length() + 16)
    return octets[:-16], octets[-16:]


def unwrap(context: Context, secret: bytes, kek: Name, target: Name, wrapped: bytes) -> bytes:
    key, iv = one_time(context, secret, kek, target)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    return decryptor.update(wrapped) + decryptor.finalize()


def commitment(context: Context, root: bytes) -> bytes:
    return expand(root, b"commit", context.octets(), b"", 32)


def tag(context: Context, root: bytes, octets: bytes) -> bytes:
    """What stands at the end of a datagram, by those who hold the group key of this epoch."""
    return hmac.new(expand(root, b"tag", context.octets(), b"", 32), octets, hashlib.sha256).digest()[:8]


def data_key(context: Context, root: bytes) -> bytes:
    return expand(root, b"data", context.octets(), b"", 32)


# §6: rekey messages.


def parent(place: int, degree: int) -> int:
    return (place - 1) // degree


def way_up(place: int, degree: int) -> list[int]:
    """From a place to the root, both included."""
    way = [place]
    while way[-1] != 0:
        way.append(parent(way[-1], degree))
    return way


def find_leaf(old: int, largest: int, degree: int) -> int:
    place = old
    while place <= largest:
        place = degree * place + 1
    if place > degree * largest + degree:
        raise Refused("the leaf has no place in this tree")
    return place


@dataclass
class Entry:
    node: int
    origin: str
    derived: int | None
    has_own: bool
    children: list[int]
    has_again: bool
    own: bytes = b""
    wraps: dict[int, bytes] = field(default_factory=dict)
    again: bytes = b""


@dataclass
class Message:
    commitment: bytes
    reason: int
    send_delay: int
    keep_old: int
    degree: int
    largest: int
    audience: tuple[int, set[int]] | None
    moves: dict[int, int]
    spliced: set[int]
    entries: list[Entry]

    @staticmethod
    def read(octets: bytes, suite: int) -> Message:
        r = Reader(octets)
        check, reason, send_delay, keep_old = r.take(32), r.number(1), r.number(4), r.number(4)
        flags, code, largest, count = r.number(1), r.number(1), r.number(4), r.number(4)
        degree = code or STAR
        audience, moves, spliced = None, {}, set()
        if flags & 1:
            audience = (r.number(4), set(read_set(r, degree)))
        if flags & 2:
            moves = dict((r.number(4), r.number(4)) for _ in range(r.number(4)))
        if flags & 4:
            spliced = {r.number(4) for _ in range(r.number(4))}
        entries: list[Entry] = []
        for _ in range(count):
            entries.append(read_entry(r, degree, entries[-1].node if entries else None))
        length = SUITES[suite].secret
        for entry in entries:
            if entry.has_own:
                entry.own = r.take(length)
            entry.wraps = {child: r.take(length) for child in entry.children}
            if entry.has_again:
                entry.again = r.take(length)
        r.end()
        if not entries or entries[-1].node != 0:
            raise Refused("the root is not last")
        return Message(check, reason, send_delay, keep_old, degree, largest, audience, moves, spliced, entries)


def read_set(r: Reader, degree: int) -> list[int]:
    octets = r.take(r.number(4) if degree == STAR else (degree + 7) // 8)
    return [8 * at + bit for at, octet in enumerate(octets) for bit in range(8) if octet >> bit & 1]


def read_index(r: Reader, degree: int) -> int:
    return r.number(4 if degree == STAR else 1)


def child_towards(node: int, below: int | None, degree: int) -> int | None:
    """Index of the child of `node` that `below` is, or stands below of."""
    while below is not None and below > node:
        above = parent(below, degree)
        if above == node:
            return (below - 1) % degree
        below = above
    return None


def read_entry(r: Reader, degree: int, previous: int | None) -> Entry:
    tag = r.number(1)
    if tag & 0b1000_0000:
        raise Refused("tag")
    if tag & 4:
        node = r.number(4)
    elif previous:
        node = parent(previous, degree)
    else:
        raise Refused("no id")
    kind, derived = tag & 3, None
    if kind == 2:
        derived = child_towards(node, previous, degree)
    elif kind == 3:
        derived = read_index(r, degree)
    form = tag >> 4 & 3
    if form == 0:
        children = []
    elif form == 1:
        children = [child for child in range(degree) if child != derived]
    elif form == 2:
        children = read_set(r, degree)
    else:
        children = [read_index(r, degree)]
    origin = ("fresh", "advance", "derive", "derive")[kind]
    return Entry(node, origin, derived, bool(tag & 8), children, bool(tag & 64))


@dataclass
class Path:
    """The secrets of a member by place, each with its version."""

    degree: int
    leaf: int
    keys: dict[int, tuple[int, bytes]]

    @staticmethod
    def read(r: Reader, suite: int) -> Path:
        """As a sealed reply has it (§4)."""
        degree, leaf, keys = r.number(1) or STAR, r.number(4), {}
        for place in way_up(leaf, degree):
            version = r.number(8)
            if version != SPLICED:
                keys[place] = (version, r.take(32)[:SUITES[suite].secret])
        return Path(degree, leaf, keys)

    def apply(self, context: Context, message: Message) -> Path:
        """The path after a message of the epoch of `context`; this one is left as it is."""
        leaf = message.moves.get(self.leaf)
        if leaf is None:
            leaf = find_leaf(self.leaf, message.largest, self.degree)
        way = way_up(leaf, self.degree)
        if message.audience is not None:
            below, excepted = message.audience
            if below not in way or (below != leaf and child_towards(below, leaf, self.degree) in excepted):
                raise NotAddressed
        kept = {place: self.keys[place] for place in way[1:]
                if place in self.keys and place not in message.spliced and place != self.leaf}
        own_name, own = (self.leaf, self.keys[self.leaf][0]), self.keys[self.leaf][1]
        first: tuple[Name, bytes] | None = None
        leaf_used = leaf != self.leaf
        for entry in (entry for entry in message.entries if entry.node in way[1:]):
            target = (entry.node, context.epoch)
            held = kept.get(entry.node)
            under = next(place for place in reversed(way[:way.index(entry.node)]) if place in kept or place == leaf)
            name, secret = (own_name, own) if under == leaf else ((under, kept[under][0]), kept[under][1])
            child = child_towards(entry.node, leaf, self.degree)
            if entry.origin == "advance" and held:
                new = advance(context, held[1], (entry.node, held[0]))
            elif entry.origin == "derive" and entry.derived == child:
                if name[1] != context.epoch:
                    raise Refused("derived from what is not new")
                new = derive(context, secret, name, entry.node)
            else:
                if child in entry.wraps:
                    kek, wrapped = (name, secret), entry.wraps[child]
                elif entry.has_own and held:
                    kek, wrapped = ((entry.node, held[0]), held[1]), entry.own
                elif entry.has_again and first:
                    kek, wrapped = first, entry.again
                else:
                    raise Refused(f"no way to {entry.node}")
                first = first or kek
                leaf_used |= kek[0] == own_name
                new = unwrap(context, kek[1], kek[0], target, wrapped)
            kept[entry.node] = (context.epoch, new)
        if kept.get(0, (None,))[0] != context.epoch or commitment(context, kept[0][1]) != message.commitment:
            raise Refused("the root does not match its commitment")
        kept[leaf] = (context.epoch, advance_leaf(context, own)) if leaf_used else (own_name[1], own)
        return Path(self.degree, leaf, kept)

    def root(self) -> bytes:
        return self.keys[0][1]


# §7: units.


def digest(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()[:16]


@dataclass(frozen=True)
class Header:
    """What all units of a block share: octets 4 to 86 of a datagram."""

    octets: bytes
    context: Context
    previous: bytes
    message: int
    messages: int
    length: int
    blocks: int
    block: int
    s: int
    r: int

    @staticmethod
    def read(octets: bytes) -> Header:
        r = Reader(octets)
        context, previous = Context.read(r), r.take(32)
        header = Header(octets, context, previous, *(r.number(size) for size in (2, 2, 4, 2, 2, 1, 1)))
        if not (header.message < header.messages and header.block < header.blocks and 1 <= header.s <= 16
                and header.s + header.r <= 32 and header.length > 0):
            raise Refused("block header")
        return header

    def hash(self, check: bytes) -> bytes:
        """What the next epoch points back to."""
        return hashlib.sha256(b"keystone/1 epoch\0" + self.octets[:69] + check).digest()


class Verifier:
    """Verifies units, each alone; only the first of a block costs a signature check."""

    def __init__(self, key: bytes) -> None:
        self.key, self.roots = Ed25519PublicKey.from_public_bytes(key), {}

    def signed(self, octets: bytes, signature: bytes) -> None:
        try:
            self.key.verify(signature, octets)
        except InvalidSignature:
            raise Refused("signature") from None

    def unit(self, datagram: bytes) -> tuple[Header, int, bytes]:
        if datagram[:4] != b"KS\x01\x01" or len(datagram) < 88:
            raise Refused("not a unit")
        header, index = Header.read(datagram[4:87]), datagram[87]
        leaves = 1 if header.s == 1 else header.s + header.r
        r = Reader(datagram[88:])
        signature = r.take(SUITES[header.context.suite].signature)
        path = [r.take(16) for _ in range((leaves - 1).bit_length())]
        payload = r.take(UNIT)
        r.take(TAG)
        r.end()
        if index >= header.s + header.r:
            raise Refused("index")
        # Copies of a single unit are one leaf.
        at = 0 if header.s == 1 else index
        node = digest(b"\0" + header.octets + bytes([at]) + payload)
        for sibling in path:
            node = digest(b"\1" + (node + sibling if at % 2 == 0 else sibling + node))
            at //= 2
        if header.octets in self.roots:
            if self.roots[header.octets] != node:
                raise Refused("foreign to its block")
        else:
            self.signed(b"keystone/1 block\0" + header.octets + node, signature)
            self.roots[header.octets] = node
        return header, index, payload

    def beacon(self, datagram: bytes) -> Beacon:
        """§8."""
        r = Reader(datagram)
        if r.take(4) != b"KS\x01\x02":
            raise Refused("not a beacon")
        context = Context.read(r)
        beacon = Beacon(context, r.take(32), r.take(32), r.number(8), r.number(4), r.number(4), r.number(4))
        body, signature = datagram[:r.at], r.take(SUITES[context.suite].signature)
        r.take(TAG)
        r.end()
        self.signed(b"keystone/1 beacon\0" + body, signature)
        return beacon


@dataclass(frozen=True)
class Beacon:
    context: Context
    commitment: bytes
    header_hash: bytes
    counter: int
    interval: int
    wait: int
    sample: int


# §10: published groups.


def read_page(octets: bytes, suite: int) -> tuple[int, dict]:
    """Its kind, and its items by number: digests of an index; (version, leaf, wrap) of places; places of members."""
    r, items = Reader(octets), {}
    kind, count = r.number(1), r.number(2)
    for _ in range(count):
        if kind == 1:
            number, item = r.number(1), r.take(32)
        elif kind == 2:
            number, version, is_leaf = r.number(4), r.number(8), r.number(1)
            leaf = (r.number(4), r.take(8)) if is_leaf else None
            item = (version, leaf, r.take(SUITES[suite].secret))
        elif kind == 3:
            number, item = r.number(4), r.number(4)
        else:
            raise Refused("kind of page")
        if items and number <= max(items):
            raise Refused("order of a page")
        items[number] = item
    r.end()
    return kind, items


class Pages:
    """The pages of one epoch, under their signed head. `fetch` gives the octets of a name."""

    def __init__(self, verifier: Verifier, head: bytes, fetch: Callable[[bytes], bytes]) -> None:
        r = Reader(head)
        if r.take(4) != b"KS\x01\x03":
            raise Refused("not a head")
        self.beacon = verifier.beacon(r.take(r.number(2)))
        r.take(9)
        self.degree = r.number(1) or STAR
        self.tree, self.directory = [(r.number(1), r.take(32)) for _ in range(2)]
        body, signature = head[:r.at], r.take(SUITES[self.beacon.context.suite].signature)
        r.end()
        verifier.signed(b"keystone/1 pages\0" + body, signature)
        self.fetch = fetch

    def page(self, top: tuple[int, bytes], kind: int, number: int) -> dict:
        """The items of a page; none if there is no such page."""
        height, name = top
        if number >= 64 ** height:
            return {}
        for above in range(height, -1, -1):
            octets = self.fetch(name)
            if hashlib.sha256(b"keystone/1 page\0" + octets).digest() != name:
                raise Refused("not the page of this name")
            found, items = read_page(octets, self.beacon.context.suite)
            if found != (1 if above else kind):
                raise Refused("kind of page")
            if above:
                name = items.get(number // 64 ** (above - 1) % 64)
                if name is None:
                    return {}
        return items

    def path(self, member: int, held: tuple[int, bytes]) -> Path:
        """The path of a member that holds this version and secret of its leaf."""
        context = self.beacon.context
        leaf = self.page(self.directory, 3, member // 256).get(member)
        if leaf is None:
            raise Refused("not a member")
        way = [(place, item) for place in way_up(leaf, self.degree)[:-1]
               if (item := self.page(self.tree, 2, place // 32).get(place))]
        (place, (version, owner, _)), secret = way[0], held[1]
        if place != leaf or owner is None or owner[0] != member:
            raise Refused("another's leaf")
        for _ in range(min(version - held[0], 262_144)):
            if self.check(secret, (leaf, version)) == owner[1]:
                break
            secret = advance_leaf(context, secret)
        if self.check(secret, (leaf, version)) != owner[1]:
            raise Refused("the leaf does not follow")
        keys = {}
        for at, (place, (version, _, wrapped)) in enumerate(way):
            keys[place] = (version, secret)
            target = (way[at + 1][0], way[at + 1][1][0]) if at + 1 < len(way) else (0, context.epoch)
            secret = unwrap(context.lasting(target[1]), secret, (place, version), target, wrapped)
        keys[0] = (context.epoch, secret)
        if commitment(context, secret) != self.beacon.commitment:
            raise Refused("the root does not match its commitment")
        return Path(self.degree, leaf, keys)

    def check(self, secret: bytes, name: Name) -> bytes:
        return expand(secret, b"check", self.beacon.context.lasting(0).octets(), name_octets(name), 8)


# §7: Reed-Solomon over GF(2^8), polynomial 0x11D.

EXP, LOG = [0] * 510, [0] * 256
_value = 1
for _power in range(255):
    EXP[_power] = EXP[_power + 255] = _value
    LOG[_value] = _power
    _value <<= 1
    if _value & 0x100:
        _value ^= 0x11D


def times(a: int, b: int) -> int:
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def power(base: int, exponent: int) -> int:
    if exponent == 0:
        return 1
    return EXP[LOG[base] * exponent % 255] if base else 0


def invert(matrix: list[list[int]]) -> list[list[int]]:
    """Gauss and Jordan."""
    size = len(matrix)
    rows = [row[:] + [int(at == column) for column in range(size)] for at, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(at for at in range(column, size) if rows[at][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = EXP[255 - LOG[rows[column][column]]]
        rows[column] = [times(value, inverse) for value in rows[column]]
        for at in range(size):
            if at != column and (factor := rows[at][column]):
                rows[at] = [a ^ times(factor, b) for a, b in zip(rows[at], rows[column])]
    return [row[size:] for row in rows]


def product(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    out = [[0] * len(b[0]) for _ in a]
    for at, row in enumerate(a):
        for inner, value in enumerate(row):
            if value:
                out[at] = [x ^ times(value, y) for x, y in zip(out[at], b[inner])]
    return out


def code(s: int, r: int) -> list[list[int]]:
    """The rows of the code: the upper s give the units themselves."""
    vandermonde = [[power(row, column) for column in range(s)] for row in range(s + r)]
    return product(vandermonde, invert(vandermonde[:s]))


def decode_block(s: int, r: int, units: dict[int, bytes]) -> list[bytes]:
    """The s units of message from any s of the s + r."""
    have = sorted(units)[:s]
    if have == list(range(s)):
        return [units[at] for at in have]
    rows = code(s, r)
    solved = product(invert([rows[at] for at in have]), [list(units[at]) for at in have])
    return [bytes(row) for row in solved]


class Reassembly:
    """Collects verified units until messages are whole."""

    def __init__(self) -> None:
        self.blocks: dict[tuple, dict[int, dict[int, bytes]]] = {}
        self.done: set[tuple] = set()
        self.repaired = 0

    def add(self, header: Header, index: int, payload: bytes) -> bytes | None:
        key = (header.context.term, header.context.epoch, header.message)
        if key in self.done:
            return None
        blocks = self.blocks.setdefault(key, {})
        blocks.setdefault(header.block, {"shape": (header.s, header.r), "units": {}})["units"][index] = payload
        if len(blocks) < header.blocks or any(len(b["units"]) < b["shape"][0] for b in blocks.values()):
            return None
        self.done.add(key)
        del self.blocks[key]
        units = []
        for _, block in sorted(blocks.items()):
            s, r = block["shape"]
            self.repaired += any(at not in block["units"] for at in range(s))
            units += decode_block(s, r, block["units"])
        return b"".join(units)[:header.length]


# §9: a member.


class Member:
    """Follows a group from a membership on."""

    def __init__(self, path: Path, beacon: Beacon, key: bytes) -> None:
        self.path, self.context, self.hash = path, beacon.context, beacon.header_hash
        self.verifier, self.reassembly = Verifier(key), Reassembly()
        self.waiting: dict[int, list[tuple[Header, Message]]] = {}
        self.behind = False
        if commitment(self.context, path.root()) != beacon.commitment:
            raise Refused("the membership does not match its beacon")

    def hear(self, datagram: bytes) -> list[tuple[int, bytes]]:
        """Takes a datagram; returns the epochs that it leads to, with their data keys."""
        if datagram[:4] == b"KS\x01\x02":
            beacon = self.verifier.beacon(datagram)
            self.behind = (beacon.context.term, beacon.context.epoch) > (self.context.term, self.context.epoch)
            return []
        if datagram[:4] == b"KS\x01\x01" and len(datagram) >= 88 and Header.read(datagram[4:87]).previous == self.hash:
            if tag(self.context, self.path.root(), datagram[:-TAG]) != datagram[-TAG:]:
                raise Refused("tag")
        header, index, payload = self.verifier.unit(datagram)
        if header.context.epoch <= self.context.epoch:
            return []
        whole = self.reassembly.add(header, index, payload)
        if whole is not None:
            message = Message.read(whole, header.context.suite)
            self.waiting.setdefault(header.context.epoch, []).append((header, message))
        installed = []
        while self.step():
            installed.append((self.context.epoch, data_key(self.context, self.path.root())))
        return installed

    def step(self) -> bool:
        for header, message in self.waiting.pop(self.context.epoch + 1, []):
            if header.previous != self.hash or header.context.term < self.context.term:
                raise Refused("an epoch that does not continue the one before it")
            try:
                self.path = self.path.apply(header.context, message)
            except NotAddressed:
                continue
            self.context, self.hash = header.context, header.hash(message.commitment)
            return True
        return False


def read_reply(octets: bytes, key: bytes) -> tuple[Member, tuple[str, int]]:
    """A granted membership from the plaintext of a reply with one outcome (§4), and where the group is multicast."""
    r = Reader(octets)
    if (r.number(1), r.take(16) and r.number(2), r.number(1)) != (1, 1, 1):
        raise Refused("not one granted membership")
    family = r.number(1)
    address = ".".join(map(str, r.take(4))) if family == 4 else r.take(16).hex(":", 2)
    port = r.number(2)
    r.take(8 + 1 + 4 + 9)
    # The suite stands in the beacon, after the path, which has 32 octets a secret in all suites.
    start = r.at
    Path.read(r, 1)
    for _ in range(r.number(2)):
        r.take(8 + 4 + 32)
    beacon = Verifier(key).beacon(r.take(r.number(2)))
    r.end()
    path = Path.read(Reader(octets[start:]), beacon.context.suite)
    return Member(path, beacon, key), (address, port)
