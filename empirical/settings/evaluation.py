"""How a network is judged while it trains."""

from __future__ import annotations

from empirical.settings.attack import PGD
from empirical.settings.fields import require_at_least
from theory.model.setting import Setting, keyword_setting, later_field

__all__ = ["Evaluation"]


@keyword_setting
class Evaluation(Setting):
    """How the network is judged while it trains: fixed weights, eval mode, no augmentation, one attack for all splits.

    Args:
        attack: PGD of the evaluation (published: PGD-10 in Rice et al., PGD-20 in AWP).
        every: epochs between evaluations; around decays and at the end there is one every epoch.
        around: epochs before and after each decay, and each placebo decay (the middle of the stage before it), in which
            there is one every epoch; None for 3, at decays alone.
        batch_size: images at once in evaluation.
        train_probe: training images evaluated (the first ones); None for as many as test images.
        masking_probe: test images on which the masking guard runs at the end; 0 for none.

    Raises:
        ValueError: if a value is out of range.
    """

    attack: PGD
    every: int = 1
    around: int | None = later_field()
    batch_size: int = 500
    train_probe: int | None = None
    masking_probe: int = 200

    def __post_init__(self) -> None:
        require_at_least(self, every=1, around=1, batch_size=1, train_probe=1, masking_probe=0)
        if self.attack.batch_norm != "eval":
            raise ValueError(f"`Evaluation(attack=...)` must attack in eval mode; got {self.attack.batch_norm!r}.")
