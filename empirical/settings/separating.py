"""How the causes of a spread that theory does not foresee are told apart at one decay."""

from __future__ import annotations

from empirical.settings.fields import require_at_least, require_at_most
from theory.model.setting import Setting, keyword_setting

__all__ = ["SeparationSetting"]


@keyword_setting
class SeparationSetting(Setting):
    """Ensembles that part at a checkpoint, where further training at its rate leads, and at the mean over that.

    Args:
        replicas: of each ensemble, ≥ 2.
        scouts: further replicas, at whose positions slopes, λ, γ and eigenvectors are measured, ≥ 3; none is judged.
        before: steps at the old rate, ≥ 2.
        after: steps at the new rate, ≥ 2.
        factor: new rate over old.
        records: records before and after the drop, evenly spaced, ≥ 2.
        epochs: of further training at the checkpoint's rate, ≥ 1.
        seed: first root seed of the replicas; scouts' follow theirs.

    Raises:
        ValueError: if a value is out of range.
    """

    replicas: int = 128
    scouts: int = 32
    before: int = 60
    after: int = 40
    factor: float = 0.1
    records: int = 20
    epochs: int = 20
    seed: int = 3_000_000

    def __post_init__(self) -> None:
        require_at_least(self, replicas=2, scouts=3, before=2, after=2, records=2, epochs=1, seed=0)
        require_at_most(self, replicas=10**6, scouts=10**4, before=10**6, after=10**6, records=10**4, epochs=10**4)
        if not 0 < self.factor <= 1:
            raise ValueError(f"`SeparationSetting(factor=...)` must lie in (0, 1]; got {self.factor}.")
