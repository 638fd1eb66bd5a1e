"""How an op is registered with torch, and what stands between a call and its implementation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import forward_ad

LIBRARY = torch.library.Library("warploom", "DEF")

# A kernel reads the strides it is given and results do not depend on them, but the last axis must
# stay the last: a compiler may change strides, not their order. (Asked for exact ones, inductor
# fails on slices of a tensor that page_write wrote, where shapes are dynamic.)
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)

below_autograd = torch._C._AutoDispatchBelowAutograd

_Tensor = torch.Tensor
_is_compiling = torch.compiler.is_compiling
_transforms_active = torch._C._are_functorch_transforms_active
_autocast_active = torch._C._is_any_autocast_enabled
_function_mode_active = torch._C._is_torch_function_mode_enabled
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_tracing = torch._C._is_tracing
_profiler_enabled = torch._C._autograd._profiler_enabled


def define(
    schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> torch._ops.OpOverload:
    """Defines ``warploom::<schema>``, which runs ``implementation`` on the CPU and on GPUs."""
    LIBRARY.define(schema, tags=_TAGS)
    name = schema[: schema.index("(")]
    LIBRARY.impl(name, implementation, "CPU")
    LIBRARY.impl(name, _on_its_device(implementation), "CUDA")
    LIBRARY.impl(name, functools.partial(_refuse_vmap, name), "FuncTorchBatched")
    torch.library.register_fake(f"warploom::{name}", fake, lib=LIBRARY)
    overload: torch._ops.OpOverload = getattr(torch.ops.warploom, name).default
    return overload


def define_autograd(op: torch._ops.OpOverload, kernel: Callable[..., Any]) -> None:
    """Registers ``kernel`` between the op and its implementation, to record gradients."""
    LIBRARY.impl(_name(op), kernel, "Autograd")


def define_without_gradient(op: torch._ops.OpOverload, mutated: tuple[int, ...] = ()) -> None:
    """Refuses inputs that require grad; positions in ``mutated`` are written in place."""
    names = [argument.name for argument in op._schema.arguments]

    def kernel(*args: Any) -> Any:
        refuse_transforms(op, _tensors(args))
        if torch.is_grad_enabled():
            for name, value in zip(names, args, strict=False):
                for tensor in value if isinstance(value, list) else [value]:
                    if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                        raise ValueError(
                            f"{name} requires grad: {_name(op)} has no gradient; detach it, or "
                            "call it under torch.no_grad()"
                        )
        with below_autograd():
            result = op(*args)
        for position in mutated:
            torch.autograd.graph.increment_version(args[position])
        return result

    define_autograd(op, kernel)


def define_autocast(op: torch._ops.OpOverload, cast: Callable[..., tuple[Any, ...]]) -> None:
    """Under autocast, calls the op with ``cast(dtype, *args)`` in place of its arguments."""
    for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def kernel(
            *args: Any, device_type: str = device_type, keys: torch._C.DispatchKeySet = keys
        ) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*cast(torch.get_autocast_dtype(device_type), *args))

        LIBRARY.impl(_name(op), kernel, key)


def lower(dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
    """What autocast makes of a tensor: float64 and integers stay as they are."""
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if eligible else tensor


def is_plain(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> bool:
    """Whether the dispatcher would only pass the call on to the CPU implementation, or to autograd.

    Then the public functions go there straight, and save several microseconds. Whatever watches or
    changes calls on their way (compilers, tracers, profilers, transforms, autocast, modes,
    subclasses, lazy negation) sees every call: it makes this False.
    """
    return (
        type(a) is _Tensor
        and type(b) is _Tensor
        and type(c) is _Tensor
        and a.is_cpu
        and b.is_cpu
        and c.is_cpu
        and not (
            _is_compiling()
            or a.is_neg()
            or b.is_neg()
            or c.is_neg()
            or _transforms_active()
            or _autocast_active()
            or forward_ad._current_level >= 0
            or _function_mode_active()
            or _dispatch_modes()
            or _is_tracing()
            or _profiler_enabled()
        )
    )


def refuse_transforms(op: torch._ops.OpOverload, tensors: Iterable[torch.Tensor]) -> None:
    """Raises where torch.func or forward-mode differentiation would go wrong."""
    if _transforms_active():
        raise NotImplementedError(
            f"{_name(op)} does not support torch.func transforms (grad, vjp, jvp, vmap, ...): "
            "use torch.autograd, and the batch axis in place of vmap"
        )
    if forward_ad._current_level >= 0:
        for tensor in tensors:
            if forward_ad.unpack_dual(tensor).tangent is not None:
                raise NotImplementedError(
                    f"{_name(op)} has no forward-mode derivative: use reverse mode"
                )


class _Once(torch.autograd.Function):
    """Passes gradients on and refuses to be differentiated again."""

    @staticmethod
    def forward(ctx: Any, name: str, run: Callable[[], Any], *inputs: Any) -> Any:
        ctx.name = name
        with below_autograd():
            return run()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"{ctx.name} has no derivative: attention can be differentiated once"
        )


def define_differentiable_once(op: torch._ops.OpOverload) -> None:
    """For backward ops: their results can be used, their own derivative is refused."""

    def kernel(*args: Any) -> Any:
        tensors = _tensors(args)
        refuse_transforms(op, tensors)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return _Once.apply(_name(op), lambda: op(*args), *tensors)  # type: ignore[no-untyped-call]
        with below_autograd():
            return op(*args)

    define_autograd(op, kernel)


def _name(op: torch._ops.OpOverload) -> str:
    return op._schema.name.removeprefix("warploom::")


def _tensors(args: Iterable[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in args:
        found += [
            t
            for t in (value if isinstance(value, list) else [value])
            if isinstance(t, torch.Tensor)
        ]
    return found


def _on_its_device(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the tensors' GPU the current one, as launching on its stream needs."""

    @functools.wraps(implementation)
    def guarded(*args: Any) -> Any:
        # Not simply the first: one on the CPU among them is for the implementation to refuse.
        with torch.cuda.device(next(t.device for t in _tensors(args) if t.is_cuda)):
            return implementation(*args)

    return guarded


def _refuse_vmap(name: str, *args: Any) -> Any:
    raise NotImplementedError(
        f"{name} does not support torch.func.vmap: use its batch axis, or attention_varlen"
    )
