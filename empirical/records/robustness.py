"""The record of a strong evaluation: which attack broke each image first."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import IDENTITY, Record, axes, part
from empirical.records.run import OfRun
from empirical.settings import Training
from empirical.settings.robustness import Robustness

__all__ = ["RobustAccuracy"]


@part
class RobustAccuracy(Record, OfRun):
    """Robust accuracy of a checkpoint on one set of images.

    Args:
        training: what was trained; of weights of other people, what their protocol is taken to be.
        robustness: the attacks.
        checkpoint_digest: SHA-256 of the file.
        images: the set, such as "cifar10 test" or "fog-3".
        iteration: steps done.
        data_digest: of the images and labels.
        first_failure: for each image 0 if it was misclassified unperturbed, k if the k-th attack was the first to break
            it, one more than there are attacks if none did.
    """

    experiment: ClassVar[str] = "robust-accuracy"

    training: Annotated[Training, IDENTITY]
    robustness: Annotated[Robustness, IDENTITY]
    checkpoint_digest: Annotated[str, IDENTITY]
    images: Annotated[str, IDENTITY]
    iteration: Annotated[int, IDENTITY]
    data_digest: str
    first_failure: Annotated[NDArray[np.int64], axes("images")]

    def correct(self, attacks: int) -> int:
        """Images still classified correctly after the first so many attacks; 0: unperturbed."""
        return int((self.first_failure > attacks).sum())

    def accuracy(self, attacks: int) -> float:
        """Their share."""
        return self.correct(attacks) / len(self.first_failure)
