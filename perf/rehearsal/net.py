"""Hosts as network namespaces, joined by links that are limited one by one.

Every host has one address, on an interface of its own, and a route to each other host's address
over the link that leads there. Whatever is sent between two hosts, by gloo or by anyone, therefore
takes their link, although gloo binds to one interface only.

All names begin with "warploom-" and the number of the process that made them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import TracebackType
from typing import Self

PREFIX = "warploom-"
INTERFACE = "host"  # holds a host's address
SEGMENT = 16 << 10  # bytes handed to a link at once, and what it may send ahead of its rate
QUEUE = 4 << 20  # bytes that wait before a link: more than senders keep in flight, so none is lost
SEND_BUFFER = 128 << 10  # bytes a connection keeps in flight at most; more would delay short words


class CannotBuildError(RuntimeError):
    """This machine or user cannot build a net; says why."""


@dataclass(frozen=True)
class Mesh:
    """A link between each two hosts, of ``mbit`` per second each way."""

    hosts: int
    mbit: float

    @property
    def links(self) -> list[tuple[int, int]]:
        return list(combinations(range(self.hosts), 2))

    nic_mbit = None

    def __str__(self) -> str:
        return f"{self.hosts} hosts, full mesh of {self.mbit:g} Mbit/s links"


@dataclass(frozen=True)
class Nodes:
    """Hosts in nodes: a link between each two of a node, and a network card each to one switch."""

    nodes: int
    hosts_per_node: int
    mbit: float
    nic_mbit: float

    @property
    def hosts(self) -> int:
        return self.nodes * self.hosts_per_node

    @property
    def links(self) -> list[tuple[int, int]]:
        size = self.hosts_per_node
        return [(a, b) for a, b in combinations(range(self.hosts), 2) if a // size == b // size]

    def __str__(self) -> str:
        return (
            f"{self.nodes}x{self.hosts_per_node} hosts, {self.mbit:g} Mbit/s links in a node, "
            f"{self.nic_mbit:g} Mbit/s cards between nodes"
        )


Plan = Mesh | Nodes


class Net:
    """A plan's hosts while the context lasts; leaving it removes everything.

    Raises:
      CannotBuildError: not root, no iproute2, or a kernel without what is needed.
    """

    def __init__(self, plan: Plan) -> None:
        if not 2 <= plan.hosts <= 250:
            raise ValueError(f"hosts is {plan.hosts}, it must be between 2 and 250")
        self.plan = plan
        self._made: list[str] = []

    def __enter__(self) -> Self:
        check_machine()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}"

    def command(self, host: int) -> list[str]:
        """What to write before a command so that it runs on a host."""
        return ["ip", "netns", "exec", self._name(host)]

    def speed(self, factor: float) -> None:
        """Sets the links to so many times the plan's rates."""
        for place, lines in self._limits(factor).items():
            run(["tc", "-n", place, "-batch", "-"], lines)

    def cut(self, a: int, b: int) -> None:
        """Pulls the cable between two hosts: nothing passes, nobody is told."""
        run(["ip", "-n", self._name(a), "link", "set", "dev", f"to{b}", "down"])

    def unplug(self, host: int) -> None:
        """Pulls all cables of a host."""
        links = [f"to{a + b - host}" for a, b in self.plan.links if host in (a, b)]
        links += ["nic"] if self.plan.nic_mbit else []
        lines = [f"link set dev {link} down" for link in links]
        run(["ip", "-n", self._name(host), "-batch", "-"], lines)

    def _name(self, place: int | str) -> str:
        return f"{PREFIX}{os.getpid()}-{place}"

    def _build(self) -> None:
        plan = self.plan
        for host in range(plan.hosts):
            self._add_namespace(self._name(host))
            # A bridge without ports is an interface that every kernel has, with nothing behind it.
            run(
                ["ip", "-n", self._name(host), "-batch", "-"],
                [
                    f"link add name {INTERFACE} type bridge",
                    f"address add {self.address(host)}/32 dev {INTERFACE}",
                    f"link set dev {INTERFACE} up",
                ],
            )
        for a, b in plan.links:
            self._join(a, b)
        if plan.nic_mbit is not None:
            self._add_switch()
        self.speed(1.0)

    def _add_namespace(self, name: str) -> None:
        self._made.append(name)
        add_namespace(name)
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        # Without bbr's and idle time's own pacing a link's rate is all that limits its senders.
        settings = {
            "ipv4/tcp_wmem": f"4096 16384 {SEND_BUFFER}",
            "ipv4/tcp_congestion_control": "reno",
            "ipv4/tcp_slow_start_after_idle": "0",
            "ipv4/conf/all/rp_filter": "0",
        }
        lines = [f"echo {value} > /proc/sys/net/{key}" for key, value in settings.items()]
        quiet = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
        lines.append(f"[ ! -e {quiet} ] || echo 1 > {quiet}")
        run(["ip", "netns", "exec", name, "sh", "-e"], lines)

    def _join(self, a: int, b: int) -> None:
        place = {a: self._name(a), b: self._name(b)}
        ends = f"name to{b} type veth peer name to{a} netns {place[b]}"
        run(["ip", "-n", place[a], "link", "add", *ends.split()])
        for here, there in ((a, b), (b, a)):
            run(
                ["ip", "-n", place[here], "-batch", "-"],
                [
                    f"link set dev to{there} gso_max_size {SEGMENT} up",
                    f"route add {self.address(there)}/32 dev to{there} src {self.address(here)}",
                ],
            )

    def _add_switch(self) -> None:
        """A bridge in a place of its own, with a port for each host's card."""
        switch = self._name("switch")
        self._add_namespace(switch)
        run(
            ["ip", "-n", switch, "-batch", "-"],
            ["link add name switch type bridge", "link set dev switch up"],
        )
        for host in range(self.plan.hosts):
            place, port = self._name(host), f"port{host}"
            ends = f"name nic type veth peer name {port} netns {switch}"
            run(["ip", "-n", place, "link", "add", *ends.split()])
            run(
                ["ip", "-n", switch, "-batch", "-"],
                [f"link set dev {port} gso_max_size {SEGMENT} master switch up"],
            )
            run(
                ["ip", "-n", place, "-batch", "-"],
                [
                    f"link set dev nic gso_max_size {SEGMENT} up",
                    f"route add 10.77.0.0/24 dev nic src {self.address(host)}",
                ],
            )

    def _limits(self, factor: float) -> dict[str, list[str]]:
        """tc's lines for each place: every link is limited at both ends, each for its direction."""
        plan = self.plan
        lines: dict[str, list[str]] = {}

        def limit(place: int | str, interface: str, mbit: float) -> None:
            # Its first word of a rate is "replace": the same line sets and changes.
            lines.setdefault(self._name(place), []).append(
                f"qdisc replace dev {interface} root tbf rate {mbit * factor * 1000:.0f}kbit "
                f"burst {2 * SEGMENT} limit {QUEUE}"
            )

        for a, b in plan.links:
            limit(a, f"to{b}", plan.mbit)
            limit(b, f"to{a}", plan.mbit)
        if plan.nic_mbit is not None:
            for host in range(plan.hosts):
                limit(host, "nic", plan.nic_mbit)
                limit("switch", f"port{host}", plan.nic_mbit)
        return lines

    def _remove(self) -> None:
        """Interfaces go with their namespace, and both ends of a link with one."""
        while self._made:
            remove_namespace(self._made[-1])
            self._made.pop()


