r"""Strong attacks on a finished network: APGD-CE, targeted APGD, targeted FAB, Square; together they are AutoAttack.

Suite     each attack is run on the images that are still classified correctly; an image is robust if all of them fail
          (Croce & Hein 2020, arXiv:2003.01690). Eval mode, float32 without TF32, the network as it stands in its file.
Package   torchattacks 3.5 (MIT, on PyPI; its last release is of 2023). The authors' own `autoattack` (MIT) is on no
          package index, so nothing that is published can depend on it; adv-lib (BSD-3, still released) has APGD and FAB
          and no Square. What counts as success is not left to the package: every input that it returns is projected
          onto the ball and [0, 1] here and classified again.
Standard  100 steps and the nine likeliest classes as targets. The package's own `AutoAttack` makes 10 steps and aims at
          every class, so its parts are put together here.
Seeds     each batch has a seed of its own; the global generators, which the package seeds, are put back.
Limits    ε = 0 gives the clean accuracy. More attacks, and a larger ε, never raise the accuracy of an image set by the
          suite itself (the attacks are heuristics: a larger ε may).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from empirical.data.resident import Split
from empirical.data.streams import derived_seed
from empirical.settings.attack import PGD
from empirical.settings.robustness import Robustness, StrongAttack
from empirical.training.attack import project
from empirical.training.evaluate import eval_mode
from empirical.training.numerics import without_tf32

__all__ = ["first_failures"]

#: The norm's name in the package.
_NORM = {"linf": "Linf", "l2": "L2"}


def first_failures(
    model: nn.Module,
    split: Split,
    setting: Robustness,
    *,
    seed: int,
    num_classes: int,
    note: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """What broke each image first, shape ``(images,)``: see `empirical.records.robustness.RobustAccuracy`.

    Args:
        model: from pixels in [0, 1] to logits; its mode, flags and weights are left as found.
        split: the images.
        setting: the attacks.
        seed: of their random starts.
        num_classes: logits of the model; the targeted attacks need four, whose margins their loss compares.
        note: called with (images done, images still robust among them) after each batch.

    Raises:
        ValueError: if there is no image, too few classes, or the package is not installed.
    """
    if len(split) == 0:
        raise ValueError("`first_failures(split=...)` must hold at least one image; got 0.")
    if num_classes < 4 and {"apgd-t", "fab-t"} & set(setting.attacks):
        raise ValueError(f"`first_failures(num_classes=...)` must be >= 4 for targeted attacks; got {num_classes}.")
    ball = PGD(epsilon=setting.epsilon, step_size=0, steps=0, norm=setting.norm, random_start="none")
    found = []
    devices = [split.images.device] if split.images.device.type == "cuda" else []
    with eval_mode(model), without_tf32(), torch.random.fork_rng(devices=devices):
        for index, (x, y) in enumerate(split.batches(setting.batch_size)):
            failed = torch.full((len(y),), len(setting.attacks) + 1, dtype=torch.int64)
            with torch.no_grad():
                alive = model(x).argmax(1) == y
            failed[~alive.cpu()] = 0
            for place, name in enumerate(setting.attacks, start=1):
                if setting.epsilon == 0 or not alive.any():
                    break
                (standing,) = torch.nonzero(alive, as_tuple=True)
                attack = _attack(name, model, setting, seed=derived_seed(seed, "evaluation", index, place) % 2**31)
                _set_targets(attack, min(setting.targets, num_classes - 1))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the package's, about tensors that it indexes by lists
                    moved = attack(x[standing], y[standing]).detach()
                with torch.no_grad():
                    moved = project(torch.nan_to_num(moved).to(x), x[standing], ball)
                    broken = standing[model(moved).argmax(1) != y[standing]]
                alive[broken] = False
                failed[broken.cpu()] = place
            found.append(failed.numpy())
            if note is not None:
                done = np.concatenate(found)
                note(len(done), int((done > len(setting.attacks)).sum()))
    return np.concatenate(found)


def _attack(name: StrongAttack, model: nn.Module, setting: Robustness, *, seed: int) -> Any:
    try:
        import torchattacks
    except ImportError:
        raise ValueError("strong attacks need the package torchattacks; install the extra `attacks`.") from None
    shared: dict[str, Any] = {"norm": _NORM[setting.norm], "eps": setting.epsilon, "seed": seed, "n_restarts": 1}
    if name == "apgd-ce":
        return torchattacks.APGD(model, steps=setting.steps, loss="ce", **shared)
    if name == "apgd-t":
        return torchattacks.APGDT(model, steps=setting.steps, **shared)
    if name == "fab-t":
        return torchattacks.FAB(model, steps=setting.steps, multi_targeted=True, **shared)
    return torchattacks.Square(model, n_queries=setting.queries, **shared)


def _set_targets(attack: Any, targets: int) -> None:
    """The package takes the number of classes less one; the standard aims at nine of them at most."""
    if hasattr(attack, "n_target_classes"):
        attack.n_target_classes = targets
