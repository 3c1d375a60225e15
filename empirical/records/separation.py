"""Records of ensembles that tell apart why replicas do not spread as the law at their checkpoint says."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import IDENTITY, Part, axes, part
from empirical.records.dynamics import InFrozenBasis
from empirical.settings import SeparationSetting

__all__ = ["Centre", "Directions", "MovedLaw", "Separation"]


@part
class Directions(Part):
    """Some directions, what predicts along them, and the replicas' motion in them.

    Args:
        curvatures: uᵢᵀHuᵢ.
        slope_variances: per-sample γ.
        repeated_share: ρ_b.
        positions: uᵢᵀ(w − w_centre).
    """

    curvatures: Annotated[NDArray[np.float64], axes("directions")]
    slope_variances: Annotated[NDArray[np.float64], axes("directions")]
    repeated_share: Annotated[NDArray[np.float64], axes("directions")]
    positions: Annotated[NDArray[np.float64], axes("records", "replicas", "directions")]


@part
class MovedLaw(Part):
    """What scouts meet along some directions, at their positions and, in the last place, at their mean.

    Inputs are those that the attack finds at each place, held there; of `fixed_slopes` those of the centre.

    Args:
        steps: when the scouts were looked at.
        curvatures: uᵢᵀH(w)uᵢ.
        slope_variances: per-sample γ.
        positions: uᵢᵀ(w − w_centre).
        slopes: uᵢ·∇L(w), weight decay left out.
        fixed_slopes: likewise, the centre's inputs held.
    """

    steps: Annotated[NDArray[np.int64], axes("moments")]
    curvatures: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]
    slope_variances: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]
    positions: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]
    slopes: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]
    fixed_slopes: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]


@part
class Centre(Part):
    """An ensemble that parts at a centre.

    Args:
        start_position: batches of the epoch under way that are done there.
        distance: ‖w_centre − w_checkpoint‖.
        own: the centre's own eigenvectors; λ and γ there.
        drift: ‖mean displacement‖ in all of weight space, at each record.
        spread: square root of the trace of the replicas' covariance there.
    """

    start_position: int
    distance: float
    own: Directions
    drift: Annotated[NDArray[np.float64], axes("records")]
    spread: Annotated[NDArray[np.float64], axes("records")]


@part
class Separation(InFrozenBasis):
    """Why the spread of replicas is not what the law at their checkpoint says: an experiment for each explanation.

    Args:
        separation: how many replicas, how far, how much further training.
        steps: since the replicas parted, at each record.
        learning_rates: the rate of every step.
        checkpoint: replicas that part at the checkpoint.
        later: after further training at the same rate.
        average: at the running mean of weights and momentum over that training.
        moved: what scouts of `checkpoint` meet along its own eigenvectors.
        first_half: eigenvectors of one half of the data; λ and γ of the other half. Replicas of `checkpoint`, like all
            that follow.
        second_half: the other way round.
        elsewhere: eigenvectors at the position of a scout when the rate drops; λ and γ at the checkpoint.
        local: eigenvectors of the mean Hessian at scouts' positions when the rate drops; λ and γ at the checkpoint.
        local_moved: what scouts meet along those.
    """

    experiment: ClassVar[str] = "separation"

    separation: Annotated[SeparationSetting, IDENTITY]
    steps: Annotated[NDArray[np.int64], axes("records")]
    learning_rates: Annotated[NDArray[np.float64], axes("all steps")]
    checkpoint: Centre
    later: Centre
    average: Centre
    moved: MovedLaw
    first_half: Directions
    second_half: Directions
    elsewhere: Directions
    local: Directions
    local_moved: MovedLaw

    @property
    def drop(self) -> int:
        """Step at which the rate drops."""
        return self.separation.before
