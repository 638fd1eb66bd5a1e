"""Words between ranks over TCP, beside the data's own connections.

Each rank holds one connection to every other. A thread reads them, so that a rank whose main thread
computes or waits still answers, and keeps the deadlines of the monitor. When a process dies, the
kernel closes its connections, and every rank sees that at once.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import selectors
import socket
import struct
import threading
import time
from collections.abc import Mapping

from warploom.distributed.monitor import Message, Monitor

TICK = 0.05  # seconds between looks at the deadlines
LONGEST_MESSAGE = 1 << 24  # bytes
LONGEST_END = 30.0  # seconds that the thread may take to end, on however busy a machine
LONGEST_HELLO = 1.0  # seconds that a connection may take to say who it is
HEADER = struct.Struct("!I")
HELLO = struct.Struct("!16sI")  # token of the world, rank


def address_towards(host: str) -> str:
    """The address of this machine's interface that leads to a host."""
    family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # picks a route, sends nothing
        return str(probe.getsockname()[0])


def check_addresses(hosts: Mapping[int, str]) -> None:
    """Raises ValueError where some ranks can be reached from their own machine only."""
    local = {rank for rank, host in hosts.items() if ipaddress.ip_address(host).is_loopback}
    if local and len(local) < len(hosts):
        rank = min(local)
        raise ValueError(
            f"address of rank {rank} is {hosts[rank]}, which ranks on other machines cannot reach; "
            "give each rank's address"
        )


class Peer:
    """One connection, with what could not be written to it yet."""

    def __init__(self, rank: int, connection: socket.socket) -> None:
        self.rank, self.connection = rank, connection
        self.lock = threading.Lock()
        self.outgoing = bytearray()
        self.incoming = bytearray()
        self.open = True

    def flush(self) -> None:
        """Writes what the connection takes now; the lock is held."""
        while self.outgoing and self.open:
            try:
                del self.outgoing[: self.connection.send(self.outgoing)]
            except BlockingIOError:
                return
            except OSError:
                self.open = False

    def read(self) -> list[Message] | None:
        """Complete messages that have come, None at the connection's end."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        self.incoming += data
        messages = []
        while len(self.incoming) >= HEADER.size:
            (size,) = HEADER.unpack_from(self.incoming)
            if size > LONGEST_MESSAGE:
                return None
            end = HEADER.size + size
            if len(self.incoming) < end:
                break
            messages.append(json.loads(self.incoming[HEADER.size : end]))
            del self.incoming[:end]
        return messages


class SocketLink:
    """One rank's connections to all others, and the thread that serves them."""

    def __init__(self, monitor: Monitor, address: str, timeout: float) -> None:
        """Listens on a free port of the address; `join` connects."""
        self._monitor, self._timeout = monitor, timeout
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=monitor.size)
        self.endpoint = f"{address} {self._listener.getsockname()[1]}"
        self.hosts: set[str] = set()  # addresses of all ranks, once joined
        self._peers: dict[int, Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, name=f"warploom link {monitor.rank}", daemon=True
        )

    def join(self, endpoints: Mapping[int, str], token: bytes) -> None:
        """Connects to the lower ranks, is connected to by the higher, and starts the thread.

        The token keeps strangers out: a connection that does not begin with it is dropped.

        Raises: TimeoutError naming the ranks that did not connect.
        """
        end = time.monotonic() + self._timeout
        own = self._monitor.rank
        self.hosts = {endpoint.split()[0] for endpoint in endpoints.values()}
        with self._listener:
            for rank in range(own):
                host, port = endpoints[rank].split()
                left = max(end - time.monotonic(), 0.01)
                try:
                    connection = socket.create_connection((host, int(port)), left)
                except TimeoutError:
                    raise TimeoutError(f"rank {rank} at {host} does not take connections") from None
                except OSError as error:
                    raise ConnectionError(f"rank {rank} at {host}: {error}") from error
                connection.sendall(HELLO.pack(token, own))
                self._add(rank, connection)
            while absent := [r for r in range(own + 1, self._monitor.size) if r not in self._peers]:
                self._listener.settimeout(max(end - time.monotonic(), 0.01))
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    raise TimeoutError(f"ranks {absent} did not connect in time") from None
                try:
                    connection.settimeout(LONGEST_HELLO)
                    said, rank = HELLO.unpack(receive_exactly(connection, HELLO.size))
                except OSError:
                    said, rank = b"", -1
                if hmac.compare_digest(said, token) and rank in absent:
                    self._add(rank, connection)
                else:
                    connection.close()
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._thread.start()

    def _add(self, rank: int, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._peers[rank] = peer = Peer(rank, connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def send(self, rank: int, message: Message) -> None:
        data = json.dumps(message).encode()
        peer = self._peers[rank]
        with peer.lock:
            if peer.open:
                peer.outgoing += HEADER.pack(len(data)) + data
                peer.flush()
            waiting = bool(peer.outgoing)
        if waiting:
            self._wake()

    def close(self) -> None:
        """Writes what is left for a moment, then ends the thread and the connections.

        The thread must not outlive them: it would take their end for a failure, and might be inside
        of torch, telling the transport so, when the interpreter ends, which aborts the process.
        """
        if self._thread.is_alive():
            self._closing.set()
            self._wake()
            self._thread.join(LONGEST_END)
        for peer in self._peers.values():
            while peer.open and peer.read():
                pass  # unread messages would make the kernel take back the goodbye
            peer.connection.close()
        self._listener.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            self._wake_out.send(b"\0")

    def _serve(self) -> None:
        try:
            while not self._closing.is_set():
                self._step(TICK)
                self._monitor.tick()
            end = time.monotonic() + 4 * TICK
            while time.monotonic() < end and any(
                p.outgoing and p.open for p in self._peers.values()
            ):
                self._step(TICK)
        except Exception as error:  # whatever it is, nobody may wait for a thread that is gone
            self._monitor.link_failed(error)

    def _step(self, pause: float) -> None:
        for peer in self._peers.values():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outgoing else 0)
            if peer.open and self._selector.get_key(peer.connection).events != events:
                self._selector.modify(peer.connection, events, peer)
        for key, events in self._selector.select(pause):
            peer = key.data
            if peer is None:
                self._wake_in.recv(4096)
                continue
            if events & selectors.EVENT_WRITE:
                with peer.lock:
                    peer.flush()
            if events & selectors.EVENT_READ:
                self._read(peer)

    def _read(self, peer: Peer) -> None:
        messages = peer.read()
        if messages is None:
            with peer.lock:
                peer.open = False
            self._selector.unregister(peer.connection)
            self._monitor.lost(peer.rank)
        for message in messages or ():
            self._monitor.receive(peer.rank, message)


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Reads so many bytes. OSError where the connection ends before."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the connection ended")
        data += part
    return data
