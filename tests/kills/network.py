"""What stands between the key servers and ZooKeeper: a network that is cut, slow or late, and a ZooKeeper that refuses.

Each takes a trial that runs and leaves one that is at rest; what does not hold is in its ledger."""

import base64, hashlib, os, shutil, signal, subprocess, time

from .place import JAVA, JARS, SESSION_MS, wait
from .trial import say

SESSION = SESSION_MS / 1000
# ZooKeeper's own command line.
COMMAND_LINE = ["java", "-cp", ":".join(f"{JAVA}/{jar}.jar" for jar in JARS + ["commons-cli"]), "-Xmx64m",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "org.apache.zookeeper.ZooKeeperMain", "-server", "127.0.0.1:21811"]


def expect(trial, holds, what):
    if not holds:
        trial.ledger.fault(trial.wrong, what)


def acknowledged(trial):
    return sum(trial.ledger.counts[what] for what in ("joined", "left", "evicted"))


def calm(trial):
    """At rest, once the sessions that were given up have ended and whoever takes over because of it has."""
    time.sleep(2 * SESSION)
    trial.settle()


def cut(trial):
    """The key server that reigns hears its members and no ZooKeeper any more."""
    place, ledger = trial.place, trial.ledger
    old, before = place.reigning()
    new = next(name for name in place.key_servers if name != old)
    since = time.monotonic()
    trial.relays[old].cut()
    expect(trial, wait(lambda: place.reigning()[0] == new, 30), f"{new} does not take over from one that is cut off")
    took = time.monotonic() - since
    term = place.reigning()[1]["term"]
    # All members, those too that the old one still answers; then a while of changes that it does not see.
    follows = lambda client: place.status(client).get("term") == term or ledger.member_since.get(client) is None
    expect(trial, wait(lambda: all(follows(client) for client in place.clients), 60), "not all members follow the new one")
    count = acknowledged(trial)
    expect(trial, wait(lambda: acknowledged(trial) >= count + 5, 60), "the new one acknowledges nothing")
    status = place.ask(old, "/v1/status")[1]
    first = min(epoch for epoch, (_, of) in ledger.headers.items() if of == term)
    expect(trial, place.runs(old) and status["term"] == before["term"] and not status["standby"], f"{old} is not what it was: {status}")
    expect(trial, status["groups"][0]["epoch"] < first, f"{old} has gone on to epoch {status['groups'][0]['epoch']}, {first} is another's")
    trial.relays[old].mend()
    expect(trial, wait(lambda: not place.runs(old), 30), f"{old} does not end although another one reigns")
    expect(trial, place.processes[old].poll() == 1 and "another key server reigns now" in place.said(old), f"{old} does not say why it ends")
    trial.settle()
    say(f"cut off: taken over after {took:.2f} s, with a session timeout of {SESSION} s; the old one ended by itself")


def slow(trial):
    """Every answer of ZooKeeper comes so much later, to all."""
    for delay in (0.4, 1.5, 1.5 * SESSION):
        count, until = acknowledged(trial), time.monotonic() + 4 * SESSION
        for relay in trial.relays.values():
            relay.delay = delay
        while time.monotonic() < until:
            trial.restart_deposed()
            time.sleep(0.1)
        count = acknowledged(trial) - count
        # A few answers make an acknowledgement. Where they are later than a session can wait, nothing need be done.
        expect(trial, count > 0 or delay > SESSION / 4, f"with answers {delay} s late nothing was acknowledged")
        for relay in trial.relays.values():
            relay.mend()
        trial.settle()
        say(f"answers {delay} s late: {count} acknowledged in {4 * SESSION:.0f} s")
        trial.resume()
    calm(trial)


def patient(trial):
    """As slow, and key servers whose sessions are long enough for it."""
    place, seconds = trial.place, 10

    def with_timeout(before, after):
        for name in place.key_servers:
            with open(f"{place.folder}/{name}.toml") as file:
                text = file.read()
            place.write(f"{name}.toml", text.replace(f"session_timeout_ms = {before}", f"session_timeout_ms = {after}"))
            place.signal(name, signal.SIGTERM)
            place.processes[name].wait()
            place.start(name)
            expect(trial, wait(lambda: place.reigning()[0] is not None, 30), "nobody reigns")
        trial.settle()
        trial.resume()

    with_timeout(SESSION_MS, 1000 * seconds)
    name, server = place.reigning()
    for relay in trial.relays.values():
        relay.delay = 1.5
    count = acknowledged(trial)
    time.sleep(2 * seconds)
    count = acknowledged(trial) - count
    expect(trial, count > 0, "with answers 1.5 s late nothing was acknowledged")
    expect(trial, place.reigning()[1]["term"] == server["term"], f"{name} was replaced because ZooKeeper is slow")
    for relay in trial.relays.values():
        relay.mend()
    trial.settle()
    with_timeout(1000 * seconds, SESSION_MS)
    trial.settle()
    say(f"answers 1.5 s late, and a session timeout of {seconds} s: {count} acknowledged in {2 * seconds} s, by one that goes on")


def late(trial):
    """What the key server that reigns asks is carried out, and it hears of it when its session is long over."""
    name, _ = trial.place.reigning()
    trial.relays[name].answers_held = True
    time.sleep(2 * SESSION)
    trial.relays[name].mend()
    calm(trial)
    say("answers after the end of their session: settled")


