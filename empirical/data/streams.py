"""Random streams: every draw of a run is a function of (root seed, stream, counter).

Nothing depends on how many draws came before, so a resumed run continues to the bit from two integers (epoch and
iteration), two processes draw the same global batch without talking, and a branch with its own data order is the
same checkpoint with another root seed. The children come from NumPy's `SeedSequence`, whose streams are independent
by construction (O'Neill's hash), not by luck.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

__all__ = ["Stream", "derived_seed", "generator"]

Stream = Literal[
    "initialization",
    "order",
    "augmentation",
    "attack",
    "awp",
    "evaluation",
    "split",
    "label-noise",
    "images",
    "sharpness",
]

# Fixed numbers: renumbering them would change every run.
_NUMBER: dict[str, int] = {
    "initialization": 0,
    "order": 1,
    "augmentation": 2,
    "attack": 3,
    "awp": 4,
    "evaluation": 5,
    "split": 6,
    "label-noise": 7,
    "images": 8,
    "sharpness": 9,
}


def derived_seed(seed: int, stream: Stream, *counter: int) -> int:
    """A 63-bit seed for one use of one stream.

    Raises:
        ValueError: if `seed` or a counter is negative.
    """
    if seed < 0 or any(count < 0 for count in counter):
        raise ValueError(f"`derived_seed(seed=..., counter=...)` must be >= 0; got {seed} and {counter}.")
    sequence = np.random.SeedSequence(seed, spawn_key=(_NUMBER[stream], *counter))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, stream: Stream, *counter: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for one use of one stream."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, stream, *counter))
