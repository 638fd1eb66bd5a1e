"""Bytes as people write them."""

from __future__ import annotations

import argparse

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def amount(size: float) -> str:
    """As "1.5000 MiB"."""
    for unit, scale in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if abs(size) >= scale:
            return f"{size / scale:.4f} {unit}"
    return f"{size:g} bytes"


def parse_bytes(text: str) -> int:
    """Of "80G", "1.5M" or "512", in powers of 1024; for argparse.

    Raises:
        argparse.ArgumentTypeError: the text is no such number above 0.
    """
    number = text.rstrip("KMGT")
    try:
        size = int(float(number) * _UNITS[text[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be bytes above 0, as 80G or 512M")
    return size
