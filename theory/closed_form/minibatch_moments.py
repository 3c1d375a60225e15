r"""Second moments of momentum SGD along real mini-batches whose curvature varies, step by step and in the long run.

Model     With δ = w − w₀ in k tracked directions, sample n has the gradient s_n + A_n δ; a batch B the mean of its own,
          g_B(δ) = s_B + A_B δ, plus κδ of weight decay (its pull κw₀ at w₀ belongs into the slopes). One step is affine
          in x = (1, δ, v):  x₊ = (Φ + G D_B) x,  D_B = [s_B − s̄, A_B − Ā].  Wanted: V = E x xᵀ.                    (P2)
Noise     C is the covariance of the mini-batch gradient. With S² the covariance of [s_n, A_n] over samples, divisor
          N − 1, a batch of size b has the covariance S²(1/b)(1 − 1/N) with replacement, S²(1/b − 1/N) without, and the
          batches t, u of one shuffled epoch have S²(δ_tu/b_t − 1/N): exact for uneven batches and a dropped rest.
White     Batches independent: V₊ = Φ V Φᵀ + G T(V) Gᵀ, T(V) = E D_B V D_Bᵀ. Exact.                               (1)
Shuffled  The covariance above is that of white noise S²δ_tu/b_t plus a shift common to the epoch, z, of covariance
          −S²/N, that is i times a real one. So V is the white law with the means shifted by iz, averaged over z:
          the slopes' share of z exactly (the state is affine in it), the curvatures' share to second order. To this is
          added what is not Gaussian: within its epoch a sample's curvature never acts on the kick of the same sample.
          With X_t = (1[t = τ] − b_t/N)/b_t the share of step t in a sample drawn at step τ, the first and second
          response of the state to it are
              a_i(τ) = Σ_t h_i(t) X_t,   κ_ij(τ) = Σ_{t>u} h_i(t) h_j(u→t) X_t X_u,
              ΔV_ab = N²/((N−1)(N−2)) Σ_n E_τ[ s_na a_a  Σ_j A_n,bj s_nj κ_bj ] + transpose,                       (2)
          N²/((N−1)(N−2)) being exact for a population's third moments.
Order     In ε, the size of A_n − Ā: (P1) is the order ε⁰, (2) completes ε¹ exactly; of ε² the pairs between A, A and
          s, s are whole, the pairs between A, s and A, s in part, fourth cumulants, of relative size κ₄/N, are missing.
          At ε = 1, η = .1, μ = .9, 32 of 300 images of digits: ten closed directions of a softmax regression within 3 %
          at every record of four epochs, where (P1) is off by 54 %; the same among 650 directions within 14 %, where
          45 are tracked within 10 % (what is left is the rest's own noise, see `Outside`).
Outside   What lies outside the tracked space acts through the couplings Q_n (k × outside) on δ_out: see `Outside`.
Limits    A_n = Ā: (P1); moreover stationary: (S2) and (N2). Stationary, white, A_n = x_n x_nᵀ: `ridge_regression_law`.
Oracle    `theory.oracle.affine_batches` draws real batches, and enumerates every order of small epochs.
Source    Own derivation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, gmres

from theory.closed_form.mode_response import ModeResponse, mode_response
from theory.closed_form.outside import Outside, OutsidePath, white_scale
from theory.closed_form.stability import one_group
from theory.model.optimizer import MomentumSGD
from theory.model.regression import Sampling
from theory.solution import NumericalError, UnstableError

Array = NDArray[np.float64]

#: Share of the curvatures' variance over samples that the directions of the common shift cover.
_COVERED = 1.0 - 1e-4


@dataclass(frozen=True, kw_only=True)
class MinibatchMoments:
    """Moments of the state z = (δ, v) after each recorded step.

    Args:
        steps: steps done, shape ``(R,)``; under the long-run law of shuffled epochs, steps into the epoch, 1 … M.
        state_mean: E z, shape ``(R, 2k)``.
        state_covariance: Cov z, shape ``(R, 2k, 2k)``.
        growth: spectral radius of one step's (white) or one epoch's (shuffled) map of second moments; None for a path.
    """

    steps: NDArray[np.int64]
    state_mean: Array
    state_covariance: Array
    growth: float | None = None

    @property
    def mean(self) -> Array:
        """E δ, shape ``(R, k)``."""
        return self.state_mean[:, : self.state_mean.shape[1] // 2]

    @property
    def covariance(self) -> Array:
        """Cov δ, shape ``(R, k, k)``."""
        k = self.state_mean.shape[1] // 2
        return self.state_covariance[:, :k, :k]

    @property
    def second(self) -> Array:
        """E δδᵀ, shape ``(R, k, k)``."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]


