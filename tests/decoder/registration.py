"""Sealed registration (docs/protocol.md, §3) from the document and the Noise specification, revision 34, alone."""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from keystone_decoder import Refused

NAME = b"Noise_NK_25519_ChaChaPoly_SHA256"
OFFER, GRANT = 48, 44


def text(string: str) -> bytes:
    return struct.pack(">H", len(string.encode())) + string.encode()


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, other: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(other))


class Handshake:
    """The symmetric state of a Noise handshake (Noise, 5.2), with the tokens that NK has."""

    def __init__(self, prologue: bytes, static: bytes) -> None:
        # The name has exactly 32 octets and is the first hash itself.
        self.hash = self.chain = NAME
        self.key, self.nonce = b"", 0
        self.mix_hash(prologue)
        self.mix_hash(static)

    def mix_hash(self, octets: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + octets).digest()

    def mix_key(self, secret: bytes) -> None:
        between = hmac.digest(self.chain, secret, "sha256")
        self.chain = hmac.digest(between, b"\1", "sha256")
        self.key, self.nonce = hmac.digest(between, self.chain + b"\2", "sha256"), 0

    def counter(self) -> bytes:
        self.nonce += 1
        return bytes(4) + struct.pack("<Q", self.nonce - 1)

    def seal(self, plaintext: bytes) -> bytes:
        sealed = ChaCha20Poly1305(self.key).encrypt(self.counter(), plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        try:
            plaintext = ChaCha20Poly1305(self.key).decrypt(self.counter(), sealed, self.hash)
        except InvalidTag:
            raise Refused("a Noise message that does not open") from None
        self.mix_hash(sealed)
        return plaintext


def prologue(client: str, registrar: str, key_server: str) -> bytes:
    return b"keystone registration 1" + text(client) + text(registrar) + text(key_server)


def individual_key(share: bytes, names: tuple[str, str, str], number: tuple[int, int]) -> bytes:
    context = b"".join(map(text, names)) + struct.pack(">IQ", *number)
    return hmac.digest(share, b"keystone/1 individual\0" + context + b"\1", "sha256")


class Client:
    """One offer, and what becomes of its answer."""

    def __init__(self, names: tuple[str, str, str], static: bytes, ephemeral: bytes) -> None:
        self.names, self.ephemeral = names, ephemeral
        self.state = Handshake(prologue(*names), static)
        self.state.mix_hash(public(ephemeral))
        self.state.mix_key(agree(ephemeral, static))
        self.offer = public(ephemeral) + self.state.seal(b"")

    def open(self, answer: bytes, number: tuple[int, int]) -> bytes:
        """The individual key, if the registrar has named the right number."""
        other = answer[:32]
        self.state.mix_hash(other)
        self.state.mix_key(agree(self.ephemeral, other))
        grant = self.state.open(answer[32:])
        if len(grant) != GRANT or struct.unpack(">IQ", grant[:12]) != number:
            raise Refused("another number")
        return individual_key(grant[12:], self.names, number)


def answer(names: tuple[str, str, str], static: bytes, ephemeral: bytes, offer: bytes, grant: bytes) -> bytes:
    """The key server's side, with its private keys."""
    state = Handshake(prologue(*names), public(static))
    state.mix_hash(offer[:32])
    state.mix_key(agree(static, offer[:32]))
    if state.open(offer[32:]) != b"":
        raise Refused("an offer with a payload")
    state.mix_hash(public(ephemeral))
    state.mix_key(agree(ephemeral, offer[:32]))
    return public(ephemeral) + state.seal(grant)
