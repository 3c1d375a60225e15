"""Where the curves of a run can be watched, beside its log: TensorBoard's files, or a project of Weights & Biases.

Both are told the numbers of every epoch's line under the iteration. Neither is read by anything here: the log is what
counts, and a resumed run tells again what came after its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from empirical.settings.training import Training

__all__ = ["Board", "open_boards"]


class Board(Protocol):
    """Something that shows curves."""

    def show(self, line: Mapping[str, Any], iteration: int) -> None:
        """Take the numbers of a line of the log."""

    def close(self) -> None:
        """Write out what is not yet written."""


def open_boards(folder: Path, setting: Training, *, run_id: str, tensorboard: bool, wandb: str | None) -> list[Board]:
    """The boards that were asked for.

    Args:
        folder: of the run; both write their files there.
        setting: what is trained; Weights & Biases shows it.
        run_id: identifies the run, so that a resumed one goes on where it was.
        tensorboard: write TensorBoard events.
        wandb: project of Weights & Biases; None for none.

    Raises:
        ValueError: if the package that one needs is not installed.
    """
    boards: list[Board] = []
    if tensorboard:
        boards.append(_TensorBoard(folder))
    if wandb is not None:
        boards.append(_WeightsAndBiases(folder, setting, run_id, wandb))
    return boards


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if isinstance(value, float)}


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("`--tensorboard` needs the package tensorboard; install the extra `empirical`.") from None
        self._writer = SummaryWriter(str(folder))

    def show(self, line: Mapping[str, Any], iteration: int) -> None:
        for key, value in _numbers(line).items():
            self._writer.add_scalar(key, value, iteration)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, setting: Training, run_id: str, project: str) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError("`--wandb` needs the package wandb; install it beside this one.") from None
        self._run: Any = wandb.init(
            project=project, id=run_id, name=folder.name, config=setting.to_dict(), dir=str(folder), resume="allow"
        )

    def show(self, line: Mapping[str, Any], iteration: int) -> None:
        self._run.log(_numbers(line), step=iteration)

    def close(self) -> None:
        self._run.finish()
