#!/usr/bin/env python3
"""Follows a live group: reads a JSON line {"reply", "key", "interface"} from standard input, joins the group's multicast and
prints a JSON line for each epoch that it installs. `reply` is the plaintext of a sealed reply, `key` the key server's
Ed25519 key, both hexadecimal. Ends when standard input does."""

import hashlib
import json
import select
import socket
import sys

import keystone_decoder as keystone


def main() -> None:
    start = json.loads(sys.stdin.readline())
    member, (address, port) = keystone.read_reply(bytes.fromhex(start["reply"]), bytes.fromhex(start["key"]))
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    request = socket.inet_aton(address) + socket.inet_aton(start["interface"])
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    print(json.dumps({"ready": member.context.epoch}), flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener in ready:
            for epoch, key in member.hear(listener.recv(2048)):
                line = {"epoch": epoch, "key": hashlib.sha256(key).hexdigest(), "repaired": member.reassembly.repaired}
                print(json.dumps(line), flush=True)
        elif not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
