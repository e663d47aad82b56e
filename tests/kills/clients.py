"""Eight clients that join and leave all the time, and now and then are evicted."""

import json, random, socket, threading, time

from .place import identity

PATIENCE = 60  # seconds, for what must be acknowledged in the end whatever is killed


class Killed(Exception):
    """The client was killed while something was under way."""


class Driver(threading.Thread):
    """Drives one client. What it is told is in the ledger, and at rest it knows how the client stands."""

    def __init__(self, place, ledger, name, seed):
        super().__init__(daemon=True)
        self.place, self.ledger, self.name, self.dice = place, ledger, name, random.Random(seed)
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
        else:
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

    def tell(self, what):
        """Asks the client for something; a client that was killed is there again soon."""
        self.ledger.unknown(self.client)
        while True:
            try:
                return self.place.ask(self.client, f"/v1/groups/demo/{what}", {})
            except (OSError, ValueError):
                time.sleep(0.05)

    def join(self):
        life = self.life
        self.tell("join")
        status = self.until("join", lambda status: status.get("status") == "member")
        self.acknowledge(life, "joined", status["joined_epoch"], status["joined_epoch"])

    def leave(self):
        life = self.life
        self.tell("leave")
        status = self.until("leave", lambda status: status.get("status") == "left")
        self.acknowledge(life, "left", status["left_epoch"], None)

    def evict(self):
        """Evicts the client and lets it in again, however often that has to be asked."""
        life, asked = self.life, False
        self.ledger.unknown(self.client)
        while (answer := self.order("evict")) is None or answer[0] not in (200, 404):
            asked = asked or answer is None
            time.sleep(0.05)
        if answer[0] == 404 and not asked:
            self.ledger.fault(self.ledger.lost, f"{self.client} is no member any more: {answer[1]}")
        try:
            self.acknowledge(life, "evicted", answer[1].get("epoch"), None)
            self.until("learn that it is evicted", lambda status: status.get("status") in ("evicted", "left"))
        finally:
            while (self.order("admit") or [0])[0] != 200:
                time.sleep(0.05)

    def order(self, what):
        """An operator's command, where one reigns. None: nobody knows whether it was carried out."""
        name, _ = self.place.reigning()
        if name is None:
            return 503, {}
        try:
            return self.place.ask(name, f"/v1/groups/demo/{what}", {"identity": identity(self.client)})
        except (OSError, ValueError):
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
