"""What a run costs before it starts: passes through the network, and the seconds of one here.

Model     A forward of a batch is one pass, and so is an input-gradient or a weight-gradient backward. A step makes
          (loss) 3, or 6 for TRADES, whose clean inputs pass too; (attack) 2 a step, and 1 for TRADES' clean target;
          (AWP) the loss's again for every step of its own, an attack more for a fresh batch and for `recompute_attack`.
          With `faithful` books a forward ranks each attack in train mode and one logs the clean batch, and the clean
          inputs of TRADES pass twice.
          An evaluated image makes 2 a step of the attack, and 2 forwards that count.
Limits    PGD-10: AT 23 and AWP 26, as `Trainer` states. Epochs near a decay are evaluated whatever `every` says.
"""

from __future__ import annotations

import time

import torch

from empirical.network.build import build_network
from empirical.settings.attack import PGD
from empirical.settings.training import Training

__all__ = ["run_passes", "seconds_of_a_pass", "step_passes"]


def step_passes(setting: Training) -> int:
    """Passes of the batch in one training step, after AWP's warm-up."""
    method = setting.method
    loss = 3 if method.objective != "trades" else 9 if setting.faithful else 6
    attack = 0 if method.attack is None else _attack_passes(method.attack)
    books = int(setting.faithful and method.objective == "at")
    if setting.faithful and method.attack is not None and method.attack.batch_norm == "train":
        attack += 1
    if method.awp is None:
        return loss + attack + books
    attacks = 1 + (method.awp.batch == "fresh") + method.awp.recompute_attack
    return loss * (1 + method.awp.steps) + attack * attacks + books


def _attack_passes(attack: PGD) -> int:
    return attack.restarts * (2 * attack.steps + (attack.restarts > 1)) + (attack.loss == "kl")


def run_passes(setting: Training) -> int:
    """Passes of single images in a whole run, training and evaluation."""
    test = setting.data.test_size or setting.data.facts.test_size
    evaluated = (setting.evaluation.train_probe or test) + setting.data.validation_size + test
    length = setting.iterations_per_epoch
    near = [at / length for at, _, _ in setting.decays]
    times = sum(
        epoch % setting.evaluation.every == 0 or epoch == setting.epochs or any(abs(epoch - at) <= 3 for at in near)
        for epoch in range(setting.epochs + 1)
    )
    training = step_passes(setting) * setting.data.num_train * setting.epochs
    return training + times * evaluated * (_attack_passes(setting.evaluation.attack) + 2)


def seconds_of_a_pass(setting: Training, *, images: int = 8, device: torch.device | str = "cpu") -> float:
    """Seconds an image, of a forward on `device` in float32: the quicker of two, after one that warms up."""
    model = build_network(setting.network, seed=0).to(device)
    x = torch.full((images, *setting.data.image_shape), 0.5, device=device)
    best = float("inf")
    with torch.no_grad():
        for repeat in range(3):
            before = time.perf_counter()
            float(model(x).sum())
            if repeat:
                best = min(best, time.perf_counter() - before)
    return best / images
