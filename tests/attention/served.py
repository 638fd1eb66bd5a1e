"""A library at the other end of a pipe, perhaps run by qemu: ``tests/attention/cpu/serve.cc``.

Its functions take the same inputs as the ops, and return the same results.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import torch

from warploom.testing.cases import AttentionCase, AttentionInputs, DecodeCase, DecodeInputs

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Served:
    """Calls of one kernel list, one at a time; use as a context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._process.stderr.close()

    def forward(self, case: AttentionCase, x: AttentionInputs, kernel: str):
        found = self._call("prefill", kernel, _problem(case, x), _tensors(x, "q", "k", "v"))
        return _shaped(found["o"], x.q, case.value_dim), _lse(found["lse"], x.q)

    def backward(self, case: AttentionCase, x: AttentionInputs, o, lse, grad_lse, kernel: str):
        tensors = {**_tensors(x, "q", "k", "v", "grad_o"), "o": o, "lse": lse}
        if grad_lse is not None:
            tensors["grad_lse"] = grad_lse
        found = self._call("backward", kernel, _problem(case, x), tensors)
        return tuple(
            _shaped(found[f"d{name}"], like, like.shape[-1])
            for name, like in zip("qkv", x.qkv, strict=True)
        )

    def decode(self, case: DecodeCase, x: DecodeInputs, kernel: str):
        capacity = x.k_cache.shape[1]
        numbers = {
            **_shape(case), "dtype": DTYPE_CODES[x.q.dtype], "b": case.b, "s": case.s,
            "capacity": capacity, "pages": 0, "max_pages": 0,
        }  # fmt: skip
        tensors = {**_tensors(x, "q", "k_cache", "v_cache"), "lengths": x.lengths}
        if x.page_table is not None:
            numbers |= {"pages": x.k_cache.shape[0], "max_pages": x.page_table.shape[1]}
            tensors["page_table"] = x.page_table
        found = self._call("decode", kernel, numbers, tensors)
        return _shaped(found["o"], x.q, case.value_dim), _lse(found["lse"], x.q)

    def merge(self, o: list[torch.Tensor], lse: list[torch.Tensor], kernel: str):
        b, s, h, dv = o[0].shape
        numbers = {"dtype": DTYPE_CODES[o[0].dtype], "b": b, "s": s, "h": h, "dv": dv}
        numbers["parts"] = len(o)
        tensors = {f"o{n}": part for n, part in enumerate(o)}
        tensors |= {f"lse{n}": part for n, part in enumerate(lse)}
        found = self._call("merge", kernel, numbers, tensors)
        return _shaped(found["o"], o[0], dv), _lse(found["lse"], o[0])

    def page_write(self, k_pages, v_pages, k, v, slots, kernel: str):
        numbers = {
            "dtype": DTYPE_CODES[k.dtype], "tokens": k.shape[0], "hk": k.shape[1],
            "d": k.shape[2], "dv": v.shape[2],
            "pages": k_pages.shape[0], "capacity": k_pages.shape[1],
        }  # fmt: skip
        tensors = {"k_pages": k_pages, "v_pages": v_pages, "k": k, "v": v, "slots": slots}
        found = self._call("page_write", kernel, numbers, tensors)
        return tuple(
            _shaped(found[name], tensors[name], tensors[name].shape[-1])
            for name in ("k_pages", "v_pages")
        )

    def _call(self, op: str, kernel: str, numbers, tensors) -> dict[str, bytes]:
        to, back = self._process.stdin, self._process.stdout
        for name, number in numbers.items():
            to.write(f"number {name} {number!r}\n".encode())
        for name, tensor in tensors.items():
            data = _bytes(tensor)
            to.write(f"array {name} {len(data)}\n".encode() + data + b"\n")
        to.write(f"run {op} {kernel}\n".encode())
        to.flush()
        results = {}
        while (line := back.readline().decode().strip()) != "done":
            word, _, rest = line.partition(" ")
            if word != "array":
                reason = rest if word == "failed" else self._process.stderr.read().decode()
                raise RuntimeError(f"{op} by {kernel}: {reason or 'no answer'}")
            name, size = rest.split()
            results[name] = back.read(int(size))
        return results


def _shape(case: AttentionCase | DecodeCase) -> dict[str, float]:
    scale = (case.d or 1) ** -0.5 if case.scale is None else case.scale
    return {
        "h": case.h, "hk": case.kv_heads, "d": case.d, "dv": case.value_dim,
        "left": case.mask.left, "right": case.mask.right,
        "scale": float(scale), "softcap": float(case.softcap or 0),
    }  # fmt: skip


def _problem(case: AttentionCase, x: AttentionInputs) -> dict[str, float]:
    ragged = x.cu_seqlens_q is not None
    sizes = {"b": case.b, "sq": case.sq, "sk": case.keys, "tq": 0, "tk": 0}
    if ragged:
        tq, tk = x.q.shape[0], x.k.shape[0]
        sizes = {"b": len(case.sequences), "sq": tq, "sk": tk, "tq": tq, "tk": tk}
    return {**_shape(case), **sizes, "dtype": DTYPE_CODES[x.q.dtype]}


def _tensors(x: AttentionInputs | DecodeInputs, *names: str) -> dict[str, torch.Tensor]:
    found = {name: getattr(x, name) for name in names}
    if getattr(x, "cu_seqlens_q", None) is not None:
        found |= {name: getattr(x, name) for name in ("cu_seqlens_q", "cu_seqlens_k")}
    return found


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _shaped(data: bytes, like: torch.Tensor, width: int) -> torch.Tensor:
    """Of the dtype and the leading axes of ``like``."""
    return _numbers(data, like.dtype).view(*like.shape[:-1], width)


def _lse(data: bytes, q: torch.Tensor) -> torch.Tensor:
    """``[b, h, s]`` or ``[h, tokens]``."""
    return _numbers(data, torch.float32).view(*q.shape[:-3], q.shape[-2], q.shape[-3])


def _numbers(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
