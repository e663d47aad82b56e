"""The site of tests/kill on loopback: its configuration, its processes, its ensemble of ZooKeeper, and how to ask them."""

import http.client, json, os, shutil, signal, socket, subprocess, tempfile, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target"))
# tests/run names with what it has built everything, for tests; a build without tests has other features, and takes minutes.
BUILT = os.environ.get("KEYSTONE_CARGO", "").split()
GROUP, PORT = "239.77.0.1", 7100
JAVA = "/usr/share/java"
# The first jar's own list lacks two parts of netty.
JARS = ["zookeeper", "slf4j-simple", "netty-codec", "netty-resolver", "netty-transport-native-unix-common"]
# What the ensemble grants to key servers. It hears of an end by kill -9 at once only if somebody closes the connection's
# other side, and then still keeps the session for this long.
SESSION_MS = 2000
ZOOKEEPER = """tickTime=500
initLimit=20
syncLimit=6
dataDir={folder}/zk{n}/data
standaloneEnabled=false
admin.enableServer=false
4lw.commands.whitelist=srvr
maxClientCnxns=0
server.1=127.0.0.1:28811:38811:participant;127.0.0.1:21811
server.2=127.0.0.1:28812:38812:participant;127.0.0.1:21812
server.3=127.0.0.1:28813:38813:participant;127.0.0.1:21813
"""
KEY_SERVER = """name = "ks"
listen_requests = "127.0.0.1:70{n}1"
listen_registrars = "127.0.0.1:70{n}2"
interface = "127.0.0.1"
store_key = "{name}.store-key"
noise_key = "pki/{name}.noise"
signing_key = "pki/{name}.signing"
site_certificate = "pki/ks.site"
site_key = "{site}"
register_each_s = 0
admin_socket = "{name}.sock"
tls = {{ certificate = "pki/{name}.pem", key = "pki/{name}.key", roots = "pki/ca.pem" }}
store = {store}
[[registrar]]
identity = "spiffe://demo/registrar/r1"
may_register.certificate = ["spiffe://demo/member/*"]
"""
GROUP_TABLE = """[[group]]
id = {id}
name = "{name}"
address = "{group}:{port}"
allow = ["spiffe://demo/member/*"]
"""
# So that much happens between two kills, and nobody waits for having joined before.
QUICK = """batch_ms = 20
join_each_s = 0
beacon_ms = 200
beacon_max_ms = 1000
resync_wait_ms = 200
send_delay_ms = 200
"""
REGISTRAR = """listen = "127.0.0.1:7003"
key_server_address = "127.0.0.1:7002"
standby_addresses = {standbys}
key_server_identity = "spiffe://demo/keyserver/ks"
clients = ["spiffe://demo/member/*"]
tls = {{ certificate = "pki/r1.pem", key = "pki/r1.key", roots = "pki/ca.pem" }}
"""
CLIENT = """key_server = "ks"
key_server_address = "127.0.0.1:7001"
standby_addresses = {standbys}
registrars = [{{ address = "127.0.0.1:7003", identity = "spiffe://demo/registrar/r1" }}]
site_key = "{site}"
site_certificate = "pki/ks.site"
certificate = "pki/{name}.pem"
private_key = "pki/{name}.key"
trust_roots = "pki/ca.pem"
interface = "127.0.0.1"
socket = "{name}.sock"
danger = {{ receive_loss_percent = {loss}, seed = {seed} }}
"""


def build(debug):
    """The daemons, if nobody has built them."""
    if not BUILT:
        profile = [] if debug else ["--release"]
        subprocess.run(["cargo", "build", "--locked", "--quiet", *profile, "--bins"], cwd=TOP, check=True)


def identity(client):
    return f"spiffe://demo/member/{client}"


