"""Assumptions while a model trains: measured every few epochs within a budget, logged, and a reason to stop at an edge.

monitor = AssumptionMonitor(model, loss, loader, optimizer, every=5, writer=SummaryWriter(), stop={"stability": 1.0})
for epoch in range(epochs):
    ...
    if monitor(epoch):
        break
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from empirical.measure.assumptions import AssumptionReport

__all__ = ["AssumptionMonitor"]


class ScalarWriter(Protocol):
    """What a `torch.utils.tensorboard.SummaryWriter` is asked for."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Log one number."""
        ...


class AssumptionMonitor:
    """Call it with the epoch's number after each epoch; true means stop.

    Args:
        model: as for `empirical.check_assumptions`, which leaves it as it is.
        loss: likewise.
        batches: likewise; must be iterable more than once.
        optimizer: of the run: its present rate, momentum and decay are judged.
        every: epochs between measurements, the first at 0.
        budget: seconds a measurement, or such as "30 s".
        writer: gets ``spikeshrink/NAME`` for every check with an estimate.
        stop: quantity to its largest value: stop once a whole interval lies above.
        settings: other arguments of `check_assumptions`.

    Attributes:
        reports: epoch to report.

    Raises:
        ValueError: if `every` is not a positive integer, or a limit is not a number or of no check.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        batches: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 1,
        budget: float | str = "30 s",
        writer: ScalarWriter | None = None,
        stop: Mapping[str, float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        from theory.assumptions import RULES

        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`AssumptionMonitor(every=...)` must be an integer >= 1; got {every!r}.")
        for name, limit in (stop or {}).items():
            if name not in RULES:
                raise ValueError(f"`AssumptionMonitor(stop=...)` must name one of {', '.join(RULES)}; got {name!r}.")
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
                raise ValueError(f"`AssumptionMonitor(stop=...)` must have finite limits; got {limit!r} for {name}.")
        self.model, self.loss, self.batches, self.optimizer = model, loss, batches, optimizer
        self.every, self.budget, self.writer = every, budget, writer
        self.stop, self.settings = dict(stop or {}), dict(settings or {})
        self.reports: dict[int, AssumptionReport] = {}

    def __call__(self, epoch: int) -> bool:
        """Measure if it is time; whether a limit is broken."""
        if epoch % self.every:
            return False
        from empirical.measure.assumptions import check_assumptions

        report = check_assumptions(
            self.model,
            self.loss,
            self.batches,
            from_optimizer=self.optimizer,
            budget=self.budget,
            **self.settings,
        )
        self.reports[epoch] = report
        broken = []
        for name, check in report.checks.items():
            if check.estimate is None:
                continue
            if self.writer is not None:
                self.writer.add_scalar(f"spikeshrink/{name}", check.estimate, epoch)
            if name in self.stop and check.interval is not None and check.interval[0] > self.stop[name]:
                broken.append(f"{name} {check.estimate:.4g} > {self.stop[name]:g}")
        if broken:
            print(f"epoch {epoch}: {', '.join(broken)}", file=sys.stderr)
        return bool(broken)
