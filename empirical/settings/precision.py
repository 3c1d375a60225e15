"""How fast and how exactly the numbers of a run are computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from empirical.settings.fields import require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = ["FAST", "Autocast", "Precision"]

Autocast = Literal["none", "bfloat16"]
#: What training on CUDA uses unless told otherwise; x, δ, weights, loss and batch-norm statistics stay in float32.
FAST: Mapping[str, Any] = {
    "autocast": "bfloat16",
    "channels_last": True,
    "compile": True,
    "cuda_graph": True,
    "tf32": True,
    "deterministic": False,
}


@keyword_setting
class Precision(Setting):
    """How fast and how exactly the numbers are computed. Each changes the realisation of the noise, so it is recorded.

    Args:
        autocast: "none" (float32) or "bfloat16" inside the network; x, δ, weights, loss and batch-norm statistics stay
            in float32 either way.
        channels_last: channels-last memory layout of images and convolutions.
        compile: `torch.compile` the network for attack and training (curvature is measured on the eager network:
            compiled graphs have no second derivative).
        cuda_graph: replay the whole attack as one CUDA graph on full batches.
        tf32: allow TensorFloat-32 in matrix products and convolutions (10-bit mantissa).
        deterministic: ask cuDNN for deterministic algorithms and no autotuning, so that a resumed run is the same to
            the bit; off, it may choose faster ones.

    Raises:
        ValueError: if `autocast` is unknown.
    """

    autocast: Autocast = "none"
    channels_last: bool = False
    compile: bool = False
    cuda_graph: bool = False
    tf32: bool = False
    deterministic: bool = True

    def __post_init__(self) -> None:
        require_choices(self)

    @property
    def summary(self) -> str:
        """As a person says it: ``float32``, ``bfloat16 channels-last compiled graph``."""
        words = ["float32" if self.autocast == "none" else self.autocast]
        named = {"tf32": "TF32", "channels_last": "channels-last", "compile": "compiled", "cuda_graph": "graph"}
        return " ".join(words + [word for field, word in named.items() if getattr(self, field)])
