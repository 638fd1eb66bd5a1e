"""What compilers must not look into: it waits for other ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """Under ``torch.compile`` the function is called as it is, between two graphs.

    As the decorator ``torch.compiler.disable``, which however imports the compiler at once.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*arguments, **options)  # type: ignore[no-any-return]
        return function(*arguments, **options)

    return call
