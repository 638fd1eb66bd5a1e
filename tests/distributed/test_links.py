"""Words between ranks over TCP: in pieces, from strangers, and when a connection ends."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from warploom.distributed.links import HEADER, HELLO, SocketLink, address_towards, check_addresses
from warploom.distributed.monitor import Monitor

TOKEN = secrets.token_bytes(16)


@contextmanager
def linked(size: int) -> Iterator[list[Monitor]]:
    """Ranks of one process with real connections."""
    monitors = [Monitor(rank, size) for rank in range(size)]
    links = [SocketLink(monitor, "127.0.0.1", 5.0) for monitor in monitors]
    endpoints = {rank: link.endpoint for rank, link in enumerate(links)}
    for monitor, link in zip(monitors, links, strict=True):
        monitor.link = link
    side_by_side([lambda link=link: link.join(endpoints, TOKEN) for link in links])
    try:
        yield monitors
    finally:
        for link in links:
            link.close()


def side_by_side(functions: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_every_rank_hears_every_other() -> None:
    words: dict[int, dict[int, str]] = {}
    with linked(4) as monitors:

        def say(monitor: Monitor) -> None:
            long = str(monitor.rank) * 300_000  # more than a connection takes at once
            words[monitor.rank] = dict(monitor.gather(1, "word", long, 5.0, "the word"))

        side_by_side([lambda monitor=monitor: say(monitor) for monitor in monitors])
    assert words == {rank: {r: str(r) * 300_000 for r in range(4)} for rank in range(4)}


def test_a_connection_that_ends_is_a_lost_rank() -> None:
    with linked(3) as monitors:
        monitors[1].link._peers[0].connection.shutdown(socket.SHUT_RDWR)
        until(lambda: all(monitor.failure is not None for monitor in monitors))
        failures = {monitor.failure for monitor in monitors if monitor.failure}
        assert {failure.kind for failure in failures} == {"lost"}
        assert {failure.rank for failure in failures} <= {0, 1}


def test_a_goodbye_is_no_failure() -> None:
    with linked(2) as monitors:
        monitors[0].goodbye(finished=3)
        monitors[0].link.close()
        until(lambda: monitors[1]._left == {0: 3})
        time.sleep(0.1)
        assert monitors[1].failure is None


def test_a_thread_that_is_late_is_waited_for() -> None:
    """Closing under it would be its failure, and at the interpreter's end the process's."""
    with linked(2) as monitors:
        monitors[0].tick = lambda: time.sleep(1.5)
        time.sleep(0.1)
        monitors[0].link.close()
        assert not monitors[0].link._thread.is_alive()
        assert monitors[0].failure is None


def test_nonsense_from_a_peer_ends_the_world_and_not_the_wait() -> None:
    """A rank whose link fails cannot hear any more: it says so, and nobody waits for it."""
    with linked(2) as monitors:
        data = json.dumps({"kind": "answer"}).encode()  # without what an answer needs
        monitors[0].link._peers[1].connection.send(HEADER.pack(len(data)) + data)
        until(lambda: monitors[1].failure is not None)
        assert "cannot hear the others (KeyError" in str(monitors[1].failure)


def test_strangers_are_kept_out() -> None:
    monitor, other = Monitor(0, 2), Monitor(1, 2)
    link, theirs = SocketLink(monitor, "127.0.0.1", 5.0), SocketLink(other, "127.0.0.1", 5.0)
    monitor.link, other.link = link, theirs
    host, port = link.endpoint.split()
    endpoints = {0: link.endpoint, 1: theirs.endpoint}
    joining = threading.Thread(target=link.join, args=(endpoints, TOKEN))
    joining.start()
    for hello in (HELLO.pack(bytes(16), 1), HELLO.pack(TOKEN, 7), b"GET /"):
        stranger = socket.create_connection((host, int(port)), 5)
        stranger.sendall(hello)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""  # dropped
        stranger.close()
    theirs.join(endpoints, TOKEN)
    joining.join(5)
    assert sorted(link._peers) == [1]
    for end in (theirs, link):
        end.close()


def test_ranks_that_do_not_connect_are_named() -> None:
    monitor = Monitor(0, 3)
    link = SocketLink(monitor, "127.0.0.1", 0.2)
    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] did not connect"):
        link.join({0: link.endpoint}, TOKEN)
    gone = SocketLink(Monitor(0, 2), "127.0.0.1", 1.0)
    gone.close()
    late = SocketLink(Monitor(1, 2), "127.0.0.1", 1.0)
    with pytest.raises(ConnectionError, match=r"rank 0 at 127\.0\.0\.1"):
        late.join({0: gone.endpoint, 1: late.endpoint}, TOKEN)
    for end in (link, late):
        end.close()


def test_addresses() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    check_addresses({0: "127.0.0.1", 1: "127.0.0.1"})
    check_addresses({0: "10.0.0.1", 1: "10.0.0.2"})
    with pytest.raises(ValueError, match=r"address of rank 1 is 127\.0\.1\.1"):
        check_addresses({0: "10.0.0.1", 1: "127.0.1.1"})