def minibatch_second_moments(
    slopes: ArrayLike,
    curvatures: ArrayLike,
    optimizer: MomentumSGD,
    learning_rates: ArrayLike,
    batch_sizes: int | Sequence[int],
    *,
    sampling: Sampling | str = Sampling.SHUFFLED_EPOCHS,
    start_position: int = 0,
    initial_mean: ArrayLike | None = None,
    initial_covariance: ArrayLike | None = None,
    record: Sequence[int] | None = None,
    fresh: ArrayLike | None = None,
    outside: Sequence[Outside] = (),
) -> MinibatchMoments:
    """Mean and covariance of the weights at every recorded step, equation (P2): exact white, else to the order stated.

    Args:
        slopes: s_n, the per-sample gradients at w₀ along the tracked directions (with the weight decay's pull κw₀ where
            there is one), shape ``(N, k)``, N ≥ 3.
        curvatures: A_n, the per-sample Hessians in these directions, shape ``(N, k, k)``; or factors ``(N, k)`` or
            ``(N, k, r)`` of A_n = V_n V_nᵀ when `slopes` is two-dimensional and r ≠ k.
        optimizer: momentum, Nesterov, dampening, weight decay and form; its own learning rate is not used.
        learning_rates: the rate of each of T steps, shape ``(T,)``.
        batch_sizes: sizes of an epoch's batches in order, repeated for ever; a number b stands for b, b, … and, under
            shuffled epochs, the rest of N as the last batch. A sequence may leave a rest out (`drop_last`).
        sampling: how batches are drawn.
        start_position: batches of the current epoch already done at step 0. Which samples they held is not known.
        initial_mean: E z at step 0, z = (δ, v), shape ``(2k,)``; by default 0.
        initial_covariance: Cov z at step 0, shape ``(2k, 2k)``; by default 0, replicas of one checkpoint.
        record: steps (1 … T) wanted, rising; by default all.
        fresh: covariance of one sample's slope that is new at every visit (augmentation, attack starts), ``(k, k)``.
        outside: what the untracked directions do to the tracked ones.

    Raises:
        ValueError: if an argument has another shape or is out of range.
    """
    law = _Law.of(slopes, curvatures, optimizer, batch_sizes, sampling, fresh, outside, "minibatch_second_moments")
    rates = np.atleast_1d(np.asarray(learning_rates, dtype=np.float64))
    if rates.ndim != 1 or not len(rates) or not (np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError("`minibatch_second_moments(learning_rates=...)` must be a vector of rates > 0.")
    count = len(law.sizes)
    if not 0 <= start_position < count:
        raise ValueError(
            f"`minibatch_second_moments(start_position=...)` must lie in [0, {count - 1}]; got {start_position}."
        )
    wanted = np.arange(1, len(rates) + 1) if record is None else np.asarray(record, dtype=np.int64)
    if not len(wanted) or wanted[0] < 1 or wanted[-1] > len(rates) or np.any(np.diff(wanted) <= 0):
        raise ValueError(
            f"`minibatch_second_moments(record=...)` must rise within 1 … {len(rates)}; got {wanted.tolist()}."
        )
    moment = law.start(initial_mean, initial_covariance)
    kept, done, position, mean = [], 0, start_position, moment[:, 0]
    paths = [OutsidePath.still(part) for part in law.outside]
    chosen = set(wanted.tolist())
    while done < len(rates):
        stretch = min(count - position, len(rates) - done)
        ahead = rates[done : done + stretch]
        inside = law.epoch(moment, ahead, position, mean[1 : law.width + 1], paths)
        for rate in ahead:
            mean = law.step(rate)[0] @ mean
        kept += [state for step, state in enumerate(inside, start=done + 1) if step in chosen]
        moment, done, position = inside[-1], done + stretch, 0
    return law.moments(wanted, kept)


def stationary_minibatch_moments(
    slopes: ArrayLike,
    curvatures: ArrayLike,
    optimizer: MomentumSGD,
    batch_sizes: int | Sequence[int],
    *,
    sampling: Sampling | str = Sampling.SHUFFLED_EPOCHS,
    fresh: ArrayLike | None = None,
    outside: Sequence[Outside] = (),
) -> MinibatchMoments:
    """The law that (P2) settles into: one record for independent batches, one after each step of a shuffled epoch.

    Args:
        slopes: as in `minibatch_second_moments`.
        curvatures: as there; their mean with weight decay must be positive definite.
        optimizer: with its learning rate.
        batch_sizes: as there; for independent batches one size.
        sampling: as there.
        fresh: as there.
        outside: as there.

    Raises:
        ValueError: as there, or if independent batches have several sizes.
        UnstableError: if no stationary second moment exists.
        NumericalError: if the linear solve did not converge.
    """
    where = "stationary_minibatch_moments"
    law = _Law.of(slopes, curvatures, optimizer, batch_sizes, sampling, fresh, outside, where)
    if not law.shuffled and len(law.sizes) > 1:
        raise ValueError(f"`{where}(batch_sizes=...)` must be one size for independent batches; got {law.sizes}.")
    if not law.mean_curvatures.min() > 0:
        raise UnstableError(
            f"`{where}(curvatures=...)` must have a positive definite mean; got {law.mean_curvatures.min():.6g}."
        )
    rates = np.full(len(law.sizes), optimizer.learning_rate)
    growth = _spectral_radius(lambda state: law.epoch(state, rates, 0, None)[-1], 2 * law.width)
    if not growth < 1.0:
        raise UnstableError(
            f"`{where}` needs a stationary second moment, growth < 1; got {growth:.6g} at η = "
            f"{optimizer.learning_rate:.6g} and batches of {max(law.sizes)}."
        )
    paths = [OutsidePath.settled(part, optimizer, law.sizes, law.num_samples, law.sampling) for part in law.outside]
    mean = np.zeros(2 * law.width)
    mean[: law.width] = -law.mean_slope / law.mean_curvatures
    start = law.lifted(mean, np.zeros((2 * law.width,) * 2))

    def after(state: Array) -> Array:
        return law.epoch(state, rates, 0, mean[: law.width], paths)[-1]

    drive = after(start) - start
    scale = np.sqrt(np.maximum(np.diag(drive), 0.0))
    scale = np.where(scale > 1e-9 * scale.max(initial=0.0), scale, max(scale.max(initial=0.0), 1e-300))
    scale[0] = 1.0
    weight = np.multiply.outer(scale, scale)

    def defect(flat: Array) -> Array:
        state = flat.reshape(drive.shape) * weight
        state[0, 0] = 0.0
        return ((state - law.epoch(state, rates, 0, None)[-1]) / weight).ravel()

    right = (drive / weight).ravel()
    operator = LinearOperator((right.size, right.size), matvec=defect, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    flat, _ = gmres(operator, right, rtol=1e-12, atol=0.0, restart=min(200, right.size), maxiter=20)
    size = float(np.linalg.norm(right) + np.linalg.norm(flat)) + 1e-300
    residual = float(np.linalg.norm(defect(flat) - right)) / size
    if residual > 1e-9:
        raise NumericalError(f"`{where}`: the fixed point was not reached; relative residual {residual:.3g}.")
    settled = flat.reshape(drive.shape) * weight
    moment = start + 0.5 * (settled + settled.T)
    inside = law.epoch(moment, rates, 0, mean[: law.width], paths)
    return replace(law.moments(np.arange(1, len(inside) + 1), inside), growth=growth)


@dataclass(frozen=True)
class _Law:
    """Samples in the eigenbasis of their mean curvature, where one step's mean map couples no two directions."""

    basis: Array  # (k, k), eigenvectors of Ā in columns
    mean_curvatures: Array  # eigenvalues of Ā + κ, (k,)
    mean_slope: Array  # s̄, (k,)
    slopes: Array  # s_n − s̄, (N, k)
    curvatures: Array  # A_n − Ā, (N, k, k)
    pairs: Array  # W ↦ T(W) per unit of 1/b, divisor N − 1, shape (k², (k+1)²)
    shifts: Array  # directions of the common shift, [ζ_r, Z_r] with Σ_r of their outer products S²/N, (P, k, k+1)
    slope_cov: Array  # S² of the slopes over N, (k, k)
    fresh: Array  # (k, k)
    optimizer: MomentumSGD
    sizes: tuple[int, ...]
    sampling: Sampling
    outside: tuple[Outside, ...]
    steps: dict[float, tuple[Array, Array, ModeResponse]]  # by learning rate

    @classmethod
    def of(
        cls,
        slopes: ArrayLike,
        curvatures: ArrayLike,
        optimizer: MomentumSGD,
        batch_sizes: int | Sequence[int],
        sampling: Sampling | str,
        fresh: ArrayLike | None,
        outside: Sequence[Outside],
        where: str,
    ) -> _Law:
        one_group(optimizer)
        s, a = checked_samples(slopes, curvatures, where)
        count, k = s.shape
        scheme = Sampling(sampling)
        sizes = _checked_sizes(batch_sizes, count, scheme, where)
        extra = np.zeros((k, k)) if fresh is None else np.asarray(fresh, dtype=np.float64)
        if extra.shape != (k, k) or not np.isfinite(extra).all():
            raise ValueError(f"`{where}(fresh=...)` must be finite, shape {(k, k)}; got {extra.shape}.")
        for part in outside:
            if part.coupling.shape != (k, k):
                raise ValueError(f"`{where}(outside=...)` must couple to {k} directions; got {part.coupling.shape}.")
        values, basis = np.linalg.eigh(a.mean(axis=0))
        turned = np.einsum("ia,nij,jb->nab", basis, a, basis, optimize=True)
        deviating = turned - turned.mean(axis=0)
        s = s @ basis
        centred = s - s.mean(axis=0)
        whole = np.concatenate([centred[:, :, None], deviating], axis=2)
        flat = whole.reshape(count, -1)
        fourth = (flat.T @ flat / (count - 1)).reshape(k, k + 1, k, k + 1)
        shuffled = scheme is Sampling.SHUFFLED_EPOCHS
        return cls(
            basis=basis,
            mean_curvatures=values + optimizer.weight_decay,
            mean_slope=s.mean(axis=0),
            slopes=centred,
            curvatures=deviating,
            pairs=fourth.transpose(0, 2, 1, 3).reshape(k * k, (k + 1) ** 2),
            shifts=_shifts(whole) if shuffled else np.zeros((0, k, k + 1)),
            slope_cov=centred.T @ centred / ((count - 1) * count),
            fresh=basis.T @ extra @ basis,
            optimizer=optimizer,
            sizes=sizes,
            sampling=scheme,
            outside=tuple(part.turned(basis) for part in outside),
            steps={},
        )

    @property
    def width(self) -> int:
        """Tracked directions k."""
        return len(self.mean_slope)

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.slopes)

    @property
    def shuffled(self) -> bool:
        """Whether the batches of an epoch share a permutation."""
        return self.sampling is Sampling.SHUFFLED_EPOCHS

    def start(self, mean: ArrayLike | None, covariance: ArrayLike | None) -> Array:
        """V at step 0."""
        size = 2 * self.width
        first = np.zeros(size) if mean is None else np.asarray(mean, dtype=np.float64)
        second = np.zeros((size, size)) if covariance is None else np.asarray(covariance, dtype=np.float64)
        if first.shape != (size,) or not np.isfinite(first).all():
            raise ValueError(f"`initial_mean` must be finite, shape {(size,)}; got {first.shape}.")
        if second.shape != (size, size) or not np.isfinite(second).all():
            raise ValueError(f"`initial_covariance` must be finite, shape {(size, size)}; got {second.shape}.")
        double = np.kron(np.eye(2), self.basis)
        return self.lifted(double.T @ first, double.T @ second @ double)

    def lifted(self, mean: Array, covariance: Array) -> Array:
        """E x xᵀ, x = (1, z)."""
        whole = np.concatenate([[1.0], mean])
        moment = np.multiply.outer(whole, whole)
        moment[1:, 1:] += covariance
        return moment

    def moments(self, steps: NDArray[np.int64], states: Sequence[Array]) -> MinibatchMoments:
        """Back in the caller's coordinates."""
        stacked, double = np.array(states), np.kron(np.eye(2), self.basis)
        mean = stacked[:, 0, 1:]
        covariance = double @ (stacked[:, 1:, 1:] - mean[:, :, None] * mean[:, None, :]) @ double.T
        return MinibatchMoments(
            steps=np.asarray(steps),
            state_mean=mean @ double.T,
            state_covariance=0.5 * (covariance + covariance.transpose(0, 2, 1)),
        )

    def step(self, rate: float) -> tuple[Array, Array, ModeResponse]:
        """Φ ``(n, n)`` and G ``(n, k)`` at a learning rate, n = 2k + 1; and the response mode by mode."""
        known = self.steps.get(float(rate))
        if known is not None:
            return known
        k = self.width
        response = mode_response(
            self.mean_curvatures, replace(self.optimizer, learning_rate=float(rate), weight_decay=0.0)
        )
        move, push = np.zeros((2 * k + 1,) * 2), np.zeros((2 * k + 1, k))
        push[1:] = np.vstack([np.diag(response.noise_input[:, 0]), np.diag(response.noise_input[:, 1])])
        move[0, 0] = 1.0
        move[1:, 0] = push[1:] @ self.mean_slope
        blocks = [[np.diag(response.transition[:, row, column]) for column in (0, 1)] for row in (0, 1)]
        move[1:, 1:] = np.block(blocks)
        self.steps[float(rate)] = move, push, response
        return move, push, response

    def white(self, moment: Array, scale: float) -> Array:
        """T(V) at `scale` in units of S², for one moment or a stack of them, ``(…, k, k)``."""
        k = self.width
        seen = moment[..., : k + 1, : k + 1].reshape(*moment.shape[:-2], (k + 1) ** 2)
        return scale * (seen @ self.pairs.T).reshape(*moment.shape[:-2], k, k)

    def epoch(
        self,
        moment: Array,
        rates: Array,
        position: int,
        center: Array | None,
        paths: Sequence[OutsidePath] = (),
    ) -> list[Array]:
        """V after every step of (the rest of) an epoch that begins with V = `moment`.

        Args:
            moment: V; its corner, E 1·1, is 0 where only the linear part is wanted.
            rates: one a step.
            position: of the first step in the epoch.
            center: weights at which slopes are taken in equation (2), those of the full gradient's path; None leaves
                out all that does not depend on `moment`.
            paths: of the untracked directions, carried on in place.
        """
        shuffled, driven = self.shuffled, center is not None
        own = _OwnKick(self, center) if shuffled and center is not None else None
        shift = _CommonShift(self, moment, driven) if shuffled else None
        for path in paths:
            path.begin(self.width, len(self.sizes))
        states = []
        for offset, rate in enumerate(rates):
            size = self.sizes[(position + offset) % len(self.sizes)]
            move, push, response = self.step(rate)
            scale = white_scale(size, self.num_samples, self.sampling)
            new = move @ moment @ move.T
            new = new + push @ self.white(moment, scale) @ push.T
            added = np.zeros_like(new)
            if own is not None:
                added[1:, 1:] += own.advance(response, position + offset, size)
            for path in paths:
                added[1:, 1:] += path.advance(
                    response,
                    replace(self.optimizer, learning_rate=float(rate)),
                    sizes=self.sizes,
                    position=position + offset,
                    num_samples=self.num_samples,
                    sampling=self.sampling,
                )
            if driven:
                added += push @ self.fresh @ push.T / size
            new = new + added
            if shift is not None:
                new = new + shift.advance(move, push, scale, added)
            moment = 0.5 * (new + new.T)
            states.append(moment)
        return states


class _CommonShift:
    """The epoch's common shift i z: the slopes' part exactly, the curvatures' to second order.

    Along shift direction r, x₊ = (Φ + ξ_r G Ẑ_r) x with ξ_r standard normal times i. With M the moment without the
    curvatures' shift, M_r and M_rr its derivatives in ξ_r, V = M − ½ Σ_r M_rr, and every source below follows from
    differentiating the step. A shift ρ of the slopes of covariance −R moves x along Q ρ, Q₊ = Φ Q + G, and adds
    −(Φ Q R Gᵀ + G R Qᵀ Φᵀ + G R Gᵀ) to each step of V.
    """

    def __init__(self, law: _Law, moment: Array, driven: bool) -> None:
        size, k, rank = len(moment), law.width, len(law.shifts)
        self.law, self.driven = law, driven
        self.moment = moment
        self.first = np.zeros((rank, size, size))  # M_r
        self.reach = np.zeros((size, k))  # Q
        self.reach_first = np.zeros((rank, size, k))
        self.reach_second = np.zeros((size, k))  # summed over r
        along = law.shifts[:, :, 0]
        # The curvatures' directions carry their correlation with the slopes; what is left of the slopes' own variance:
        self.rest = law.slope_cov - along.T @ along

    def advance(self, move: Array, push: Array, scale: float, driving: Array) -> Array:
        """What the shift adds to V in this step, where other sources add `driving`; then one step on."""
        law, k = self.law, self.law.width
        pull = np.zeros_like(self.first)
        pull[:, :, : k + 1] = push @ law.shifts
        added = -_both(np.tensordot(pull, self.first, axes=((0, 2), (0, 1))) @ move.T) - np.tensordot(
            pull @ self.moment, pull, axes=((0, 2), (0, 2))
        )
        first = move @ self.first @ move.T + push @ law.white(self.first, scale) @ push.T
        first += _both(pull @ self.moment @ move.T)
        moment = move @ self.moment @ move.T + push @ law.white(self.moment, scale) @ push.T + driving
        if self.driven:
            whole, into = law.slope_cov @ push.T, push @ self.rest @ push.T
            carried = move @ self.reach
            second = move @ self.reach_second + 2.0 * np.tensordot(pull, self.reach_first, axes=((0, 2), (0, 1)))
            moved = move @ self.reach_first + pull @ self.reach
            added += -_both(carried @ self.rest @ push.T) - into + 0.5 * _both(second @ whole)
            first -= _both(moved @ whole)
            moment -= _both(carried @ whole) + push @ whole
            self.reach, self.reach_first, self.reach_second = carried + push, moved, second
        self.moment, self.first = moment, first
        return added


class _OwnKick:
    """Equation (2): a sample's curvature does not act on the sample's own kick."""

    def __init__(self, law: _Law, mean: Array) -> None:
        count, places = law.num_samples, len(law.sizes)
        self.law = law
        slopes = law.slopes + law.curvatures @ mean
        third = np.einsum("na,nij,nj->aij", slopes, law.curvatures, slopes, optimize=True)
        self.third = third * count**2 / ((count - 1.0) * (count - 2.0))
        self.chance = np.asarray(law.sizes, dtype=np.float64) / count  # of τ; a dropped rest has the remainder
        self.first = np.zeros((places + 1, 2, law.width))  # a; the last row is a sample that the epoch leaves out
        self.second = np.zeros((places + 1, 2, law.width, law.width))  # κ
        self.weight = np.append(self.chance, 1.0 - self.chance.sum())
        self.held = np.zeros((2 * law.width, 2 * law.width))

    def advance(self, response: ModeResponse, position: int, size: int) -> Array:
        """What a step adds to the state's moment beyond carrying on what was added before."""
        move, push = response.transition, response.noise_input
        share = ((np.arange(len(self.weight)) == position) - size / self.law.num_samples) / size
        hit = push.T[None] * share[:, None, None]  # (τ, 2, k)
        second = np.einsum("iab,tbij->taij", move, self.second) + hit[..., None] * self.first[:, None, None, 0, :]
        self.first = np.einsum("iab,tbi->tai", move, self.first) + hit
        self.second = second
        size_all = 2 * self.law.width
        weighed = self.first * self.weight[:, None, None]
        both = np.tensordot(weighed, second, axes=(0, 0))  # (2, k, 2, k, k)
        held = np.einsum("aibmj,imj->aibm", both, self.third).reshape(size_all, size_all)
        held = held + held.T
        flow = np.block([[np.diag(move[:, row, column]) for column in (0, 1)] for row in (0, 1)])
        added, self.held = held - flow @ self.held @ flow.T, held
        return added


def _both(matrix: Array) -> Array:
    return matrix + np.swapaxes(matrix, -1, -2)


def _shifts(whole: Array) -> Array:
    """Directions [ζ_r, Z_r] of the common shift, strongest first, until the curvatures' variance is covered."""
    count = len(whole)
    left, singular, _ = np.linalg.svd(whole[:, :, 1:].reshape(count, -1), full_matrices=False)
    power = singular**2
    if not power[0] > 0:
        return np.zeros((0, *whole.shape[1:]))
    rank = int(np.searchsorted(np.cumsum(power), _COVERED * power.sum())) + 1
    return np.tensordot(left[:, :rank].T, whole, axes=(1, 0)) / np.sqrt(count * (count - 1.0))


def _spectral_radius(operator: Callable[[Array], Array], states: int) -> float:
    size = states + 1

    def apply(flat: Array) -> Array:
        moment = np.zeros((size, size))
        moment[1:, 1:] = 0.5 * _both(np.real(flat).reshape(states, states))
        return operator(moment)[1:, 1:].ravel()

    if states <= 6:
        columns = [apply(unit) for unit in np.eye(states * states)]
        return float(np.abs(np.linalg.eigvals(np.array(columns))).max())
    linear = LinearOperator((states**2, states**2), matvec=apply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    try:
        found = eigs(linear, k=1, which="LM", v0=np.eye(states).ravel(), return_eigenvectors=False)
    except ArpackNoConvergence as error:
        raise NumericalError(f"the growth of second moments was not found: {error}.") from None
    return float(np.abs(found).max())


def checked_samples(slopes: ArrayLike, curvatures: ArrayLike, where: str) -> tuple[Array, Array]:
    """Slopes ``(N, k)`` and symmetric curvatures ``(N, k, k)`` as float64.

    Raises:
        ValueError: naming what has another shape, is not finite or not symmetric.
    """
    s, a = np.asarray(slopes, dtype=np.float64), np.asarray(curvatures, dtype=np.float64)
    if s.ndim != 2 or len(s) < 3 or not s.shape[1]:
        raise ValueError(f"`{where}(slopes=...)` must have shape (N >= 3, k >= 1); got {s.shape}.")
    if a.ndim == 2 and a.shape == s.shape:
        a = a[:, :, None] * a[:, None, :]
    elif a.ndim == 3 and a.shape[:2] == s.shape and a.shape[2] != s.shape[1]:
        a = a @ a.transpose(0, 2, 1)
    if a.shape != (*s.shape, s.shape[1]):
        raise ValueError(
            f"`{where}(curvatures=...)` must be {(*s.shape, s.shape[1])} matrices or factors; got {a.shape}."
        )
    if not (np.isfinite(s).all() and np.isfinite(a).all()):
        raise ValueError(f"`{where}(slopes, curvatures)` must be finite; some are not.")
    if np.abs(a - a.transpose(0, 2, 1)).max() > 1e-6 * np.abs(a).max():
        raise ValueError(f"`{where}(curvatures=...)` must be symmetric; some are not.")
    return s, 0.5 * (a + a.transpose(0, 2, 1))


def _checked_sizes(batch_sizes: int | Sequence[int], count: int, sampling: Sampling, where: str) -> tuple[int, ...]:
    if np.ndim(batch_sizes) == 0:
        size = int(np.asarray(batch_sizes))
        sizes = (size,)
        if sampling is Sampling.SHUFFLED_EPOCHS and 1 <= size <= count:
            sizes = (size,) * (count // size) + ((count % size,) if count % size else ())
    else:
        sizes = tuple(int(size) for size in np.asarray(batch_sizes).tolist())
    if not sizes or min(sizes) < 1 or max(sizes) > count:
        raise ValueError(f"`{where}(batch_sizes=...)` must lie in [1, {count}]; got {list(sizes)}.")
    if sampling is Sampling.SHUFFLED_EPOCHS and sum(sizes) > count:
        raise ValueError(f"`{where}(batch_sizes=...)` must add up to at most {count}; got {sum(sizes)}.")
    return sizes
