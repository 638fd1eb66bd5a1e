"""Traces of what torch allocates, by fake tensors: no memory, no kernels, no GPU.

Every storage that an op makes is a request; it ends when torch lets the storage go. Who asked is
told by the module that runs forward and the op, or by the node of the backward graph and the op.
What kernels allocate inside themselves (workspaces) is not seen, nor which stream an op runs on. A
fake tensor's value, where a step asks for one, is 0, which a warning tells.

A trace is of one device. What other devices hold is left out, and the trace's notes say how much;
meta tensors hold nothing.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from warploom.memory.trace import Trace, TraceBuilder

ALIGNMENT = 512  # torch's CUDA allocator gives out multiples of it


def fake_mode() -> FakeTensorMode:
    """A mode to build a model under and to hand to ``record``: tensors without memory.

    Real tensors that meet them (of a data loader, say) become such tensors.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


class _Enough(BaseException):
    """Ends a script when as many steps as wanted were recorded."""


class Recorder(TorchDispatchMode):
    """Records while it is entered; ``steps`` counts the optimizer's steps.

    Phases are ``forward N``, ``backward N`` and ``optimizer N``, a new one whenever the kind of
    work changes, N counting from 0 how often it was that kind. With recompute, what runs forward
    again within a backward pass belongs to that.
    """

    def __init__(
        self,
        *,
        alignment: int = ALIGNMENT,
        count_optimizers: bool = True,
        most_steps: int = 0,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = None if device is None else _named(_parsed(device))
        self._count_optimizers = count_optimizers
        self._most_steps = most_steps
        self.steps = 0
        self.step_times: list[int] = []
        self.step_requests: list[int] = []  # on all devices
        self._builder = TraceBuilder(alignment=alignment)
        self._watched: set[int] = set()  # storages' keys
        self._modules: list[str] = []
        self._names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._optimizing = 0
        self._kind = ""
        self._counts: dict[str, int] = {}
        self._devices: list[str] = []  # of each request
        self._hooks = ExitStack()

    def __enter__(self) -> Recorder:
        # Else lifetimes of reference cycles depend on what else runs. What is there already is not
        # looked at again: that would take seconds a step.
        self._hooks.callback(gc.enable if gc.isenabled() else gc.disable)
        gc.collect()
        gc.disable()
        gc.freeze()
        self._hooks.callback(gc.unfreeze)
        for remove in self._install_hooks():
            self._hooks.callback(remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        self._watched.clear()  # what is let go from here on was held to the end
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _install_hooks(self) -> Iterator[Callable[[], None]]:
        yield torch_module.register_module_forward_pre_hook(self._enter_module).remove
        yield torch_module.register_module_forward_hook(self._leave_module, always_call=True).remove
        yield torch_optimizer.register_optimizer_step_pre_hook(self._begin_step).remove
        yield torch_optimizer.register_optimizer_step_post_hook(self._end_step).remove

    def _enter_module(self, module: Any, _: Any) -> None:
        if not self._modules and module not in self._names:
            for name, part in module.named_modules():
                self._names[part] = name or type(module).__name__
        self._modules.append(self._names.get(module, type(module).__name__))

    def _leave_module(self, *_: Any) -> None:
        self._modules.pop()

    def _begin_step(self, *_: Any) -> None:
        self._optimizing += 1

    def _end_step(self, *_: Any) -> None:
        self._optimizing -= 1
        if not self._optimizing and self._count_optimizers:
            self.mark_step()
            if self.steps == self._most_steps:
                raise _Enough

    def mark_step(self) -> None:
        """The end of a training step."""
        gc.collect()
        self.steps += 1
        self.step_times.append(self._builder.now)
        self.step_requests.append(len(self._devices))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return _value(func, args[0])
        for tensor in tree_iter((args, kwargs)):
            # A constant's own tensor is no request: what is made of it is.
            if isinstance(tensor, torch.Tensor) and func is not torch.ops.aten.lift_fresh.default:
                self._watch(tensor, "before", "before")
        results = func(*args, **kwargs)
        phase = site = ""
        for tensor in tree_iter(results):
            if isinstance(tensor, torch.Tensor):
                if not phase:
                    phase, site = self._where(func)
                self._watch(tensor, phase, site)
        return results

    def _where(self, func: Any) -> tuple[str, str]:
        backward = torch._C._current_graph_task_id() != -1
        kind = "optimizer" if self._optimizing else "backward" if backward else "forward"
        if kind != self._kind:
            self._kind = kind
            self._counts[kind] = self._counts.get(kind, -1) + 1
        where = self._modules[-1] if self._modules else kind
        if backward and not self._modules:
            node = torch._C._current_autograd_node()
            where = node.name() if node is not None else kind
        return f"{kind} {self._counts[kind]}", f"{where}: {func}"

    def _watch(self, tensor: torch.Tensor, phase: str, site: str) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watched:
            return
        self._watched.add(key)
        self._builder.alloc(key, storage.nbytes(), phase=phase, site=site)
        self._devices.append(_named(tensor.device))  # a fake tensor's storage says meta
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        if key in self._watched:
            self._watched.remove(key)
            self._builder.free(key)

    def trace(self, **notes: Any) -> Trace:
        """What was recorded so far on the device; the notes name it, and say what was left out of
        others and when each step ended.

        Raises:
            ValueError: nothing was recorded on the device; or none is given, and there are several
                besides the CPU.
        """
        device = _chosen(self._device, self._devices)
        whole = self._builder.finish()
        mine = np.array([name == device for name in self._devices], bool)
        left_out: dict[str, dict[str, int]] = {}
        for request in np.flatnonzero(~mine):
            sums = left_out.setdefault(self._devices[request], {"requests": 0, "bytes": 0})
            sums["requests"] += 1
            sums["bytes"] += int(whole.size[request])
        facts = {
            "device": device,
            "left_out": left_out,
            "step_times": self.step_times,
            "step_requests": [int(mine[:count].sum()) for count in self.step_requests],
        }
        return replace(whole.take(mine), notes={**whole.notes, **facts, **notes})


def _parsed(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}: must be as cpu or cuda:0") from error


def _named(device: torch.device) -> str:
    """As "cpu" or "cuda:0"."""
    if device.type == "cpu":
        return "cpu"
    return f"{device.type}:{device.index or 0}"


def _chosen(device: str | None, seen: Sequence[str]) -> str | None:
    """The device given, or the only one besides the CPU, or the CPU; None: nothing was seen."""
    there = sorted(set(seen))
    if device is not None:
        if device not in there:
            raise ValueError(
                f"device is {device!r}: tensors were on {', '.join(there) or 'no device'} only"
            )
        return device
    others = [name for name in there if name != "cpu"]
    if len(others) > 1:
        raise ValueError(f"device is None: must be one of {', '.join(there)}")
    return next(iter(others or there), None)


def _value(item: Callable[[torch.Tensor], Any], tensor: torch.Tensor) -> Any:
    """What ``.item()`` gives: of a fake tensor a constant's value (an optimizer's step), else 0."""
    try:
        return item(tensor)
    except DataDependentOutputException:
        warnings.warn(
            "a value of a tensor was asked for: fake tensors have none, 0 is given",
            RuntimeWarning,
            stacklevel=2,
        )
    if tensor.dtype == torch.bool:
        return False
    return 0.0 if tensor.is_floating_point() else 0


def record(
    step: Callable[[], Any],
    *,
    warmup: int = 1,
    steps: int = 2,
    fake: bool | FakeTensorMode = True,
    device: str | torch.device | None = None,
) -> Trace:
    """Records training steps.

    Args:
        step: does one training step, or whatever else repeats; called ``warmup + steps`` times.
        warmup: first steps, in which for instance optimizers make their state; recorded too.
        fake: a mode of ``fake_mode``, under which the model was built; True: a new one, for steps
            that build what they need; False: real tensors.
        device: whose memory, as "cuda:0"; None: the only device besides the CPU that tensors were
            on, or else the CPU.

    Returns:
        The trace of all steps. Tensors that were there before begin at their first use, in the
        phase "before". ``notes`` holds "warmup", for each step its end in "step_times" and the
        requests made until then in "step_requests", the "device", and in "left_out" for each other
        device its requests and their bytes.

    Raises:
        ValueError: warmup is negative or steps is less than 1; nothing was recorded on the device;
            or it is none, or it is None and there were several besides the CPU.
    """
    if warmup < 0 or steps < 1:
        raise ValueError(f"warmup is {warmup}, steps is {steps}: must be at least 0 and at least 1")
    mode = fake_mode() if fake is True else fake
    with ExitStack() as stack:
        if mode:
            stack.enter_context(mode)
        recorder = stack.enter_context(Recorder(count_optimizers=False, device=device))
        for _ in range(warmup + steps):
            step()
            recorder.mark_step()
        return recorder.trace(warmup=warmup)


@contextmanager
def recording(
    *, fake: bool = True, most_steps: int = 0, device: str | torch.device | None = None
) -> Iterator[Recorder]:
    """Records a block of code; the steps are those of its optimizers.

    Args:
        fake: under tensors without memory.
        most_steps: leaves the block after so many; 0: when it ends.
        device: as of ``record``.
    """
    with ExitStack() as stack:
        if fake:
            stack.enter_context(fake_mode())
        recorder = stack.enter_context(Recorder(most_steps=most_steps, device=device))
        stack.enter_context(suppress(_Enough))
        yield recorder
