"""The compiled module: thin functions over the C interface, in the order of its structs' fields."""

from collections.abc import Sequence
from typing import Any

class DeviceError(RuntimeError): ...

ATTENTION_FEATURES: dict[str, int]

def version() -> str: ...
def describe_system() -> str: ...
def check(device: int, index: int, /) -> None: ...
def emulate(enable: bool, seed: int, /) -> None: ...
def attention_list_kernels() -> str: ...
def kv_list_kernels() -> str: ...
def attention_explain(
    op: str,
    device: int,
    device_index: int,
    dtype: int,
    d: int,
    dv: int,
    features: int,
    kernel: str | None,
    /,
) -> str: ...
def attention_forward(*arguments: object) -> None: ...
def attention_backward(*arguments: object) -> None: ...
def attention_backward_workspace(*arguments: object) -> int: ...
def attention_decode(*arguments: object) -> None: ...
def attention_decode_workspace(*arguments: object) -> int: ...
def attention_pages(*arguments: object) -> None: ...
def attention_pages_workspace(*arguments: object) -> int: ...
def attention_merge(*arguments: object) -> None: ...
def page_write(*arguments: object) -> None: ...
def kv_quantize(*arguments: object) -> None: ...
def kv_dequantize(*arguments: object) -> None: ...
def kv_shrink(*arguments: object) -> None: ...
def kv_append(*arguments: object) -> None: ...
def kv_quantize_pages(*arguments: object) -> None: ...
def kv_shrink_pages(*arguments: object) -> None: ...
def kv_gather(*arguments: object) -> None: ...
def kv_rotate(*arguments: object) -> None: ...
def kv_book_append(book: int, layer: int, sequences: Sequence[int], s: int, /) -> int: ...
def kv_book_next(book: int, /) -> tuple[int, int, int, int] | None: ...
def kv_book_commit(book: int, /) -> bool: ...
def kv_book_abort(book: int, /) -> None: ...
def kv_book_settle(book: int, /) -> None: ...
def kv_book_settle_done(book: int, tags: int, /) -> None: ...
def kv_book_tables(
    book: int,
    layer: int,
    sequences: Sequence[int],
    table: int,
    columns: int,
    lengths: int,
    /,
) -> int: ...
def perf_ceiling(
    kind: str,
    threads: int = 0,
    seconds: float = 0.2,
    device: int = 0,
    device_index: int = 0,
    kernel: str | None = None,
    workspace: int = 0,
    workspace_bytes: int = 0,
) -> float: ...

class KVBook:
    def __init__(
        self,
        layers: int,
        hk: int,
        page: int,
        d: int,
        dv: int,
        key_group: int,
        value_group: int,
        keys_per_channel: bool,
        bits: tuple[int, int],
        sink: int,
        window: int,
        arena_bytes: int,
        arena: int,
        /,
    ) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def missing(self) -> int: ...
    def add(self) -> int: ...
    def fork(self, sequence: int, /) -> int: ...
    def free(self, sequence: int, /) -> None: ...
    def reorder(self, sequences: Sequence[int], index: Sequence[int], /) -> None: ...
    def rebuild(
        self,
        layer: int,
        sequence: int,
        length: int,
        source: Sequence[int],
        widths: Sequence[int],
        /,
    ) -> None: ...
    def place(self, layer: int, sequence: int, length: int, widths: Sequence[int], /) -> None: ...
    def own(self, layer: int, sequence: int, /) -> None: ...
    def shrink(
        self,
        layer: int,
        sequence: int,
        bits: tuple[int, int],
        pages: Sequence[int] | None,
        heads: Sequence[int] | None,
        shared: bool,
        /,
    ) -> None: ...
    def set_bits(self, layer: int, bits: tuple[int, int], /) -> None: ...
    def row(self, layer: int, sequence: int, /) -> tuple[int, int, list[int]]: ...
    def usage(self, layer: int, /) -> dict[str, int]: ...
    def check(self) -> None: ...
    def moves(self) -> list[tuple[int, int, int]]: ...
    def arrays(self) -> tuple[int, int, int, int, int, int]: ...
    def work(self) -> tuple[int, int, int, int, int, int]: ...

class Topology: ...

class Schedule:
    kind: str
    note: str
    moves: int
    ranks: int
    parts: int
    def rounds(self) -> tuple[bytes, bytes]: ...
    def reduction(self) -> tuple[bytes, bytes]: ...

def topology(
    shape: str,
    ranks: int,
    bandwidth: float,
    latency: float,
    overhead: float,
    nodes: int,
    nics: int,
    switched: bool,
    inter_bandwidth: float,
    inter_latency: float,
    matrix: list[float],
) -> Topology: ...
def schedule(topology: Topology, kind: str, parts: int, group: int) -> Schedule: ...
def schedule_from(
    kind: str,
    note: str,
    moves: int,
    ranks: int,
    parts: int,
    ends: bytes,
    transfers: bytes,
    reduction_ends: bytes,
    reduction_transfers: bytes,
    /,
) -> Schedule: ...
def schedule_cost(
    topology: Topology,
    schedule: Schedule,
    out_bytes: float,
    relay_bytes: float,
    home_bytes: float,
    compute_seconds: float,
    shares: list[float],
    /,
) -> dict[str, Any]: ...
def schedule_loads(
    topology: Topology,
    schedule: Schedule,
    out_bytes: float,
    relay_bytes: float,
    home_bytes: float,
    shares: list[float],
    /,
) -> list[tuple[str, float, float]]: ...
def hamiltonian_cycles(ranks: int, /) -> tuple[bytes, str]: ...
def schedule_verify(topology: Topology, schedule: Schedule, /) -> None: ...
def memory_plan(
    size: Any,
    alloc: Any,
    free: Any,
    alignment: int,
    alignments: Any,
    fixed: Any,
    group: Any,
    seconds: float,
    work: int,
    seed: int,
    capacity: int,
) -> dict[str, Any]: ...
def memory_simulate(
    *,
    size: Any,
    alloc: Any,
    free: Any,
    requested: Any,
    stream: Any,
    pool: Any,
    offset: Any,
    arena: int,
    empty_cache: Any,
    segments: Any,
    capacity: int,
    memory_fraction: float,
    max_split_size: int,
    max_non_split_rounding: int,
    garbage_collection_threshold: float,
    roundup_power2_divisions: list[int],
    expandable_segments: bool,
    log: bool,
) -> dict[str, Any]: ...
