"""What the loss tests share: hosts in network namespaces, rules that lose, cells, tables, plots.

A sender and some receivers, each in a network namespace of its own, on veth behind a bridge. At each receiver nftables loses
units, each receiver its own, and counts them. A cell is one run of the example `multicast_loss` of the crate `tests`.
"""

import argparse, json, os, shutil, subprocess, sys, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target"))
PROGRAM = os.path.join(TARGET, "release", "examples", "multicast_loss")
GROUP, PORT, ANSWERS, SENDER = "239.77.9.1", 7300, 7301, "10.77.9.1"
START = time.monotonic()


def inside_namespaces():
    """Starts the script once more in namespaces of its own, which end with it."""
    missing = [tool for tool in ("ip", "nft", "unshare") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        sys.exit(f"{sys.argv[0]} needs to be root" if not missing else f"{sys.argv[0]} needs {', '.join(missing)}")
    if not os.path.exists(PROGRAM):
        sys.exit(f"{PROGRAM} is missing: cargo build --release -p tests --example multicast_loss")
    if "KEYSTONE_NETNS" not in os.environ:
        os.environ["KEYSTONE_NETNS"] = "inside"
        sys.exit(subprocess.call(["unshare", "-n", "-m", "--kill-child", "--fork", "--pid", "--mount-proc", sys.executable,
                                  "-B"] + sys.argv))


def arguments(description, name):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000, help="messages of a cell, of all receivers (10000)")
    parser.add_argument("--seed", type=int, default=1, help="of messages and pauses (1); what the kernel loses has no seed")
    parser.add_argument("--json", default=os.path.join(TARGET, "loss", f"{name}.json"), help="where the rows go")
    parser.add_argument("--plot", default=os.path.join(TARGET, "loss", f"{name}.svg"), help="where the plot goes")
    return parser


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Rules:
    """Rules of nftables at each receiver. They count what they do in rules with a comment: `lost`, `fillers`, `spoilt`."""

    def __init__(self, at):
        self.at = at  # host -> text of the rules for units and empty datagrams

    def prepare(self, lab):
        for host in lab.hosts:
            lab.rules(f"""table ip loss {{
{self.at(host)}
}}
""", host)

    def counts(self, lab, host, _):
        return lab.counted(host)


def chain(*rules):
    """What comes in for the group, and is no text of the sender's, which nothing happens to, through these rules."""
    first = ["type filter hook input priority 0;", f"ip daddr != {GROUP} accept", "udp length 9-599 accept"]
    return "  chain in {\n    " + "\n    ".join(first + list(rules)) + "\n  }"


FILLERS, ARRIVED = 'udp length 8 counter drop comment "fillers"', 'counter accept comment "arrived"'
DROP = 'counter drop comment "lost"'