def administer(*commands):
    """What an administrator of ZooKeeper types."""
    ran = subprocess.run(COMMAND_LINE, input="\n".join(commands) + "\nquit\n", capture_output=True, text=True, timeout=60)
    if ran.returncode:
        raise RuntimeError(f"ZooKeeper's command line: {ran.stdout} {ran.stderr}")


def refused(trial):
    """An administrator takes the journal away from its key servers, and gives it back."""
    place = trial.place
    reigning, _ = place.reigning()
    standby = next(name for name in place.key_servers if name != reigning)
    digest = base64.b64encode(hashlib.sha1(b"admin:own").digest()).decode()
    trial.resume()
    administer("addauth digest ks:secret-of-the-site", f"setAcl /keystone digest:admin:{digest}:cdrwa")
    # The one that reigns finds out by its first write; the other may not take the latch, and goes on standing by.
    for said in ("does not let us use /keystone", "/keystone: it belongs to others than our digest"):
        expect(trial, wait(lambda: not place.runs(reigning), 30), f"{reigning} goes on though it may not write")
        expect(trial, place.processes[reigning].poll() == 1 and said in place.said(reigning), f"{reigning} does not say who refuses it")
        expect(trial, place.runs(standby) and place.ask(standby, "/v1/status")[1]["standby"], f"{standby} does not stand by")
        place.start(reigning)
    expect(trial, wait(lambda: not place.runs(reigning), 30), f"{reigning} starts though it may not write")
    expect(trial, "no turn" in place.said(standby, 100), f"{standby} does not say why it does not take over")
    administer("addauth digest admin:own", "addauth digest ks:secret-of-the-site", "setAcl /keystone auth::cdrwa")
    trial.settle()
    say("refused by an administrator: the one that reigned ended and said why, the other stood by; both went on when they might")


def strangers(trial):
    """Key servers that are configured wrongly beside two that are right: another's password, another site's key, the key file of one
    of the two, one of the two copied whole. Each says so and ends, and the two notice nothing. Only where the copy was let in,
    because nobody had heard of the original for a while, it is the original that ends when it is back."""
    place = trial.place
    standby = next(name for name in place.key_servers if name != place.reigning()[0])
    with open(f"{place.folder}/{standby}.toml") as file:
        # With a site certificate, which does not name what is made here, each would end for that.
        base = "".join(line for line in file if not line.startswith(("site_certificate", "site_key")))

    def command(name, *changes):
        text = base.replace(f"{standby}.sock", f"{name}.sock").replace("127.0.0.1:70", "127.0.0.1:72")
        for before, after in changes:
            assert before in text, before
            text = text.replace(before, after)
        place.write(f"{name}.toml", text)
        return [f"{place.binaries}/keyserver", "--config", f"{name}.toml"]

    def run(name, *changes):
        since = time.monotonic()
        ran = subprocess.run(command(name, *changes), cwd=place.folder, capture_output=True, text=True, timeout=30)
        return ran, time.monotonic() - since

    def own_keys(name):
        shutil.copy(f"{place.folder}/{standby}.store-key", f"{place.folder}/{name}.store-key")
        place.write(f"{name}.noise", os.urandom(32).hex() + "\n", 0o600)
        return (f"{standby}.store-key", f"{name}.store-key"), (f"pki/{standby}.noise", f"{name}.noise")

    place.write("guess", "ks:a-guess\n", 0o600)
    ran, _ = run("guess", *own_keys("guess"), ('digest = "digest"', 'digest = "guess"'))
    expect(trial, ran.returncode == 1 and "/keystone: it belongs to others than our digest" in ran.stderr, f"another password: {ran}")
    changes = own_keys("other")
    place.write("other.store-key", "00" * 8 + os.urandom(64).hex() + "\n", 0o600)
    ran, _ = run("other", *changes)
    expect(trial, ran.returncode == 1 and "is sealed under another site key" in ran.stderr, f"another site key: {ran}")
    ran, _ = run("shared", own_keys("shared")[1])
    expect(trial, ran.returncode == 1 and f"{standby}.store-key is in use by another process" in ran.stderr, f"a shared key file: {ran}")
    # The same Noise key is the same key server, whatever else differs.
    ran, took = run("copy", own_keys("copy")[0])
    pid = place.processes[standby].pid
    expect(trial, ran.returncode == 1 and f"process {pid} on " in ran.stderr and "runs as this key server" in ran.stderr, f"a copy: {ran}")
    expect(trial, took < 2 * SESSION, f"a copy waits for {took:.1f} s")
    expect(trial, all(place.runs(name) for name in place.key_servers), "a key server was disturbed")
    say(f"another password, another site key, a shared key file, a copied key server (refused after {took:.2f} s): each was told and ended")
    trial.relays[standby].cut()
    time.sleep(2 * SESSION)
    direct = (f"127.0.0.1:{place.bases[standby] // 10}", "127.0.0.1:2181")
    copy = subprocess.Popen(command("copy", own_keys("copy")[0], direct), cwd=place.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place.processes["copy"] = copy
    expect(trial, wait(lambda: os.path.exists(f"{place.folder}/copy.sock"), 30), "a copy is not let in while nobody else is there")
    trial.relays[standby].mend()
    expect(trial, wait(lambda: not place.runs(standby), 30), f"{standby} goes on beside its copy")
    expect(trial, f"process {copy.pid} on " in place.said(standby), f"{standby} does not say who runs in its place")
    expect(trial, place.runs("copy"), "the copy ended too")
    copy.terminate()
    copy.wait(10)
    trial.settle()
    say("a copy in the place of one that was cut off: the one that was cut off ended")


ALL = (cut, slow, patient, late, refused, strangers)
