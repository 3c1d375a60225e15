"""The assumptions of a Lightning run, measured every few epochs: `AssumptionCallback` (``pip install lightning``).

callback = AssumptionCallback(nn.CrossEntropyLoss(reduction="none"), every=5, stop={"stability": 1.0})
Trainer(callbacks=[callback]).fit(module, loader)
print(callback.reports)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from empirical.monitor import AssumptionMonitor

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    try:
        from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]  (its older name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError("empirical.lightning needs Lightning: pip install lightning") from None

if TYPE_CHECKING:
    from empirical.measure.assumptions import AssumptionReport

__all__ = ["AssumptionCallback"]


class AssumptionCallback(Callback):
    """Measures the assumptions at the end of an epoch, logs them to the trainer's loggers, and stops at an edge.

    Args:
        loss: as for `empirical.check_assumptions`; the model is the LightningModule.
        batches: what is measured; None: the trainer's training batches.
        every: epochs between measurements, the first after the first epoch.
        budget: seconds a measurement, or such as "30 s".
        stop: quantity to its largest value: training stops once a whole interval lies above.
        settings: other arguments of `check_assumptions`, such as ``{"stochastic": "freeze"}``.

    Attributes:
        reports: epoch to report.

    Raises:
        ValueError: as `AssumptionMonitor`, when training starts; if the run has several optimizers.
    """

    def __init__(
        self,
        loss: Any,
        batches: Iterable[Any] | None = None,
        *,
        every: int = 1,
        budget: float | str = "30 s",
        stop: Mapping[str, float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.loss, self.batches, self.every, self.budget = loss, batches, every, budget
        self.stop, self.settings = stop, settings
        self.monitor: AssumptionMonitor | None = None

    @property
    def reports(self) -> dict[int, AssumptionReport]:
        """Epoch to report."""
        return {} if self.monitor is None else self.monitor.reports

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what cannot be watched before anything is trained."""
        if len(trainer.optimizers) != 1:
            raise ValueError(f"`AssumptionCallback` judges a run of one optimizer; got {len(trainer.optimizers)}.")
        self.monitor = AssumptionMonitor(
            pl_module,
            self.loss,
            () if self.batches is None else self.batches,
            trainer.optimizers[0],
            every=self.every,
            budget=self.budget,
            writer=_Loggers(trainer),
            stop=self.stop,
            settings=self.settings,
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure if it is time."""
        assert self.monitor is not None, "Lightning starts a fit before it ends an epoch"
        if self.batches is None:
            self.monitor.batches = trainer.train_dataloader
        # The measurement copies the module, which must not drag the trainer along.
        pl_module.trainer = None
        try:
            stop = self.monitor(trainer.current_epoch)
        finally:
            pl_module.trainer = trainer
        if stop:
            trainer.should_stop = True


class _Loggers:
    """A trainer's loggers as a writer of scalars."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics({tag: scalar_value}, step=global_step)
