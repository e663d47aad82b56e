"""How long a take-over takes in a large site, and that members decrypt all the while."""

import json, math, random, signal, socket, statistics, struct, subprocess, threading, time

from .place import GROUP, PORT, SESSION_MS, Place, wait
from .trial import say

SESSION = SESSION_MS / 1000
REAL = 24  # members that are processes
STREAMS = 6  # groups at the most that they share, in equal parts; one of each part sends
DATA_PORT = 7200


class Site:
    """Two key servers over an ensemble. Of the members of each group nobody runs more than a few; the others are in its key graph, and
    their registrations in the store."""

    def __init__(self, binaries, seed, groups, members):
        self.dice = random.Random(seed)
        self.faults = []
        self.members = members
        self.place = Place(True, binaries, seed % 1_000_000, groups=groups, clients=REAL, pace="", loss=0)
        some = self.place.groups[:: math.ceil(groups / STREAMS)]
        self.group_of = {client: some[n % len(some)] for n, client in enumerate(self.place.clients)}
        self.first = {}  # term: {group: when its first rekey unit was heard}
        self.streams = {}  # client: keystone mcast
        self.ended = threading.Event()

    def fault(self, text):
        self.faults.append(text)
        print(f"FAILED: {text}", flush=True)

    def begin(self):
        place = self.place
        for name in place.ensemble:
            place.start(name)
        if not wait(lambda: all(place.serving(name) for name in place.ensemble), 60):
            raise RuntimeError("the ensemble does not serve")
        fill = [f"{place.binaries}/bench", "fill", "--config", f"{place.folder}/ks.toml", "--members", str(self.members), "--prefix",
                "spiffe://demo/member/idle/"]
        subprocess.run(fill, check=True, stdout=subprocess.DEVNULL)
        threading.Thread(target=self.listen, daemon=True).start()
        for name in place.key_servers:
            place.start(name)
            if not wait(lambda: place.reigning()[0] is not None, 120):
                raise RuntimeError("no key server reigns")
        for name in ["r1"] + place.clients:
            place.start(name)
        for client, group in self.group_of.items():
            self.join(client, group)
        self.settle()
        for client, group in self.group_of.items():
            threading.Thread(target=self.watch, args=(client, group), daemon=True).start()
        senders = {group: client for client, group in reversed(self.group_of.items())}
        for client, group in self.group_of.items():
            if client != senders[group]:
                self.stream(client, group, "recv", "--listen", "--output-stats", f"{client}.stats")
        time.sleep(1)
        for group, client in senders.items():
            self.stream(client, group, "send", "--to")
            threading.Thread(target=self.speak, args=(self.streams[client].stdin,), daemon=True).start()

    def join(self, client, group):
        def joined():
            try:
                self.place.ask(client, f"/v1/groups/{group}/join", {})
            except (OSError, ValueError):
                return False
            return wait(lambda: self.place.status(client).get("status") == "member", 10)

        if not wait(joined, 60):
            raise RuntimeError(f"{client} cannot join {group}")

    def stream(self, client, group, what, address, *more):
        place = self.place
        command = [f"{place.binaries}/keystone", "mcast", what, "--socket", f"{client}.sock", "--group", group, address,
                   f"239.77.1.{1 + place.groups.index(group) % 250}:{DATA_PORT}", *more]
        with open(f"{place.folder}/{client}.stream.log", "ab") as log:
            process = subprocess.Popen(command, cwd=place.folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
        self.streams[client] = place.processes[f"{client}.stream"] = process

    def speak(self, into):
        """A packet of data every 10 ms."""
        while not self.ended.is_set():
            into.write(bytes(1000))
            into.flush()
            time.sleep(0.01)
        into.close()

    def listen(self):
        """Notes when the first unit of a group's rekey message is heard in each term. Nobody forges here."""
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heard.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        heard.bind((GROUP, PORT))
        heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1"))
        while True:
            octets = heard.recv(2048)
            if octets[:4] == b"KS\x01\x01":
                group, term = *struct.unpack(">I", octets[5:9]), *struct.unpack(">Q", octets[25:33])
                self.first.setdefault(term, {}).setdefault(group, time.monotonic())

    def watch(self, client, group):
        """A member that is told of no key that lives, or that is told nothing any more, cannot decrypt."""
        feed = socket.socket(socket.AF_UNIX)
        feed.connect(f"{self.place.folder}/{client}.sock")
        feed.sendall(f"GET /v1/groups/{group}/watch HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n".encode())
        for line in feed.makefile("rb"):
            if line.startswith(b"{"):
                state = json.loads(line)
                if not any(key["receive_until_ms"] is None for key in state["keys"]):
                    self.fault(f"{client} cannot decrypt: {state['status']}")
        if not self.ended.is_set():
            self.fault(f"{client} has ended its feed")

    def settle(self):
        """Until all members have the newest key, and the other key server stands by."""
        place = self.place

        def settled():
            _, server = place.reigning()
            if server is None:
                return False
            epochs = {group["name"]: group["epoch"] for group in server["groups"]}
            stand = {client: place.status(client) for client in place.clients}
            if any((stand[c].get("term"), stand[c].get("epoch")) != (server["term"], epochs[g]) for c, g in self.group_of.items()):
                return False
            try:
                others = [place.ask(name, "/v1/status", timeout=5)[1] for name in place.key_servers]
                return all({group["name"]: group["epoch"] for group in other["groups"]} == epochs for other in others)
            except (OSError, ValueError, KeyError):
                return False

        if not wait(settled, 120):
            self.fault("not all have the newest key")

    def take_over(self, number):
        """Seconds from the signal to the first rekey unit of the next reign, and to the last group's."""
        place = self.place
        name, server = place.reigning()
        time.sleep(self.dice.uniform(0, 1))
        since = time.monotonic()
        place.signal(name, number)
        later = lambda: [self.first[term] for term in sorted(self.first) if term > server["term"]]
        if not wait(later, 60):
            raise RuntimeError("nobody takes over")
        place.processes[name].wait()
        place.start(name)
        heard = later()[0]
        if not wait(lambda: len(heard) == len(place.groups), 60):
            self.fault(f"{len(place.groups) - len(heard)} groups were not rekeyed")
        self.settle()
        return min(heard.values()) - since, max(heard.values()) - since

    def end(self):
        """The streams come to their end; whoever missed a packet says so."""
        self.ended.set()
        for client, process in self.streams.items():
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                code = None
            if code != 0:
                self.fault(f"the data of {client} is not whole: exit {code}")


def measure(binaries, seed, count, groups, members):
    """Some lines of result. How many things do not hold."""
    site = Site(binaries, seed, groups, members)
    name = f"{groups} group{'s' * (groups > 1)} of {members} members"
    try:
        site.begin()
        say(f"{name}: filled, and joined by {REAL} members that run")
        for what, number, count in (("kill -9", signal.SIGKILL, count), ("orderly stop", signal.SIGTERM, math.ceil(count / 2))):
            took = [site.take_over(number) for _ in range(count)]
            first, last = zip(*took)
            most = SESSION + 1 if number == signal.SIGKILL else 1
            say(f"{name}, {what}: {count} take-overs, first rekey message after {statistics.median(first):.2f} s (median; at most {most} s), "
                f"maximum {max(first):.2f} s; the last group's after {statistics.median(last):.2f} s, maximum {max(last):.2f} s; "
                f"session timeout {SESSION} s")
            if statistics.median(first) > most:
                site.fault(f"{what}: take-overs are too slow")
        site.end()
        heard = [json.load(open(f"{site.place.folder}/{client}.stats")) for client, process in site.streams.items() if "recv" in process.args]
        packets, missing = (sum(stream[what] for stats in heard for stream in stats["streams"]) for what in ("packets", "missing_packets"))
        say(f"{name}: {len(heard)} members received {packets} packets of data meanwhile, missing {missing}")
    except Exception as error:  # whatever goes wrong is a failure, and everything is still ended
        site.fault(f"the measurement did not run to its end ({type(error).__name__}: {error})")
    finally:
        site.place.end(len(site.faults) > 0)
    return len(site.faults)
