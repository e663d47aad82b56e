"""Other carriers than multicast, for tests/netns: three networks, and what joins them.

    network a   key server, registrar, members a1 and a2; t1, to which nothing multicast comes, over TCP
    network b   members b1 and b2; two relays, x1 and x2, pass whatever comes on either side to the other: a loop
    network c   member c1; relay x3 gets everything from the key server by unicast UDP

Hosts between networks route unicast, and no multicast.
"""

import os, signal, subprocess, time

import __main__ as netns
from __main__ import ask, check, join, run, say, start, status, wait, write

GROUP, PORT = "239.77.0.1", 7100
ADDRESSES = {  # host: network and last octet; of a relay one for each network, the first interface being eth0
    "ks": ["a1"], "r1": ["a2"], "a1": ["a11"], "a2": ["a12"], "t1": ["a13"],
    "x1": ["a101", "b101"], "x2": ["a102", "b102"], "x3": ["a103", "c103"],
    "b1": ["b11"], "b2": ["b12"], "c1": ["c11"],
}
ROUTER = {"b": "x1", "c": "x3"}  # unicast goes through these


def ip(place):
    return f"10.77.{'abc'.index(place[0])}.{place[1:]}"


def address(host, at=0):
    return ip(ADDRESSES[host][at])


def network():
    os.makedirs("/run/netns", exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    for name in "abc":
        run("ip", "link", "add", f"bridge-{name}", "type", "bridge", "mcast_snooping", "0")
        run("ip", "link", "set", f"bridge-{name}", "up")
    for host, places in ADDRESSES.items():
        run("ip", "netns", "add", host)
        run("ip", "-n", host, "link", "set", "lo", "up")
        for at, place in enumerate(places):
            run("ip", "link", "add", f"v-{host}-{at}", "type", "veth", "peer", "name", f"eth{at}", "netns", host)
            run("ip", "link", "set", f"v-{host}-{at}", "master", f"bridge-{place[0]}", "up")
            run("ip", "-n", host, "addr", "add", f"{ip(place)}/24", "dev", f"eth{at}")
            run("ip", "-n", host, "link", "set", f"eth{at}", "up")
        if len(places) > 1:
            run("ip", "netns", "exec", host, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        else:
            run("ip", "-n", host, "route", "add", "224.0.0.0/4", "dev", "eth0")
            for name, router in ROUTER.items():
                here = places[0][0]
                if here == "a":
                    run("ip", "-n", host, "route", "add", f"{ip(name + '0')}/24", "via", address(router))
                elif here == name:
                    run("ip", "-n", host, "route", "add", "10.77.0.0/24", "via", address(router, 1))
    run("ip", "netns", "exec", "t1", "nft",
        "add table ip none; add chain ip none in { type filter hook input priority 0; }; "
        "add rule ip none in ip daddr 224.0.0.0/4 counter drop")


def member(name, extra=""):
    site = open(f"{netns.folder}/pki/site.pub").read().strip()
    write(name, f'''key_server = "ks"
key_server_address = "{address("ks")}:7001"
registrars = [{{ address = "{address("r1")}:7003", identity = "spiffe://demo/registrar/r1" }}]
site_key = "{site}"
site_certificate = "pki/ks.site"
certificate = "pki/{name}.pem"
private_key = "pki/{name}.key"
trust_roots = "pki/ca.pem"
groups = ["demo"]
interface = "{address(name)}"
socket = "{name}.sock"
{extra}''')


def relay(name, inputs, outputs):
    site = open(f"{netns.folder}/pki/site.pub").read().strip()
    text = f'site_key = "{site}"\nsite_certificate = "pki/ks.site"\nstatus_socket = "{name}.sock"\n'
    for kind, places in (("input", inputs), ("output", outputs)):
        for where, interface in places:
            text += f'[[{kind}]]\naddress = "{where}"\n' + (f'interface = "{interface}"\n' if interface else "")
    write(name, text)
    start(name, name, f"{netns.BIN}/keystone", "relay", "--config", f"{name}.toml")
    wait(f"relay {name}", lambda: os.path.exists(f"{netns.folder}/{name}.sock"))


def configure():
    members = ("a1", "a2", "b1", "b2", "c1", "t1")
    run(f"{netns.BIN}/keystone", "pki", "init", "--dir", f"{netns.folder}/pki", "--domain", "demo", "--key-server", "ks",
        "--registrar", "r1", "--member", ",".join(members))
    write("ks", f'''name = "ks"
listen_requests = "{address("ks")}:7001"
listen_registrars = "{address("ks")}:7002"
interface = "{address("ks")}"
relays = ["{address("x3")}:7400", "{ip("a250")}:7400"]
store = "ks.store"
store_key = "ks.store-key"
noise_key = "pki/ks.noise"
signing_key = "pki/ks.signing"
admin_socket = "ks.sock"
{netns.tls("ks")}[[registrar]]
identity = "spiffe://demo/registrar/r1"
may_register.certificate = ["spiffe://demo/member/*"]
[[group]]
id = 1
name = "demo"
address = "{GROUP}:{PORT}"
allow = ["spiffe://demo/member/*"]
beacon_ms = 1000
beacon_max_ms = 2000
resync_wait_ms = 300
''')
    write("r1", f'''listen = "{address("r1")}:7003"
key_server_address = "{address("ks")}:7002"
key_server_identity = "spiffe://demo/keyserver/ks"
clients = ["spiffe://demo/member/*"]
status_socket = "r1.sock"
{netns.tls("r1")}''')
    for name in members:
        member(name, 'carrier = "tcp"\n' if name == "t1" else "")
    both = [(f"{GROUP}:{PORT}", interface) for interface in ("eth0", "eth1")]
    for name in ("x1", "x2"):
        relay(name, both, both)
    relay("x3", [(f"{address('x3')}:7400", None)], both[1:])


def kill(name):
    for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    netns.processes[name].wait()


def counters(name):
    report = ask(name, "/v1/status")[1]
    return report["counters"], sum(output["datagrams"] for output in report["outputs"])


def server():
    return ask("ks", "/v1/status")[1]


def place():
    now = server()
    return now["term"], now["groups"][0]["epoch"]


def up():
    try:
        return ask("ks", "/v1/status")[0] == 200
    except OSError:
        return False


def follow(who, what):
    wait(what, lambda: all((status(n).get("term"), status(n).get("epoch")) == place() for n in who))
    check(what, True)


def refresh(times):
    for _ in range(times):
        check("a refresh", ask("ks", "/v1/groups/demo/refresh", {})[0] == 200)


FORGE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
head = b"KS\\x01\\x01\\x01" + (1).to_bytes(4, "big") + bytes([9] * 16) + (99).to_bytes(8, "big") + (1 << 40).to_bytes(8, "big")
for i in range(3000):
    block = bytes(32) + b"\\0\\0\\0\\1" + (400).to_bytes(4, "big") + b"\\0\\1\\0\\0" + bytes([1, 2, i % 3])
    s.sendto(head + block + i.to_bytes(64, "big") + bytes(512 + 8), ("239.77.0.1", 7100))
"""


def scenario():
    network()
    configure()
    start("ks", "ks", f"{netns.BIN}/keyserver", "--config", "ks.toml")
    start("r1", "r1", f"{netns.BIN}/registrar", "--config", "r1.toml")
    wait("a registrar at the key server", lambda: os.path.exists(f"{netns.folder}/ks.sock")
         and ask("ks", "/v1/status")[1]["registrars"] == 1)
    members = ["a1", "b1", "b2", "c1", "t1"]
    for name in members:
        join(name)
    for name in members:
        wait(f"{name} is a member", lambda: status(name).get("status") == "member")
    wait("t1 is served over TCP", lambda: ask("t1", "/v1/status")[1]["tcp"]["open"])
    follow(members, "all have the newest key")

    # Copies of the last message are spaced, and some may still be on their way.
    time.sleep(1)
    before = {name: status(name)["counters"] for name in members}
    refresh(8)
    join("a2")
    wait("a2 is a member", lambda: status("a2").get("status") == "member")
    follow(members, "all networks follow refreshes and a join")
    ask("a2", "/v1/groups/demo/leave", {})
    wait("a2 left", lambda: status("a2").get("left_epoch"))
    follow(members, "all networks follow a leave")
    print(f"\n{'member':<8}{'messages':>10}{'units':>8}{'resyncs':>9}")
    for name in members:
        got = {field: value - before[name][field] for field, value in status(name)["counters"].items() if field in before[name]}
        print(f"{name:<8}{got['messages']:>10}{got['units_received']:>8}{got['resyncs']:>9}")
        check(f"{name} got 10 rekey messages", got["messages"] == 10)
        check(f"{name} never had to ask", got["resyncs"] == 0)
        # Between networks a and b are two relays, and each of them passes each copy once, on to the other network or back.
        most = 30 if name == "c1" else 60
        check(f"{name} got each unit once a way", got["units_received"] <= most and got["units_bad_signature"] == 0)
    check("t1 got no copies", status("t1")["counters"]["units_received"] - before["t1"]["units_received"] == 10)

    say("forged units on network a")
    unharmed = {name: counters(name) for name in ("x1", "x2")}
    epochs = place()
    start("a2", "forge", "python3", "-c", FORGE, address("a2")).wait()
    time.sleep(1)
    refresh(1)
    follow(members, "all networks follow during a flood")
    for name, (then, _) in unharmed.items():
        now, _ = counters(name)
        bogus = sum(now[cause] - then[cause] for cause in ("forged", "unchecked"))
        check(f"{name} dropped what was forged", bogus >= 2000)
        check(f"{name} looked at few signatures", now["signatures"] - then["signatures"] < 600)
        check(f"{name} passed a message and some beacons", now["passed"] - then["passed"] <= 20)
    check("nothing forged came to network b", status("b1")["counters"]["units_bad_tag"] == 0)
    check("one epoch was made", place() == (epochs[0], epochs[1] + 1))

    quiet = {name: counters(name) for name in ("x1", "x2", "x3")}
    time.sleep(5)
    print(f"\n{'relay':<8}{'passed':>8}{'duplicate':>11}{'forged':>8}{'unchecked':>11}{'signatures':>12}")
    for name, (then, sent) in quiet.items():
        now, sent_now = counters(name)
        print(f"{name:<8}{now['passed']:>8}{now['duplicate']:>11}{now['forged']:>8}{now['unchecked']:>11}{now['signatures']:>12}")
        check(f"{name} sends beacons and nothing else while nothing happens", sent_now - sent <= 6)
        check(f"{name} sees each a bounded number of times", now["duplicate"] <= 4 * now["passed"])
    print()

    say("b2 is evicted, relay x2 and the key server are killed")
    evicted = ask("ks", "/v1/groups/demo/evict", {"identity": "spiffe://demo/member/b2"})[1].get("epoch", 0)
    members.remove("b2")
    follow(members, "all networks follow an eviction")
    kill("x2")
    kill("ks")
    wait("t1's session has ended", lambda: not ask("t1", "/v1/status")[1]["tcp"]["open"])
    start("ks", "ks", f"{netns.BIN}/keyserver", "--config", "ks.toml")
    wait("the key server is back", up)
    follow(members, "all networks follow the next reign")
    wait("t1 is served again", lambda: ask("t1", "/v1/status")[1]["tcp"]["open"])
    refresh(2)
    follow(members, "all networks follow with one relay less")
    wait("b2 knows that it is out", lambda: status("b2").get("status") == "evicted")

    held = {}
    for name, epochs in netns.keys.items():
        check(f"{name} has keys", len(epochs) > (0 if name == "a2" else 3))
        for epoch, digest in epochs.items():
            check(f"{name} agrees on epoch {epoch}", held.setdefault(epoch, digest) == digest)
    check("b2 holds nothing from its eviction on", all(epoch < evicted for epoch in netns.keys["b2"]))

    connected = lambda: (server()["registrars"], server()["subscribers"]) == (1, 1)
    wait("a registrar and a member over TCP are connected", connected)
    say("r1 and t1 are cut off without a word")
    cut = ("r1", "t1")
    for host in cut:
        run("ip", "netns", "exec", host, "nft",
            "add table ip cut; add chain ip cut in { type filter hook input priority 0; policy drop; }; "
            "add chain ip cut out { type filter hook output priority 0; policy drop; }")
    refresh(1)
    wait("the key server notices that they are gone", lambda: server()["registrars"] + server()["subscribers"] == 0, 45)
    say("the key server has noticed")
    wait("r1 notices that the key server is gone", lambda: ask("r1", "/v1/status")[1]["key_server"] is None, 15)
    for host in cut:
        run("ip", "netns", "exec", host, "nft", "delete table ip cut")
    wait("both are connected again", connected, 60)
    follow(members, "all networks follow again")
    say("both are back")
