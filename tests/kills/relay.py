"""A network between one key server and ZooKeeper that can be cut and slowed down. What it holds back it delivers later, as TCP
does after an outage, also to connections that were given up meanwhile."""

import collections, socket, threading, time


class Relay:
    """Passes connections on, from ports base + 1 to base + 3 to ZooKeeper's three."""

    def __init__(self, base, upstream):
        self.questions_held = self.answers_held = False
        self.delay = 0  # seconds that each answer is late
        for n in (1, 2, 3):
            door = socket.create_server(("127.0.0.1", base + n), backlog=64)
            threading.Thread(target=self.accept, args=(door, upstream + n), daemon=True).start()

    def cut(self):
        self.questions_held = self.answers_held = True

    def mend(self):
        self.questions_held = self.answers_held = False
        self.delay = 0

    def accept(self, door, port):
        while True:
            client, _ = door.accept()
            try:
                server = socket.create_connection(("127.0.0.1", port), timeout=1)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                queue = collections.deque()
                threading.Thread(target=self.hear, args=(source, queue, is_answer), daemon=True).start()
                threading.Thread(target=self.say, args=(sink, queue, is_answer), daemon=True).start()

    def hear(self, source, queue, is_answer):
        octets = True
        while octets:
            try:
                octets = source.recv(65536)
            except OSError:
                octets = b""
            queue.append((time.monotonic() + (self.delay if is_answer else 0), octets))

    def say(self, sink, queue, is_answer):
        while True:
            if not queue or queue[0][0] > time.monotonic() or (self.answers_held if is_answer else self.questions_held):
                time.sleep(0.002)
                continue
            _, octets = queue.popleft()
            try:
                if not octets:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(octets)
            except OSError:
                return
