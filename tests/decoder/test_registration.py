"""The worked example of sealed registration in docs/protocol.md, and what must not pass."""

import pathlib
import struct
import unittest

import keystone_decoder as keystone
import registration

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
NAMES = ("spiffe://demo/member/m1", "spiffe://demo/registrar/r1", "ks")
STATIC, MINE, ITS, SHARE = (bytes([octet]) * 32 for octet in (0x44, 0x45, 0x46, 0x47))
NUMBER = (7, 3)
GIVEN = struct.pack(">IQ", *NUMBER) + SHARE


class Registration(unittest.TestCase):
    def setUp(self):
        self.client = registration.Client(NAMES, registration.public(STATIC), MINE)
        self.answer = registration.answer(NAMES, STATIC, ITS, self.client.offer, GIVEN)

    def test_the_documents_example(self):
        document = "".join(DOCUMENT.read_text().split())
        shown = [self.client.offer, self.answer, self.client.open(self.answer, NUMBER)]
        for octets in shown:
            self.assertIn(octets.hex(), document)
        self.assertEqual([len(octets) for octets in shown], [48, 92, 32])

    def test_another_number_is_refused(self):
        with self.assertRaises(keystone.Refused):
            self.client.open(self.answer, (7, 4))

    def test_what_is_altered_is_refused(self):
        for octet in (0, 31, 32, 60, 91):
            bent = bytearray(self.answer)
            bent[octet] ^= 1
            with self.assertRaises(keystone.Refused):
                registration.Client(NAMES, registration.public(STATIC), MINE).open(bytes(bent), NUMBER)

    def test_an_offer_of_another_client_is_refused(self):
        other = ("spiffe://demo/member/m2", *NAMES[1:])
        with self.assertRaises(keystone.Refused):
            registration.answer(other, STATIC, ITS, self.client.offer, GIVEN)


if __name__ == "__main__":
    unittest.main()
