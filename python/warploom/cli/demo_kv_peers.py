"""transformers' own quantized cache, and the bytes of any cache."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch

_QUANTO_WIDTHS = (4, 2)


def quanto(config: Any, width: int) -> Callable[[], Any] | None:
    """transformers' QuantizedCache on optimum-quanto, where it is installed and has the width."""
    if width not in _QUANTO_WIDTHS or importlib.util.find_spec("optimum") is None:
        return None
    if importlib.util.find_spec("optimum.quanto") is None:
        return None
    from transformers import QuantizedCache

    return lambda: QuantizedCache("quanto", config, nbits=width)


def cache_bytes(cache: Any) -> int:
    """What a cache takes: ours says, of others all tensors count, those inside of others too."""
    if hasattr(cache, "nbytes"):
        return int(cache.nbytes())
    return sum(
        t.numel() * t.element_size()
        for layer in cache.layers
        for held in vars(layer).values()
        for t in _plain(held)
    )


def _plain(held: Any) -> Iterator[torch.Tensor]:
    """Tensors with storage of their own: a quantized tensor is its codes, scales and shifts."""
    if isinstance(held, (list, tuple)):
        for part in held:
            yield from _plain(part)
    elif isinstance(held, dict):
        for part in held.values():
            yield from _plain(part)
    elif isinstance(held, torch.Tensor):
        if hasattr(held, "__tensor_flatten__"):
            names, _ = held.__tensor_flatten__()
            for name in names:
                yield from _plain(getattr(held, name))
        else:
            yield held