def check_machine() -> None:
    """Raises CannotBuildError unless this process may make namespaces and limited links."""
    if os.geteuid() != 0:
        raise CannotBuildError("needs root, to make network namespaces")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise CannotBuildError(f"needs iproute2: {tool} is not found")
    name = f"{PREFIX}{os.getpid()}-probe"
    try:
        add_namespace(name)
    except subprocess.CalledProcessError as error:
        remove_namespace(name)
        raise CannotBuildError(f"may not make network namespaces: {error.stderr}") from error
    try:
        run(["ip", "-n", name, "link", "add", "name", "a", "type", "veth", "peer", "name", "b"])
        run(["ip", "-n", name, "link", "add", "name", "c", "type", "bridge"])
        limit = ["rate", "1mbit", "burst", "16k", "limit", "64k"]
        run(["tc", "-n", name, "qdisc", "add", "dev", "a", "root", "tbf", *limit])
    except subprocess.CalledProcessError as error:
        raise CannotBuildError(f"this kernel cannot make limited links: {error.stderr}") from error
    finally:
        remove_namespace(name)


def clean() -> list[str]:
    """Removes what runs left that ended without removing it; returns the names."""
    removed = []
    for name in namespaces():
        maker = name.removeprefix(PREFIX).split("-")[0]
        if maker.isdigit() and not os.path.exists(f"/proc/{maker}"):
            remove_namespace(name)
            removed.append(name)
    return removed


def namespaces() -> list[str]:
    """The namespaces on this machine that are of this module's making."""
    listed = run(["ip", "netns", "list"]).split("\n")
    names = [line.split()[0] for line in listed if line.strip()]
    return [name for name in names if name.startswith(PREFIX)]


def add_namespace(name: str) -> None:
    """Makes a namespace, which this process removes at its end if nobody did before."""
    atexit.unregister(_remove_own)
    atexit.register(_remove_own)
    run(["ip", "netns", "add", name])


def _remove_own() -> None:
    """What a signal left that came while namespaces were made or removed."""
    for name in namespaces():
        if name.startswith(f"{PREFIX}{os.getpid()}-"):
            remove_namespace(name)


def remove_namespace(name: str) -> None:
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def run(command: Sequence[str], lines: Iterable[str] = ()) -> str:
    """A command's output, the lines being its input. CalledProcessError with what it said."""
    done = subprocess.run(
        command, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True
    )
    if done.returncode != 0:
        raise subprocess.CalledProcessError(
            done.returncode, command, done.stdout, done.stderr.strip()
        )
    return done.stdout
