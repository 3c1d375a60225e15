"""The positive controls: convex models on which the laws must hold, judged by the pipeline that judges networks.

An instrument that only ever refutes proves nothing about what it refutes. Each control is a preset at one rate and
order of sampling, with the rungs of the ladder (`RUNGS`) on which it is *declared beforehand* to leave the theory:
none for those that must hold. A network's verdict counts once the controls in its folder came out as declared.

Declared from runs with seeds 0 to 2, to be judged on others. Two limits: at η = .1 softmax regression under shuffling
spreads 1.2 to 1.3 times as far as its own linearised dynamics; under an attack of radius .05 the curvature with the
attack run again is 1.2 to 1.6 times that at fixed inputs, although the model is linear.
No controls: softmax regression and its attacked form *with replacement*. Their checkpoint is a draw far from the
optimum, and how much of the loss's third order the replicas then meet depends on the draw: over three seeds the network
stood at .91 to 1.16 times the law at η = .02, at 1.3 times and more at η = .1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from empirical.settings.presets import PresetName, make_training
from empirical.settings.training import ORDERS, Order, Training

__all__ = ["CONTROLS", "RUNGS", "SABOTAGES", "SMOKE", "Control", "Rung", "Sabotage", "control_of"]

#: From theory to network, the assumption that each rung drops: that noise does not depend on the state ((P1) to (P2)),
#: that the mini-batch law is right for linear dynamics ((P2) to linearised replicas), that the loss is quadratic over
#: the spread (to the network at fixed inputs), that the inputs stay (to the network with the attack run again).
Rung = Literal["additive noise", "mini-batch law", "quadratic loss", "fixed inputs"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
#: Ways to get the law wrong on purpose: twice the noise, half the curvature, the other order of sampling, one step
#: late, the rates before and after the drop swapped.
Sabotage = Literal["none", "noise", "curvature", "sampling", "late", "rates"]
SABOTAGES: tuple[Sabotage, ...] = get_args(Sabotage)


@dataclass(frozen=True, kw_only=True)
class Control:
    """A preset at one learning rate and order.

    Args:
        preset: which model.
        learning_rate: η before the drop.
        weight_decay: the ridge; with η it sets the slowest relaxation time.
        order: of sampling.
        epsilon: radius of the attack; None: the preset's, or none.
        breaks: rungs beyond "additive noise" on which it is declared to part from the theory.
    """

    preset: PresetName
    learning_rate: float
    weight_decay: float
    order: Order
    epsilon: float | None = None
    breaks: tuple[Rung, ...] = ()

    @property
    def must_hold(self) -> bool:
        """Whether the law of mini-batches (P2) must describe it as it is."""
        return not self.breaks

    @property
    def name(self) -> str:
        """How readers know it."""
        attack = "" if self.epsilon is None else f", ε {self.epsilon:g}"
        return f"{self.preset}{attack}, η {self.learning_rate:g}, {self.order}"

    def training(self, **changes: object) -> Training:
        """The run's Setting; `changes` override it further (a shorter run for a test)."""
        method = "at" if self.preset == "control-adversarial" else "standard"
        own: dict[str, object] = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        own["order"] = self.order
        if self.epsilon is not None:
            own |= {"epsilon": self.epsilon, "step_size": self.epsilon / 4}
        return make_training(self.preset, method, own | changes)


CONTROLS: tuple[Control, ...] = (
    *(
        Control(preset="control-ridge", learning_rate=rate, weight_decay=decay, order=order)
        for rate, decay in ((0.02, 1e-2), (0.1, 2e-3))
        for order in ORDERS
    ),
    Control(preset="control-softmax", learning_rate=0.02, weight_decay=1e-2, order="shuffle"),
    Control(preset="control-adversarial", learning_rate=0.02, weight_decay=1e-2, order="shuffle", epsilon=0.005),
    Control(
        preset="control-softmax", learning_rate=0.1, weight_decay=2e-3, order="shuffle", breaks=("quadratic loss",)
    ),
    Control(
        preset="control-adversarial",
        learning_rate=0.02,
        weight_decay=1e-2,
        order="shuffle",
        epsilon=0.05,
        breaks=("fixed inputs",),
    ),
)

#: A quadratic at the preset's rate, a convex loss, and the limit whose inputs move with the weights.
SMOKE: tuple[Control, ...] = (CONTROLS[2], CONTROLS[4], CONTROLS[7])


def control_of(training: Training) -> Control | None:
    """The control that a run's Setting is, whatever its seed; None for everything else."""
    for control in CONTROLS:
        if training.to_dict() == control.training().to_dict():
            return control
    return None