class Place:
    """All processes of a site, by name: ks, ks-2, r1, m1 to m8, zk1 to zk3. The first group is `demo`, the others g2, g3, and so on;
    all share an address. `pace` is what their tables say further."""

    def __init__(self, with_zookeeper, binaries, seed, bases={}, groups=1, clients=8, pace=QUICK, loss=15):
        self.folder = tempfile.mkdtemp(prefix="keystone-kill-")
        self.binaries, self.with_zookeeper = binaries, with_zookeeper
        self.key_servers = ["ks", "ks-2"] if with_zookeeper else ["ks"]
        self.clients = [f"m{i}" for i in range(1, clients + 1)]
        self.ensemble = ["zk1", "zk2", "zk3"] if with_zookeeper else []
        self.processes = {}
        self.bases = bases  # key server: where it finds ZooKeeper, if not where that is
        self.groups = ["demo"] + [f"g{id}" for id in range(2, groups + 1)]
        self.configure(seed, pace, loss)

    def write(self, name, text, mode=0o644):
        with open(os.open(f"{self.folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
            file.write(text)

    def configure(self, seed, pace, loss):
        pki = [f"{self.binaries}/keystone", "pki", "init", "--dir", f"{self.folder}/pki", "--domain", "demo", "--key-server", "ks",
               "--standbys", str(len(self.key_servers) - 1), "--registrar", "r1", "--member", ",".join(self.clients)]
        subprocess.run(pki, check=True, stdout=subprocess.DEVNULL)
        with open(f"{self.folder}/pki/site.pub") as file:
            site = file.read().strip()
        self.write("digest", "ks:secret-of-the-site\n", 0o600)
        tables = [GROUP_TABLE.format(id=id, name=name, group=GROUP, port=PORT) + pace for id, name in enumerate(self.groups, 1)]
        for n, name in enumerate(self.key_servers):
            store = '"ks.store"'
            if self.with_zookeeper:
                servers = ",".join(f"127.0.0.1:{self.bases.get(name, 21810) + n}" for n in (1, 2, 3))
                store = f'"zookeeper://{servers}/keystone"\nzookeeper = {{ digest = "digest", session_timeout_ms = {SESSION_MS} }}'
            self.write(f"{name}.toml", KEY_SERVER.format(n=n, name=name, site=site, store=store) + "".join(tables))
            if self.with_zookeeper:
                shutil.copy(f"{self.folder}/pki/site.store-key", f"{self.folder}/{name}.store-key")
        standbys = [[f"127.0.0.1:70{n}{door}" for n in range(1, len(self.key_servers))] for door in (1, 2)]
        self.write("r1.toml", REGISTRAR.format(standbys=json.dumps(standbys[1])))
        for n, name in enumerate(self.clients):
            self.write(f"{name}.toml", CLIENT.format(name=name, site=site, seed=seed + n, loss=loss, standbys=json.dumps(standbys[0])))
        for n, name in enumerate(self.ensemble, 1):
            os.makedirs(f"{self.folder}/{name}/data")
            self.write(f"{name}/data/myid", f"{n}\n")
            self.write(f"{name}/zoo.cfg", ZOOKEEPER.format(folder=self.folder, n=n))

    def start(self, name):
        if name.startswith("zk"):
            path = ":".join(f"{JAVA}/{jar}.jar" for jar in JARS)
            command = ["java", "-cp", path, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                       "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                       f"{name}/zoo.cfg"]
        else:
            daemon = "keyserver" if name.startswith("ks") else "registrar" if name.startswith("r") else "client-ctl"
            command = [f"{self.binaries}/{daemon}", "--config", f"{name}.toml"]
        with open(f"{self.folder}/{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def signal(self, name, number):
        """Sends a signal, and waits for the end if it is SIGKILL."""
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait()

    def said(self, name, lines=5):
        """The end of its log."""
        with open(f"{self.folder}/{name}.log", errors="replace") as file:
            return "\n".join(file.read().splitlines()[-lines:])

    def runs(self, name):
        return self.processes[name].poll() is None

    def ask(self, name, path, body=None, timeout=10):
        """A daemon's answer: status and JSON. OSError or ValueError if there is none."""
        connection = http.client.HTTPConnection("keystone", timeout=timeout)
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout)
            connection.sock.connect(f"{self.folder}/{name}.sock")
            text = None if body is None else json.dumps(body)
            try:
                connection.request("GET" if body is None else "POST", path, text, {"Content-Type": "application/json"})
            except BrokenPipeError:
                pass  # a body that nobody needs: the answer was there before it
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data.startswith((b"{", b"[")) else None
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def status(self, client):
        """How a client stands to the group; empty if it does not answer."""
        try:
            return self.ask(client, "/v1/status", timeout=3)[1]["groups"][0]
        except (OSError, ValueError, IndexError, KeyError, TypeError):
            return {}

    def reigning(self):
        """The key server that reigns and its status, or (None, None)."""
        found = (None, None)
        for name in self.key_servers:
            try:
                status = self.ask(name, "/v1/status", timeout=1)[1]
            except (OSError, ValueError):
                continue
            if status and status.get("standby") is False and (found[1] is None or status["term"] > found[1]["term"]):
                found = name, status
        return found

    def serving(self, server):
        """Whether a server of ZooKeeper serves."""
        try:
            with socket.create_connection(("127.0.0.1", 21810 + int(server[2])), timeout=1) as stream:
                stream.sendall(b"srvr")
                return b"Mode:" in stream.makefile("rb").read()
        except OSError:
            return False

    def end(self, show_logs):
        if show_logs:
            for name in sorted(os.listdir(self.folder)):
                if name.endswith(".log"):
                    with open(f"{self.folder}/{name}", errors="replace") as file:
                        print(f"--- {name}", *file.read().splitlines()[-12:], sep="\n    ")
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait(wanted, seconds):
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if wanted():
            return True
        time.sleep(0.05)
    return False
