"""A detector of key biases that swamp what the keys say, as some models have in a few layers.

A bias much larger than the rest of a key makes one channel set the range of a whole group: with a
grid per key the others share a handful of levels. Grids per channel leave each its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from warploom.methods.pm_kvq.projections import attention_layers


class KeyOutlier(NamedTuple):
    """A key/value head whose largest key bias is ``ratio`` times the rms of its keys without."""

    layer: int
    head: int
    ratio: float


def key_outliers(
    model: Any, texts: Sequence[torch.Tensor], threshold: float = 10.0
) -> list[KeyOutlier]:
    """Runs the texts and compares each head's key bias with its keys without it.

    Warns (``RuntimeWarning``) of what it finds, with the layers' numbers. The treatment is grids
    per channel: ``Layout.of(config, keys_per_channel=True)``, the default.

    Args:
        model: a transformers decoder with ``q_proj`` and ``k_proj``.
        texts: token ids, ``[s]`` or ``[b, s]`` each.
        threshold: ratios above it are outliers.

    Returns:
        The outliers, largest ratio first.
    """
    from warploom.methods.pm_kvq import calibration

    layers = attention_layers(model)
    squares = [torch.zeros(0)] * len(layers)
    count = 0
    hooks = []
    for index, module in enumerate(layers):
        if module.k_proj.bias is not None:
            hooks.append(module.k_proj.register_forward_hook(_rest(squares, index)))
    try:
        with calibration.frozen(model), torch.no_grad():
            for ids in calibration.checked(texts) if hooks else ():
                model(ids, use_cache=False)
                count += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for index, module in enumerate(layers):
        if module.k_proj.bias is None:
            continue
        d = module.head_dim
        rest = (squares[index] / count).unflatten(0, (-1, d)).mean(1).sqrt()
        largest = module.k_proj.bias.detach().float().abs().unflatten(0, (-1, d)).amax(1)
        for head, ratio in enumerate((largest / rest.clamp_min(1e-30)).tolist()):
            if ratio > threshold:
                found.append(KeyOutlier(index, head, ratio))
    found.sort(key=lambda outlier: -outlier.ratio)
    if found:
        _warn(found)
    return found


def _rest(squares: list[torch.Tensor], index: int) -> Any:
    def hook(module: Any, _: Any, keys: torch.Tensor) -> None:
        moved = (keys.float() - module.bias.float()).flatten(0, -2).square().sum(0)
        squares[index] = moved if squares[index].numel() == 0 else squares[index] + moved

    return hook


def _warn(found: Sequence[KeyOutlier]) -> None:
    layers = sorted({outlier.layer for outlier in found})
    worst = found[0]
    warnings.warn(
        f"key biases of layers {', '.join(map(str, layers))} swamp their keys (layer "
        f"{worst.layer}, head {worst.head}: {worst.ratio:.0f} times the rest): groups per key lose "
        "them; use keys_per_channel=True",
        RuntimeWarning,
        stacklevel=3,
    )
