"""A network between one key server and ZooKeeper that can be cut and slowed down. What it holds back it delivers later, as TCP
does after an outage, also to connections that were given up meanwhile."""

import asyncio, socket, threading


class Relay:
    """Passes connections on, from ports base + 1 to base + 3 to ZooKeeper's three."""

    def __init__(self, base, upstream):
        self.questions_held = self.answers_held = False
        self.delay = 0  # seconds that each answer is late
        self.loop = asyncio.new_event_loop()
        for n in (1, 2, 3):
            door = socket.create_server(("127.0.0.1", base + n), backlog=64)
            accept = lambda *client, port=upstream + n: self.accept(*client, port)
            self.loop.run_until_complete(asyncio.start_server(accept, sock=door))
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def cut(self):
        self.questions_held = self.answers_held = True

    def mend(self):
        self.questions_held = self.answers_held = False
        self.delay = 0

    async def accept(self, reader, writer, port):
        try:
            upstream = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self.carry(reader, upstream[1], False), self.carry(upstream[0], writer, True))

    async def carry(self, source, sink, is_answer):
        queue = asyncio.Queue()
        saying = asyncio.create_task(self.say(queue, sink, is_answer))
        octets = True
        while octets:
            try:
                octets = await source.read(65536)
            except OSError:
                octets = b""
            queue.put_nowait((self.loop.time() + (self.delay if is_answer else 0), octets))
        await saying

    async def say(self, queue, sink, is_answer):
        octets = True
        while octets:
            due, octets = await queue.get()
            await asyncio.sleep(max(0, due - self.loop.time()))
            while self.answers_held if is_answer else self.questions_held:
                await asyncio.sleep(0.01)
            sink.write(octets)
        sink.close()
