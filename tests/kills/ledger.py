"""What was acknowledged and what was seen, kept outside of all processes that are killed.

    lost       something acknowledged that does not hold
    fork       two keys, or two commitments, under one epoch of the group
    repeated   an epoch number heard again in another term or incarnation
"""

import collections, hashlib, json, socket, struct, threading, time

from .place import GROUP, PORT


class Ledger:
    def __init__(self, path):
        self.lock = threading.RLock()
        self.file = open(path, "w")
        self.lost, self.forks, self.repeated, self.wrong = [], [], [], []
        self.keys = {}  # epoch: fingerprint of the data key, and who had it first
        self.headers = {}  # epoch: (incarnation, term)
        self.commitments, self.hashes = {}, {}  # epoch: of its header
        self.incarnations = {}  # term: incarnation
        self.member_since = {}  # client: epoch of its acknowledged join; None: acknowledged to be out; absent: not known
        self.highest = 0  # acknowledged epoch
        self.counts = collections.Counter()
        self.closed = False  # what comes now belongs to another site

    def log(self, what, **more):
        with self.lock:
            self.counts[what] += 1
            self.file.write(json.dumps({"at": round(time.time(), 3), "what": what, **more}) + "\n")
            self.file.flush()

    def fault(self, where, text):
        with self.lock:
            if text not in where and not self.closed:
                where.append(text)
                print(f"FAILED: {text}", flush=True)

    def acknowledged(self, what, client, epoch, since):
        """A join, leave or eviction; from now on the client is a member since this epoch, or is none (None)."""
        with self.lock:
            self.log(what, client=client, epoch=epoch)
            self.member_since[client] = since
            self.highest = max(self.highest, epoch or 0)

    def unknown(self, client):
        """Something was asked of which nobody can tell whether it was done."""
        with self.lock:
            self.member_since.pop(client, None)

    def key(self, client, epoch, secret):
        digest = hashlib.sha256(secret.encode()).hexdigest()[:16]
        with self.lock:
            held, first = self.keys.setdefault(epoch, (digest, client))
            if first == client and held == digest:
                self.log("key", client=client, epoch=epoch, fingerprint=digest)
            if held != digest:
                self.fault(self.forks, f"epoch {epoch} has a key at {first} and another at {client}")

    def datagram(self, octets):
        """Epoch headers out of everything multicast; nothing of it is verified, because nobody forges here."""
        if len(octets) < 105 or octets[:3] != b"KS\x01":
            return
        incarnation, term, epoch = octets[9:25].hex(), *struct.unpack(">QQ", octets[25:41])
        with self.lock:
            if term not in self.incarnations:
                self.log("term", term=term, incarnation=incarnation, epoch=epoch)
            if self.incarnations.setdefault(term, incarnation) != incarnation:
                self.fault(self.forks, f"term {term} has two incarnations")
            if self.headers.setdefault(epoch, (incarnation, term)) != (incarnation, term):
                self.fault(self.repeated, f"epoch {epoch} was given out in terms {self.headers[epoch][1]} and {term}")
            if octets[3] == 1:
                self.one(self.hashes, epoch - 1, octets[41:73])  # a unit points to the epoch before
            else:
                self.one(self.commitments, epoch, octets[41:73])
                self.one(self.hashes, epoch, octets[73:105])

    def one(self, known, epoch, value):
        if known.setdefault(epoch, value) != value:
            self.fault(self.forks, f"two histories at epoch {epoch}")

    def check_order(self):
        """Terms and epochs rise together."""
        with self.lock:
            terms = [self.headers[epoch][1] for epoch in sorted(self.headers)]
        if terms != sorted(terms):
            self.fault(self.wrong, f"terms fall while epochs rise: {terms}")

    def listen(self):
        """Hears the group's multicast until the ledger is closed."""
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        heard.bind((GROUP, PORT))
        membership = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)

        def run():
            while not self.closed:
                self.datagram(heard.recv(2048))

        threading.Thread(target=run, daemon=True).start()

    def tell(self, client):
        """What the ledger says about a client, its last lines."""
        with self.lock, open(self.file.name) as file:
            about = [line for line in file if f'"{client}"' in line and '"key"' not in line or '"killed"' in line or '"term"' in line]
        print(*("    " + line.strip() for line in about[-12:]), sep="\n", flush=True)

    def faults(self):
        return len(self.lost) + len(self.forks) + len(self.repeated) + len(self.wrong)
