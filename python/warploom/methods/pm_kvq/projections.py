"""Where a model makes its queries and keys."""

from __future__ import annotations

from typing import Any

import torch


def attention_layers(model: torch.nn.Module) -> list[Any]:
    """The attention modules by layer, each with ``q_proj`` and ``k_proj``.

    Raises:
        NotImplementedError: a layer without them; it is named.
    """
    found: dict[int, Any] = {}
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and hasattr(module, "scaling"):
            if index in found:
                raise NotImplementedError(
                    f"{name} and {names[index]} are both attention of layer {index}: a decoder "
                    "with one attention a layer is needed"
                )
            found[index], names[index] = module, name
    if sorted(found) != list(range(len(found))) or not found:
        raise NotImplementedError(
            f"{type(model).__name__} has attention in layers {sorted(found)}: must be 0, 1, 2, ..."
        )
    for index, module in found.items():
        for part in ("q_proj", "k_proj"):
            if not isinstance(getattr(module, part, None), torch.nn.Linear):
                raise NotImplementedError(
                    f"{names[index]} ({type(module).__name__}) has no {part} that is a Linear"
                )
    return [found[index] for index in range(len(found))]
