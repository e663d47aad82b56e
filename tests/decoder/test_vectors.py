"""The decoder agrees with every golden vector, key by key: python3 -m unittest, in this folder."""

import json
import pathlib
import unittest

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import keystone_decoder as keystone

VECTORS = pathlib.Path(__file__).resolve().parent.parent / "vectors"


def histories():
    for file in sorted(VECTORS.glob("*.json")):
        yield file.name, json.loads(file.read_text())


def context(history: dict, epoch: int) -> keystone.Context:
    incarnation = bytes.fromhex(history["incarnation"])
    return keystone.Context(history["suite_number"], history["group"], incarnation, history["term"], epoch)


def path(shown: dict, degree: int) -> keystone.Path:
    keys = {place: (version, bytes.fromhex(secret)) for place, version, secret in shown["keys"]}
    return keystone.Path(degree or keystone.STAR, shown["leaf"], keys)


class Vectors(unittest.TestCase):
    def each_epoch(self):
        for name, history in histories():
            for epoch in history["epochs"]:
                with self.subTest(file=name, epoch=epoch["epoch"]):
                    yield history, epoch, context(history, epoch["epoch"])

    def test_there_are_vectors_of_every_kind(self):
        seen = [history for _, history in histories()]
        self.assertEqual({history["strategy"] for history in seen}, {"user", "key", "group", "hybrid", "chain"})
        self.assertEqual({history["suite"] for history in seen}, {"aes256", "aes128"})
        self.assertIn(0, {history["degree"] for history in seen})

    def test_messages_have_everything_that_a_message_can_have(self):
        counts = dict.fromkeys(["audience", "moves", "spliced", "own", "again", "fresh", "advance", "derive"], 0)
        for _, epoch, at in self.each_epoch():
            for octets in epoch["messages"]:
                message = keystone.Message.read(bytes.fromhex(octets), at.suite)
                counts["audience"] += message.audience is not None
                counts["moves"] += len(message.moves)
                counts["spliced"] += len(message.spliced)
                for entry in message.entries:
                    counts[entry.origin] += 1
                    counts["own"] += entry.has_own
                    counts["again"] += entry.has_again
        self.assertGreater(min(counts.values()), 5, counts)

    def test_every_secret_that_follows_from_another(self):
        known: dict = {}
        checked = 0
        for history, epoch, at in self.each_epoch():
            if epoch["epoch"] == 1:
                known = {(0, 0): bytes.fromhex(history["first_root"])}
            for secret in epoch["secrets"]:
                known_now = bytes.fromhex(secret["secret"])
                if "derive" in secret["from"]:
                    source = tuple(secret["from"]["derive"])
                    self.assertEqual(keystone.derive(at, known[source], source, secret["name"][0]), known_now)
                    checked += 1
                elif "advance" in secret["from"]:
                    source = tuple(secret["from"]["advance"])
                    self.assertEqual(keystone.advance(at, known[source], source), known_now)
                    checked += 1
                elif "leaf" in secret["from"]:
                    self.assertEqual(keystone.advance_leaf(at, known[tuple(secret["from"]["leaf"])]), known_now)
                    checked += 1
                known[tuple(secret["name"])] = known_now
        self.assertGreater(checked, 200)

    def test_pages_give_whoever_was_away_what_it_missed(self):
        checked = 0
        for file, history in histories():
            verifier, shown = keystone.Verifier(bytes.fromhex(history["signing_key"])), history["pages"]
            stored = {bytes.fromhex(name): bytes.fromhex(octets) for name, octets in shown["pages"].items()}
            head = bytes.fromhex(shown["head"])
            pages = keystone.Pages(verifier, head, stored.__getitem__)
            for member, expected in shown["members"].items():
                version, secret = expected["leaf_held"]
                with self.subTest(file=file, member=member):
                    found = pages.path(int(member), (version, bytes.fromhex(secret)))
                    self.assertEqual(found, path(expected["after"], history["degree"]))
                    with self.assertRaises(keystone.Refused):
                        pages.path(int(member), (version, bytes(len(secret) // 2)))
                    checked += 1
            with self.assertRaises(keystone.Refused):
                pages.path(99, (1, bytes(32)))
            for at in range(0, len(head), 7):
                with self.assertRaises(keystone.Refused):
                    keystone.Pages(verifier, head[:at] + bytes([head[at] ^ 1]) + head[at + 1:], stored.__getitem__)
        self.assertGreaterEqual(checked, 18)

    def test_every_wrap(self):
        known: dict = {}
        checked = 0
        for history, epoch, at in self.each_epoch():
            if epoch["epoch"] == 1:
                known = {(0, 0): bytes.fromhex(history["first_root"])}
            known |= {tuple(secret["name"]): bytes.fromhex(secret["secret"]) for secret in epoch["secrets"]}
            messages = "".join(epoch["messages"])
            for wrap in epoch["wraps"]:
                kek, target = tuple(wrap["kek"]), tuple(wrap["target"])
                key, iv = keystone.one_time(at, known[kek], kek, target)
                self.assertEqual((key.hex(), iv.hex()), (wrap["key"], wrap["iv"]))
                encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
                self.assertIn((encryptor.update(known[target]) + encryptor.finalize()).hex(), messages)
                checked += 1
        self.assertGreater(checked, 500)

    def test_every_member_follows(self):
        followed = 0
        for history, epoch, at in self.each_epoch():
            messages = [keystone.Message.read(bytes.fromhex(octets), at.suite) for octets in epoch["messages"]]
            for shown in epoch["members"].values():
                after = []
                for message in messages:
                    try:
                        after.append(path(shown["before"], history["degree"]).apply(at, message))
                    except keystone.NotAddressed:
                        pass
                self.assertEqual(after, [path(shown["after"], history["degree"])])
                self.assertEqual(keystone.data_key(at, after[0].root()).hex(), epoch["data_key"])
                self.assertEqual(keystone.commitment(at, after[0].root()).hex(), epoch["commitment"])
                followed += 1
        self.assertGreater(followed, 80)

    def test_datagrams_give_the_messages_with_units_lost(self):
        repaired = 0
        for history, epoch, at in self.each_epoch():
            verifier = keystone.Verifier(bytes.fromhex(history["signing_key"]))
            for lose in (False, True):
                whole, reassembly = {}, keystone.Reassembly()
                for datagram in epoch["datagrams"]:
                    header, index, payload = verifier.unit(bytes.fromhex(datagram))
                    self.assertEqual((header.context, header.previous.hex()), (at, epoch["previous"]))
                    self.assertEqual(header.hash(bytes.fromhex(epoch["commitment"])).hex(), epoch["header_hash"])
                    if lose and header.s > 1 and index < min(header.s, header.r):
                        continue
                    if (message := reassembly.add(header, index, payload)) is not None:
                        whole[header.message] = message.hex()
                self.assertEqual([whole[number] for number in sorted(whole)], epoch["messages"])
                repaired += reassembly.repaired
            forged = bytearray.fromhex(epoch["datagrams"][0])
            forged[-keystone.TAG - 1] ^= 1
            with self.assertRaises(keystone.Refused):
                verifier.unit(bytes(forged))
        self.assertGreater(repaired, 3)

    def test_tags(self):
        checked = 0
        for name, history in histories():
            root = (history["epochs"][0]["epoch"] - 1, bytes.fromhex(history["first_root"]))
            for epoch in history["epochs"]:
                before = context(history, root[0])
                for datagram in map(bytes.fromhex, epoch["datagrams"]):
                    with self.subTest(file=name, epoch=epoch["epoch"]):
                        self.assertEqual(keystone.tag(before, root[1], datagram[:-keystone.TAG]), datagram[-keystone.TAG:])
                        checked += 1
                roots = [secret for secret in epoch["secrets"] if secret["name"][0] == 0]
                root = (epoch["epoch"], bytes.fromhex(roots[-1]["secret"]))
            beacon = bytes.fromhex(history["beacon"])
            self.assertEqual(keystone.tag(context(history, root[0]), root[1], beacon[:-keystone.TAG]), beacon[-keystone.TAG:])
        self.assertGreater(checked, 100)

    def test_beacons(self):
        for name, history in histories():
            with self.subTest(file=name):
                beacon = keystone.Verifier(bytes.fromhex(history["signing_key"])).beacon(bytes.fromhex(history["beacon"]))
                last = history["epochs"][-1]
                self.assertEqual(beacon.context, context(history, last["epoch"]))
                self.assertEqual((beacon.commitment.hex(), beacon.header_hash.hex()), (last["commitment"], last["header_hash"]))
                self.assertEqual((beacon.counter, beacon.interval, beacon.wait, beacon.sample), (5, 2_000, 1_000, 0))

    def test_the_code_of_the_document(self):
        self.assertEqual(keystone.code(5, 4)[5], [7, 7, 6, 6, 1])


if __name__ == "__main__":
    unittest.main()
