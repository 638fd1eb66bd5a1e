"""What each layer's keys and values cost at each width, from gradients of the loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import warploom
from warploom.methods.pm_kvq.layout import KEYS, VALUES, WIDTHS, Layout
from warploom.methods.pm_kvq.quantization import as_stored

Costs = tuple[tuple[tuple[float, ...], ...], ...]
MEASURES = ("squared", "absolute")


@dataclass(frozen=True)
class Profile:
    """``cost[layer][kind][n]``: of keys (kind 0) or values (1) at width ``WIDTHS[n]``.

    16 bits, which a cache begins with, cost 0.
    """

    cost: Costs
    layout: Layout
    measure: str = MEASURES[0]

    def save(self, path: Path | str) -> None:
        """As JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        read: Any = json.loads(Path(path).read_text())
        cost = tuple(tuple(tuple(map(float, kind)) for kind in layer) for layer in read["cost"])
        return cls(cost, Layout(**read["layout"]), read["measure"])


def sensitivity(
    model: Any,
    texts: Sequence[torch.Tensor],
    position_scale: int = 4,
    layout: Layout | None = None,
    measure: str = "squared",
) -> Profile:
    """Measures a transformers model by one forward and backward pass a text.

    With x what a layer stores, x_b what a width makes of it, and g the gradient of the summed
    negative log-likelihood, the cost is, on average over positions,

        "squared"    sum over heads of (sum over channels of (x_b - x) g)^2
        "absolute"   sum over heads and channels of |(x_b - x) g|

    Gradients are those of what the cache really has at a low width: of positions past the sink's
    pages, as queries see them that are further away than the window.

    Args:
        model: a transformers decoder with a language-modelling head; its weights, and gradients of
            them, stay as they are.
        texts: token ids, ``[s]`` or ``[b, s]`` each, longer than sink and window.
        position_scale: positions lie so far apart, as those of a text that is longer by this
            factor: keys are rotated as far as there, at the cost of a short text.
        layout: of the cache to be; None: :meth:`Layout.of` the model's configuration.
        measure: "squared" is twice the divergence (KL) of the model's predictions, of errors that
            are independent of each other: their Fisher information, for which each token's
            gradient is that of a token drawn from the model's prediction (seeded). "absolute" is
            the bound of the loss to first order, at the tokens of the text.

    Raises:
        ValueError: an argument is wrong, a text has no positions past sink and window, or a loss is
            not finite.
    """
    from warploom.methods.pm_kvq import calibration

    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}: must be one of {MEASURES}")
    shape = layout or Layout.of(model.config)
    total = torch.zeros(shape.layers, 2, len(WIDTHS), dtype=torch.float64)
    positions = 0
    with calibration.frozen(model), torch.enable_grad():
        for n, ids in enumerate(calibration.checked(texts)):
            if ids.shape[1] <= shape.kept + shape.window:
                raise ValueError(
                    f"texts[{n}] has {ids.shape[1]} positions: must be more than "
                    f"{shape.kept + shape.window}, sink and window"
                )
            seen = _Far(shape)
            with calibration.attending(model, seen.attend):
                places = calibration.stretched(ids, position_scale)
                _backward(model, ids, places, drawn=measure == "squared")
            positions += ids.numel()
            for layer, pair in seen.stored.items():
                for kind, x, far in zip((KEYS, VALUES), pair, seen.moved[layer], strict=True):
                    for w, width in enumerate(WIDTHS[1:], 1):
                        total[layer, kind, w] += _cost(x, far.grad, width, kind, shape, measure)
    mean = (total / positions).tolist()
    cost = tuple(tuple(tuple(kind) for kind in layer) for layer in mean)
    return Profile(cost, shape, measure)


class _Far:
    """Attention whose keys and values further away than the window have gradients of their own."""

    def __init__(self, layout: Layout) -> None:
        self.window = layout.window
        self.stored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self.stored[layer] = (k.detach(), v.detach())
        moves = torch.zeros_like(k), torch.zeros_like(v)
        self.moved[layer] = moves
        far = k + moves[0].requires_grad_(), v + moves[1].requires_grad_()
        return attend_apart(q, (k, v), far, self.window, scale)


def attend_apart(
    q: torch.Tensor,
    near: tuple[torch.Tensor, torch.Tensor],
    far: tuple[torch.Tensor, torch.Tensor],
    window: int,
    scale: float,
) -> torch.Tensor:
    """Causal attention to the newest ``window`` keys and values of ``near``, before to ``far``."""
    away = max(window, 1)  # a query is nearer to itself than any window
    options: dict[str, Any] = {"scale": scale, "return_lse": True}
    k, v = near
    o, lse = warploom.attention(q, k, v, mask=warploom.mask.window(away - 1, 0), **options)
    k, v = (x[:, :-away] for x in far)
    late = q[:, away:]
    past, past_lse = warploom.attention(late, k, v, mask=warploom.mask.causal(), **options)
    both, _ = warploom.merge_states([o[:, away:], past], [lse[:, :, away:], past_lse])
    return torch.cat([o[:, :away], both], 1)


def _backward(model: Any, ids: torch.Tensor, positions: torch.Tensor, drawn: bool) -> None:
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    logits = model(inputs_embeds=embedded, position_ids=positions, use_cache=False).logits
    predicted, labels = logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
    if drawn:
        generator = torch.Generator(predicted.device).manual_seed(0)
        odds = predicted.detach().softmax(-1)
        labels = torch.multinomial(odds, 1, generator=generator).flatten()
    loss = torch.nn.functional.cross_entropy(predicted, labels, reduction="sum")
    if not torch.isfinite(loss):
        raise ValueError(f"the loss of a text is {loss.item()}: must be finite")
    loss.backward()


def _cost(
    x: torch.Tensor, gradient: Any, width: int, kind: int, layout: Layout, measure: str
) -> float:
    """Of ``[b, s, hk, d]``: whole pages alone, as they are quantized."""
    stored = as_stored(x.transpose(1, 2), width, kind, layout).transpose(1, 2)
    moved = ((stored.float() - x.float()) * gradient.float())[:, layout.kept :]
    cost = moved.sum(-1).square() if measure == "squared" else moved.abs()
    return float(cost.sum(dtype=torch.float64))
