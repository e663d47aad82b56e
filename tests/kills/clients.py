"""Eight clients that join and leave all the time, and now and then are evicted."""

import json, random, socket, threading, time

from .place import identity

PATIENCE = 60  # seconds, for what must be acknowledged in the end whatever is killed


class Killed(Exception):
    """The client was killed while something was under way."""


class Driver(threading.Thread):
    """Drives one client. What it is told is in the ledger, and at rest it knows how the client stands."""

    def __init__(self, place, ledger, name, seed, steady=False):
        super().__init__(daemon=True)
        self.place, self.ledger, self.name, self.dice, self.steady = place, ledger, name, random.Random(seed), steady
        self.life = 0  # counts kills
        self.at_rest, self.rest = threading.Event(), threading.Event()
        self.client = name

    def run(self):
        threading.Thread(target=self.watch, daemon=True).start()
        while True:
            life = self.life
            try:
                if self.client not in self.ledger.member_since:
                    self.join()
                elif self.rest.is_set():
                    self.at_rest.set()
                    time.sleep(0.02)
                else:
                    self.at_rest.clear()
                    self.step()
            except (Killed, OSError, ValueError):
                if self.life != life:
                    self.ledger.unknown(self.client)
                time.sleep(0.05)

    def killed(self):
        """Told before the client is killed."""
        self.life += 1
        self.at_rest.clear()
        self.ledger.unknown(self.client)

    def step(self):
        is_member = self.ledger.member_since[self.client] is not None
        if not is_member:
            self.join()
        elif not self.steady:
            self.evict() if self.dice.random() < 0.15 else self.leave()
        self.pause(self.dice.uniform(0.05, 0.6))

    def pause(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.rest.is_set():
            time.sleep(0.02)

    def until(self, what, wanted):
        """The client's status, once it is as wanted."""
        life, deadline = self.life, time.monotonic() + PATIENCE
        while True:
            status = self.place.status(self.client)
            if self.life != life:
                raise Killed
            if wanted(status):
                return status
            if time.monotonic() > deadline:
                self.ledger.fault(self.ledger.wrong, f"{self.client} waits in vain to {what}: {status.get('status')}")
                deadline += PATIENCE
            time.sleep(0.02)

    def join(self):
        self.place.ask(self.client, "/v1/groups/demo/join", {})
        life = self.life
        status = self.until("join", lambda status: status.get("status") == "member")
        self.acknowledge(life, "joined", status["joined_epoch"], status["joined_epoch"])

    def leave(self):
        self.ledger.unknown(self.client)
        life = self.life
        self.place.ask(self.client, "/v1/groups/demo/leave", {})
        status = self.until("leave", lambda status: status.get("status") == "left")
        self.acknowledge(life, "left", status["left_epoch"], None)

    def evict(self):
        if not (answer := self.order("evict")):
            return
        if answer[0] == 200:
            self.acknowledge(self.life, "evicted", answer[1]["epoch"], None)
        elif answer[0] == 404:
            self.ledger.fault(self.ledger.lost, f"{self.client} is no member any more: {answer[1]}")
        life = self.life
        self.until("learn that it is evicted", lambda status: status.get("status") in ("evicted", "left"))
        while life == self.life and not ((answer := self.order("admit")) and answer[0] == 200):
            time.sleep(0.1)

    def order(self, what):
        """An operator's command, where one reigns. Without an answer nobody knows whether it was carried out."""
        name, _ = self.place.reigning()
        if name is None:
            return None
        try:
            answer = self.place.ask(name, f"/v1/groups/demo/{what}", {"identity": identity(self.client)})
            if answer[0] in (200, 404):
                return answer
        except (OSError, ValueError):
            pass
        self.ledger.unknown(self.client)
        return None

    def acknowledge(self, life, what, epoch, since):
        with self.ledger.lock:
            if life != self.life:
                raise Killed
            self.ledger.acknowledged(what, self.client, epoch, since)

    def watch(self):
        """Reads the client's feed for as long as there is one."""
        while True:
            try:
                feed = socket.socket(socket.AF_UNIX)
                feed.connect(f"{self.place.folder}/{self.client}.sock")
                feed.sendall(b"GET /v1/groups/demo/watch HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n")
                for line in feed.makefile("rb"):
                    if line.startswith(b"{"):
                        self.see(json.loads(line))
            except (OSError, ValueError):
                pass
            time.sleep(0.05)

    def see(self, state):
        for key in state["keys"]:
            self.ledger.key(self.client, key["epoch"], key["secret"])
        if self.steady and self.ledger.member_since.get(self.client) is not None:
            if not (state["keys"] and state["keys"][-1]["receive_until_ms"] is None):
                self.ledger.fault(self.ledger.wrong, f"{self.client} cannot decrypt: {state['status']}")
