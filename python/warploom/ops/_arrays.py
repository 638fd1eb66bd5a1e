"""Arrays of other libraries, exchanged through DLPack without a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack


def are_tensors(*arrays: Any) -> bool:
    """Whether all of them are torch's."""
    return all(isinstance(array, torch.Tensor) for array in arrays)


def call(function: Callable[..., Any], arrays: dict[str, Any], *options: Any) -> Any:
    """Calls an op on torch views of ``arrays`` and returns its results as their kind.

    The kind is that of the first array, whose library must follow the array API standard
    (``__array_namespace__``, as NumPy 2, CuPy and JAX do): its ``from_dlpack`` takes the results.

    Raises:
        ValueError: an array cannot be exchanged. NumPy has no bfloat16, and refuses to export the
            extension type: pass a torch tensor for it.
    """
    first = next(iter(arrays.values()))
    kind = type(first)
    views = {name: _view(name, array, kind) for name, array in arrays.items() if array is not None}
    result = function(*(views.get(name) for name in arrays), *options)
    if result is None:
        return None
    namespace = first.__array_namespace__()
    if isinstance(result, tuple):
        return tuple(namespace.from_dlpack(tensor) for tensor in result)
    return namespace.from_dlpack(result)


def refuse_read_only(**arrays: Any) -> None:
    """For arrays that an op writes: torch's view of one would not know that it must not.

    An array that refuses to be assigned to is read-only. JAX's are, and their DLPack exports do
    not say so.
    """
    for name, array in arrays.items():
        try:
            array[:0] = array[:0]
        except IndexError:
            pass  # no axes: refused for its rank
        except (TypeError, ValueError) as problem:
            raise ValueError(
                f"{name} is read-only: must be writable, it is written in place"
            ) from problem


def _view(name: str, array: Any, kind: type) -> torch.Tensor:
    if type(array) is not kind:
        raise ValueError(
            f"{name} is a {_path(type(array))}: must be a {_path(kind)} like the other arrays"
        )
    if not hasattr(kind, "__dlpack__") or not hasattr(kind, "__array_namespace__"):
        raise ValueError(
            f"{name} is a {_path(kind)}: must be a torch.Tensor, or an array with __dlpack__ and "
            "__array_namespace__"
        )
    try:
        view: torch.Tensor = from_dlpack(_exportable(array))
    except (BufferError, RuntimeError, TypeError) as problem:
        dtype = getattr(array, "dtype", "unknown")
        raise ValueError(
            f"{name}, a {_path(kind)} of dtype {dtype}, cannot be exchanged through DLPack: "
            f"{problem}"
        ) from problem
    return view


class _Unlocked:
    """A read-only NumPy array's memory, with no word of that."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory
        data = (array.__array_interface__["data"][0], False)
        self.__array_interface__ = {**array.__array_interface__, "data": data}


def _exportable(array: Any) -> Any:
    """NumPy exports read-only arrays only by DLPack 1, which torch 2.6 does not ask for. Ops read
    their inputs, and those that write refused such arrays before."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        return np.asarray(_Unlocked(array))
    return array


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