class Lab:
    """The network; and the cells that were run on it."""

    def __init__(self, receivers, options):
        self.hosts = [f"r{i}" for i in range(1, receivers + 1)]
        self.options = options
        self.cells = []
        os.makedirs("/run/netns", exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        run("ip", "link", "set", "bridge", "up")
        for i, host in enumerate(["s"] + self.hosts):
            run("ip", "netns", "add", host)
            run("ip", "link", "add", f"v-{host}", "type", "veth", "peer", "name", "eth0", "netns", host)
            run("ip", "link", "set", f"v-{host}", "master", "bridge", "up")
            for command in (["addr", "add", f"10.77.9.{i + 1}/24", "dev", "eth0"], ["link", "set", "lo", "up"],
                            ["link", "set", "eth0", "up"], ["route", "add", "224.0.0.0/4", "dev", "eth0"]):
                run("ip", "-n", host, *command)

    def rules(self, text, host=None):
        """Loads rules at a host in place of those before, or on the bridge's side."""
        where = ["ip", "netns", "exec", host] if host else []
        subprocess.run(where + ["nft", "-f", "-"], input=f"flush ruleset\n{text}", text=True, check=True)

    def counted(self, host=None):
        """Packets by the comment of the rule that counted them."""
        where = ["ip", "netns", "exec", host] if host else []
        text = subprocess.run(where + ["nft", "-j", "list", "ruleset"], check=True, capture_output=True).stdout
        rules = [entry["rule"] for entry in json.loads(text)["nftables"] if "rule" in entry]
        return {rule["comment"]: expression["counter"]["packets"] for rule in rules if "comment" in rule
                for expression in rule["expr"] if "counter" in expression}

    def dropped_by_netem(self, port):
        text = subprocess.run(["tc", "-s", "-j", "qdisc", "show", "dev", port], check=True, capture_output=True).stdout
        return next(qdisc["drops"] for qdisc in json.loads(text) if qdisc["kind"] == "netem")

    def cell(self, case, network, units, scheme, loss, burst=1.0, pause=0, learn=0):
        """Runs one cell on a network that loses: `network.prepare(lab)` comes first, `network.counts(lab, host, cell)` last."""
        network.prepare(self)
        number = len(self.cells)
        seed = self.options.seed * 1000 + number
        messages = -(-self.options.messages // len(self.hosts))
        common = {"group": f"{GROUP}:{PORT}", "answers": f"{SENDER}:{ANSWERS}", "seed": seed}

        def start(host, role, **more):
            return subprocess.Popen(["ip", "netns", "exec", host, PROGRAM, role, json.dumps(common | more)], stdout=subprocess.PIPE)

        receivers = [start(host, "receive", receiver=i, interface=f"10.77.9.{i + 2}") for i, host in enumerate(self.hosts)]
        sender = start("s", "send", interface=SENDER, receivers=len(self.hosts), messages=messages, learn=learn, units=units,
                       scheme=scheme, loss=loss, burst=burst, pause=pause)
        output = sender.communicate()[0]
        for receiver in receivers:
            receiver.kill() if sender.returncode else None
            receiver.wait()
        if sender.returncode:
            raise RuntimeError(f"{case}: the sender failed")
        result = json.loads(output) | {"case": case, "seed": seed, "units": units, "scheme": scheme, "learn": learn}
        result["hosts"] = [network.counts(self, host, result) for host in self.hosts]
        result["void"] = self.void(result)
        self.cells.append(result)
        return result

    def void(self, cell):
        """Why a cell says nothing; None if every datagram is accounted for."""
        for host, counts, totals in zip(self.hosts, cell["hosts"], cell["receivers"]):
            arrived = totals["received"] + totals["overflow"]
            if totals["overflow"]:
                return f"{host}: the socket had no room for {totals['overflow']} datagrams"
            if cell["sent"] + counts.get("copied", 0) != counts.get("lost", 0) + arrived:
                return f"{host}: of {cell['sent']} units {counts['lost']} were lost by the rules and {arrived} arrived"
            if cell["fillers"] != counts.get("fillers", cell["fillers"]):
                return f"{host}: of {cell['fillers']} empty datagrams {counts['fillers']} came"
            if totals["refused"] != counts.get("spoilt", 0):
                return f"{host}: {counts.get('spoilt', 0)} units were spoilt and {totals['refused']} refused"
            if totals["otherwise"]:
                return f"{host}: {totals['otherwise']} messages were decoded otherwise than their units allow"
        return None

    def finish(self, name, judged=lambda cell: True, significance=0.001):
        """Table, verdict over all `judged` cells together, rows and plot. Ends the script.

        `significance` is how often chance alone may fail the script.
        """
        tried = [cell for cell in self.cells if judged(cell) and not cell["void"]]
        for cell in self.cells:
            cell["met"] = cell["tail"] * len(tried) >= significance if cell in tried else None
        self.table()
        void = [f"void: {cell['case']}: {cell['void']}" for cell in self.cells if cell["void"]]
        print(*void, sep="\n")
        rows = [row for cell in self.cells for row in self.rows(cell)]
        for goal in {row["goal"] for row in rows if row["goal"]}:
            most = max(row["ratio"] for row in rows if row["goal"] == goal)
            print(f"octets beside rs1: at most {most:.2f} (goal {goal})")
        least = min([1.0] + [cell["tail"] * len(tried) for cell in tried])
        print(f"least probability of {len(tried)} cells, times cells: {least:.3g}; at least {significance} passes")
        self.plot(name, rows)
        passed = not void and least >= significance
        print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - START:.0f} s", flush=True)
        sys.exit(0 if passed else 1)

    def table(self):
        print(f"\n{'cell':<34}{'seed':>6}{'sent':>9}{'dropped':>9}{'share':>8}{'runs of':>8}{'overflow':>9}{'messages':>10}"
              f"{'missed':>8}{'expected':>10}{'probability':>13}{'octets':>9}")
        for cell in self.cells:
            total = lambda field: sum(totals[field] for totals in cell["receivers"])
            dropped = sum(counts.get("lost", 0) + counts.get("spoilt", 0) for counts in cell["hosts"])
            share, runs = total("lost") / total("units"), total("lost") / max(1, total("runs"))
            expected = "" if cell["expected"] is None else f"{cell['expected'] * cell['messages']:.1f}"
            tail = "" if cell["met"] is None else f"{cell['tail']:.3g}"
            print(f"{cell['case']:<34}{cell['seed']:>6}{cell['sent'] * len(self.hosts):>9}{dropped:>9}{share:>8.4f}{runs:>8.2f}"
                  f"{total('overflow'):>9}{cell['messages']:>10}{cell['unrecovered']:>8}{expected:>10}{tail:>13}{cell['octets']:>9.0f}")

    def rows(self, cell):
        """As those of `bench`: what was missed; and the octets, if there is another cell to compare them with."""
        against, limit = ("promise", 0.001) if cell["expected"] is None else ("expected", cell["expected"])
        value = cell["unrecovered"] / cell["messages"]
        yield {"case": f"{cell['case']} unrecovered", "value": value * 1e6, "unit": "in 10^6", "against": against,
               "against_value": limit * 1e6, "ratio": value / limit, "goal": None, "met": cell["met"]}
        beside, goal = cell.get("beside", (None, None))
        if beside:
            ratio = cell["octets"] / beside["octets"]
            yield {"case": f"{cell['case']} octets", "value": cell["octets"], "unit": "octets", "against": beside["scheme"],
                   "against_value": beside["octets"], "ratio": ratio, "goal": goal, "met": goal and ratio <= goal}

    def plot(self, name, rows):
        for path in (self.options.json, self.options.plot):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(self.options.json, "w") as file:
            json.dump({"rows": rows}, file)
        pythons = [os.path.join(TOP, "target", "tools", "python", "bin", "python"), sys.executable]
        able = [python for python in pythons if os.path.exists(python)
                and subprocess.run([python, "-c", "import matplotlib"], capture_output=True).returncode == 0]
        if able:
            run(able[0], os.path.join(TOP, "bench", "plot.py"), f"sockets-{name}", self.options.json, self.options.plot)
            print(f"plot: {self.options.plot}")
        else:
            print("no plot: matplotlib is not installed (pip install -r tests/loss/requirements.txt)")
