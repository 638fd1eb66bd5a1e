"""Arrays of other libraries, exchanged through DLPack without a copy."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack


def are_tensors(*arrays: Any) -> bool:
    """Whether all of them are torch's."""
    return all(isinstance(array, torch.Tensor) for array in arrays)


def call(
    function: Callable[..., Any],
    arrays: dict[str, Any],
    *options: Any,
    optional: Container[str] = (),
    written: Container[str] = (),
) -> Any:
    """Calls an op on torch views of ``arrays`` and returns its results as their kind.

    The kind is that of the first array, whose library must follow the array API standard
    (``__array_namespace__``, as NumPy 2, CuPy and JAX do): its ``from_dlpack`` takes the results.
    Those named in ``optional`` may be None, those in ``written`` must not be read-only.

    Raises:
        ValueError: an array is missing, is not like the first, or cannot be exchanged. NumPy has
            no bfloat16, and refuses to export the extension type: pass a torch tensor for it.
    """
    first = next(iter(arrays.values()))
    given = {
        name: array for name, array in arrays.items() if array is not None or name not in optional
    }
    _refuse_other_kinds(given)
    for name, array in given.items():
        if name in written:
            _refuse_read_only(name, array)
    views = {name: _view(name, array) for name, array in given.items()}
    result = function(*(views.get(name) for name in arrays), *options)
    if result is None:
        return None
    namespace = first.__array_namespace__()
    if isinstance(result, tuple):
        return tuple(namespace.from_dlpack(tensor) for tensor in result)
    return namespace.from_dlpack(result)


def _refuse_other_kinds(arrays: dict[str, Any]) -> None:
    """All must be of the first one's kind, which can be exchanged."""
    (first_name, first), *rest = arrays.items()
    kind = torch.Tensor if isinstance(first, torch.Tensor) else type(first)
    exchanged = hasattr(kind, "__dlpack__") and hasattr(kind, "__array_namespace__")
    if kind is not torch.Tensor and not exchanged:
        raise ValueError(
            f"{first_name} is {_article(first)}: must be a torch.Tensor, or an array with "
            "__dlpack__ and __array_namespace__"
        )
    for name, array in rest:
        # Tensors have subclasses, as parameters; of another library an array's own type counts.
        alike = isinstance(array, kind) if kind is torch.Tensor else type(array) is kind
        if not alike:
            raise ValueError(
                f"{name} is {_article(array)}: must be a {_path(kind)} like {first_name}"
            )


def _refuse_read_only(name: str, array: Any) -> None:
    """For an array that an op writes: torch's view of it would not know that it must not.

    An array that refuses to be assigned to is read-only. JAX's are, and their DLPack exports do
    not say so.
    """
    try:
        array[:0] = array[:0]
    except IndexError:
        pass  # no axes: refused for its rank
    except (TypeError, ValueError) as problem:
        raise ValueError(
            f"{name} is read-only: must be writable, it is written in place"
        ) from problem


def _view(name: str, array: Any) -> torch.Tensor:
    kind, strides = type(array), getattr(array, "strides", None)
    # torch ends the process at such an array
    if isinstance(strides, tuple) and any(stride < 0 for stride in strides):
        raise ValueError(f"{name} has negative strides {strides}: must have none; copy it")
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


def _article(array: Any) -> str:
    return "None" if array is None else f"a {_path(type(array))}"


def _path(kind: type) -> str:
    return "torch.Tensor" if kind is torch.Tensor else f"{kind.__module__}.{kind.__qualname__}"
