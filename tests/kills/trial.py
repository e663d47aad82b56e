"""One site under trial: what is done to it, and that everything acknowledged holds afterwards."""

import random, signal, time

from .clients import Driver
from .ledger import Ledger
from .place import SESSION_MS, Place, wait
from .relay import Relay

START = time.monotonic()
# What is killed, in every ten kills.
EMBEDDED = ["reigning"] * 6 + ["client"] * 2 + ["registrar"] * 2
ZOOKEEPER = ["reigning"] * 4 + ["client", "registrar", "standby", "standby", "zookeeper", "majority"]


def say(text):
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


class Trial:
    """One site, from its start to its end."""

    def __init__(self, with_zookeeper, binaries, seed, relayed=False):
        self.dice = random.Random(f"{seed} {with_zookeeper}")
        bases = {"ks": 23810, "ks-2": 23820} if relayed else {}
        self.relays = {name: Relay(base, 21810) for name, base in bases.items()}
        self.place = Place(with_zookeeper, binaries, seed % 1_000_000, bases)
        self.ledger = Ledger(f"{self.place.folder}/ledger.jsonl")
        self.drivers = {name: Driver(self.place, self.ledger, name, f"{seed} {name}") for name in self.place.clients}
        self.wrong = self.ledger.wrong

    def begin(self):
        self.ledger.listen()
        for name in self.place.ensemble:
            self.place.start(name)
        if not wait(lambda: all(self.place.serving(name) for name in self.place.ensemble), 60):
            raise RuntimeError("the ensemble does not serve")
        for name in self.place.key_servers:
            self.place.start(name)
            # The first to come makes what the store begins with.
            if not wait(lambda: self.place.reigning()[0] is not None, 30):
                raise RuntimeError("no key server reigns")
        for name in ["r1"] + self.place.clients:
            self.place.start(name)
        for driver in self.drivers.values():
            driver.start()
        self.settle()
        self.resume()

    def resume(self):
        for driver in self.drivers.values():
            driver.rest.clear()
            driver.at_rest.clear()

    def settle(self):
        """Lets everything come to rest, and compares it with the ledger."""
        for driver in self.drivers.values():
            driver.rest.set()
        if not wait(lambda: self.restart_deposed() or all(driver.at_rest.is_set() for driver in self.drivers.values()), 90):
            self.ledger.fault(self.wrong, "the clients do not come to rest")
        if not wait(lambda: self.restart_deposed() or self.is_settled(), 60):
            name, server = self.place.reigning()
            stand = {client: self.place.status(client) for client in self.place.clients}
            stand = {client: (s.get("status"), s.get("term"), s.get("epoch")) for client, s in stand.items()}
            self.ledger.fault(self.wrong, f"not all have the newest key: {name} {server and server['groups'][0]} {stand}")
            return
        name, server = self.place.reigning()
        epoch = server["groups"][0]["epoch"]
        if epoch < self.ledger.highest:
            self.ledger.fault(self.ledger.lost, f"epoch {self.ledger.highest} was acknowledged, the group has {epoch}")
        answer = self.place.ask(name, "/v1/groups/demo/members")[1]["members"]
        present = {member["identity"].rsplit("/", 1)[1]: member["joined_epoch"] for member in answer}
        for client, since in self.ledger.member_since.items():
            if present.get(client) != since:
                text = f"{client} is a member since {present.get(client)}, acknowledged was {since}, at epoch {epoch}"
                self.ledger.fault(self.ledger.lost, text)
                self.ledger.tell(client)
        for client in present:
            keys = self.place.ask(client, "/v1/groups/demo/keys")[1]["keys"]
            for key in keys:
                self.ledger.key(client, key["epoch"], key["secret"])
            if not keys or keys[-1]["epoch"] != epoch:
                self.ledger.fault(self.wrong, f"{client} has not the key of epoch {epoch}")
        self.ledger.check_order()

    def restart_deposed(self):
        """A key server that another one has replaced ends, and is started again, as a supervisor would."""
        for name in self.place.key_servers:
            if not self.place.runs(name):
                if not self.place.with_zookeeper:
                    raise RuntimeError(f"{name} has ended by itself")
                time.sleep(0.2)
                self.ledger.log("restarted", name=name)
                self.place.start(name)
        return False

    def is_settled(self):
        _, server = self.place.reigning()
        if server is None:
            return False
        present = (server["term"], server["groups"][0]["epoch"])
        for client, since in self.ledger.member_since.items():
            status = self.place.status(client)
            if since is not None and (status.get("status"), status.get("term"), status.get("epoch")) != ("member", *present):
                return False
        for name in self.place.key_servers:
            try:
                other = self.place.ask(name, "/v1/status", timeout=1)[1]
                if (other["term"], other["groups"][0]["epoch"]) != present:
                    return False
            except (OSError, ValueError, KeyError):
                return False
        return True

    def kill(self, what):
        """Kills, waits, and starts again. Returns who it was."""
        reigning, _ = self.place.reigning()
        standbys = [name for name in self.place.key_servers if name != reigning]
        victims = {
            "reigning": lambda: [reigning or self.place.key_servers[0]],
            "standby": lambda: [self.dice.choice(standbys)],
            "registrar": lambda: ["r1"],
            "client": lambda: [self.dice.choice(self.place.clients)],
            "zookeeper": lambda: [self.dice.choice(self.place.ensemble)],
            "majority": lambda: self.dice.sample(self.place.ensemble, 2),
        }[what]()
        for name in victims:
            if name in self.drivers:
                self.drivers[name].killed()
            self.place.signal(name, signal.SIGKILL)
            self.ledger.log("killed", name=name)
        time.sleep(self.dice.uniform(0, 3 if what in ("reigning", "majority") and self.place.with_zookeeper else 1))
        for name in victims:
            self.place.start(name)
        if not wait(lambda: all(self.place.serving(name) for name in victims if name.startswith("zk")), 60):
            self.ledger.fault(self.wrong, "the ensemble does not come back")
        return f"{what} ({', '.join(victims)})"

    def pause(self):
        """The key server that reigns sleeps for longer than its session lives; awake, it must not harm."""
        reigning, _ = self.place.reigning()
        if reigning is None:
            return
        self.place.signal(reigning, signal.SIGSTOP)
        time.sleep((SESSION_MS / 1000 if self.place.with_zookeeper else 0) + self.dice.uniform(1, 2))
        self.place.signal(reigning, signal.SIGCONT)
        self.ledger.log("paused", name=reigning)
        say(f"paused: {reigning}")

    def run(self, kills):
        self.begin()
        done = 0
        while done < kills and self.ledger.faults() < 5:
            if done % 10 == 0:
                plan = ZOOKEEPER if self.place.with_zookeeper else EMBEDDED
                plan = self.dice.sample(plan, len(plan))
            time.sleep(self.dice.uniform(0.2, 1))
            if done % 10 == 5:
                self.pause()
            victim = self.kill(plan[done % 10])
            done += 1
            self.settle()
            _, server = self.place.reigning()
            if server:
                say(f"kill {done}: {victim}; term {server['term']}, epoch {server['groups'][0]['epoch']}")
            self.resume()
        counts = self.ledger.counts
        say(", ".join(f"{counts[what]} {what}" for what in ("joined", "left", "evicted", "term", "key", "restarted")))
        return done

    def end(self):
        """Ends all processes. How many things did not hold."""
        self.ledger.closed = True
        self.place.end(self.ledger.faults() > 0)
        return self.ledger.faults()
