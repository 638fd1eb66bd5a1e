"""Scales that move outlying key channels into the queries, folded into the projections.

Both channels of a rotary pair are divided by one number, which the rotation therefore does not
see; the queries of the group are multiplied by it. Scores stay what they were; keys that share a
grid by token become alike in size. Grids per channel gain nothing from it: each has its own range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

import warploom
from warploom.methods.pm_kvq.layout import KEYS, Layout
from warploom.methods.pm_kvq.projections import attention_layers
from warploom.methods.pm_kvq.quantization import as_stored

_ALPHAS = tuple(n / 20 for n in range(21))  # 0: as it was
_LEAST, _MOST = 1e-4, 1e4
_UNCHANGED = 2e-2  # relative L2 of the logits, which rounding weights anew may move


def smooth(
    model: Any,
    texts: Sequence[torch.Tensor],
    bits: int = 4,
    position_scale: int = 4,
) -> Any:
    """Rescales queries and keys of every layer in place, and returns the model.

    The scale of a pair is the largest magnitude that a text's keys have in it, to the power alpha;
    of 21 alphas each layer takes the one whose attention output, with keys quantized per token at
    ``bits``, is nearest to that of unquantized keys (alpha 0 is among them: never worse).

    Args:
        model: a transformers decoder with rotary embeddings over halves of the whole head
            (Llama, Qwen2, Mistral), ``q_proj`` and ``k_proj``.
        texts: token ids, ``[s]`` or ``[b, s]`` each.
        bits: 8, 4 or 2: at which width alphas are compared.
        position_scale: as of :func:`sensitivity`.

    Raises:
        NotImplementedError: an attention whose scores would change: norms after the projections,
            or a rotation of part of the head; the layer is named. Whatever is raised leaves every
            weight as it was.
    """
    from warploom.methods.pm_kvq import calibration

    layers = attention_layers(model)
    _refuse(model, layers)
    batches = calibration.checked(texts)
    layout = Layout.of(model.config, keys_per_channel=False)
    search = _Search(layout, bits)
    with calibration.frozen(model), torch.no_grad():
        before = _logits(model, batches[0])
        for pick in (search.magnitude, search.errors):
            for ids in batches:
                with calibration.attending(model, _looked_at(pick)):
                    places = calibration.stretched(ids, position_scale)
                    model(ids, position_ids=places, use_cache=False)
        scales = [search.best(index) for index in range(len(layers))]
        with _restored_on_error(layers):
            for module, scale in zip(layers, scales, strict=True):
                _fold(module, scale)
            moved = (_logits(model, batches[0]) - before).norm() / before.norm()
            if not moved < _UNCHANGED:
                raise NotImplementedError(
                    f"smoothing moves the logits of {type(model).__name__} by {moved:.1e} "
                    "(relative L2): its rotation does not pair channel i with channel i + d/2"
                )
    return model


class _Search:
    """Largest magnitudes of pairs, then the error of every alpha, layer by layer."""

    def __init__(self, layout: Layout, bits: int) -> None:
        self.layout, self.bits = layout, bits
        self.largest: dict[int, torch.Tensor] = {}  # [hk, d / 2]
        self.error: dict[int, torch.Tensor] = {}  # [alphas]

    def magnitude(self, index: int, q: torch.Tensor, k: torch.Tensor, *_: Any) -> None:
        largest = k.float().abs().amax((0, 1)).unflatten(1, (2, -1)).amax(1)
        known = self.largest.get(index)
        self.largest[index] = largest if known is None else torch.maximum(known, largest)

    def errors(
        self, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, s: float
    ) -> None:
        exact = _attend(q, k, v, s).float()
        found = []
        for alpha in _ALPHAS:
            scale = self.scale(index, alpha).repeat(1, 2).to(k.dtype)
            heads_first = (k / scale).transpose(1, 2)
            stored = as_stored(heads_first, self.bits, KEYS, self.layout).transpose(1, 2) * scale
            found.append((_attend(q, stored, v, s).float() - exact).square().mean())
        total = torch.stack(found).double()
        self.error[index] = total + self.error.get(index, 0)

    def scale(self, index: int, alpha: float) -> torch.Tensor:
        return (self.largest[index] ** alpha).clamp(_LEAST, _MOST)

    def best(self, index: int) -> torch.Tensor:
        """``[hk, d / 2]``."""
        return self.scale(index, _ALPHAS[int(self.error[index].argmin())])


def _looked_at(look: Callable[..., None]) -> Any:
    def attend(
        index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        look(index, q, k, v, scale)
        return _attend(q, k, v, scale)

    return attend


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    o: torch.Tensor = warploom.attention(q, k, v, mask=warploom.mask.causal(), scale=scale)
    return o


def _refuse(model: Any, layers: Sequence[Any]) -> None:
    for index, module in enumerate(layers):
        for norm in ("q_norm", "k_norm"):
            if getattr(module, norm, None) is not None:
                raise NotImplementedError(
                    f"layer {index} of {type(model).__name__} has a {norm} after its projection: "
                    "scales cannot be folded through it"
                )
    text = model.config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    part = rope.get("partial_rotary_factor", getattr(text, "partial_rotary_factor", 1.0))
    if part not in (None, 1.0):
        raise NotImplementedError(
            f"partial_rotary_factor of {type(text).__name__} is {part}: must be 1"
        )


@contextmanager
def _restored_on_error(layers: Sequence[Any]) -> Iterator[None]:
    """Whatever is raised within, the projections are what they were, bit by bit."""
    kept = [
        (parameter.data, parameter.data.clone())
        for module in layers
        for linear in (module.q_proj, module.k_proj)
        for parameter in (linear.weight, linear.bias)
        if parameter is not None
    ]
    try:
        yield
    except BaseException:  # an interruption too would leave some layers folded
        for data, before in kept:
            data.copy_(before)
        raise


def _fold(module: Any, scale: torch.Tensor) -> None:
    """Divides keys and multiplies queries by ``scale [hk, d / 2]``, weights and biases."""
    heads, half = scale.shape
    rows = scale.repeat(1, 2)  # both channels of a pair
    shared = module.q_proj.out_features // (2 * half * heads)
    for linear, factor in (
        (module.k_proj, 1 / rows.flatten()),
        (module.q_proj, rows.repeat_interleave(shared, 0).flatten()),
    ):
        linear.weight.data.copy_(linear.weight.float() * factor[:, None])
        if linear.bias is not None:
            linear.bias.data.copy_(linear.bias.float() * factor)


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(ids[:1, :256], use_cache=False).logits
    return logits.double()
