"""Records with a known truth, for the tests of records and of the claims that consume them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from empirical.records import (
    BoundOverTraining,
    CurvatureAttribution,
    Ensemble,
    Expansion,
    LoggedRun,
    RegimeRun,
    RobustAccuracy,
    Spectrum,
    TrainingRun,
    Trajectory,
)
from empirical.records.dynamics import FiniteCurvature, Frozen, Places, Rungs, SampleLaw, Studies, Study
from empirical.records.log import ImportedLog, Log, LogColumns, Remark
from empirical.records.parts import Estimate, RepeatedShare, SplitMetrics, VarianceEstimates
from empirical.records.spectrum import (
    Alignment,
    BatchSharpness,
    CrossFit,
    Density,
    Gap,
    Lanczos,
    Start,
    Turning,
    WeightNorms,
)
from empirical.records.training import EpochColumns, EpochLine, IterationColumns, MaskingReport, StoredCheckpoint
from empirical.settings import EnsembleSetting, LearningRate, Measurement, make_training
from empirical.settings.design import MEASUREMENT, Regime
from empirical.settings.robustness import Robustness

#: Directions, further pairs, samples.
K, SMALLEST, N = 6, 2, 400


def training(method="at", *, label_noise=0.0, learning_rate=0.1, epochs=120, decay=48.0):
    """A run on digits of 10 iterations an epoch whose rate drops to a tenth at epoch 48 of 120."""
    base = make_training("digits-cpu", method)
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, train_size=320, label_noise=label_noise),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=learning_rate, weight_decay=5e-4),
        schedule=LearningRate(milestones=(decay,) if decay else ()),
        epochs=epochs,
        checkpoint_epochs=(0, epochs),
    )


def variances(values):
    """Estimates with these values, 10 % apart from their ends."""
    values = np.asarray(values, dtype=np.float64)
    return VarianceEstimates(
        values=values,
        standard_errors=0.05 * values,
        kurtosis=np.full(len(values), 3.0),
        low=0.9 * values,
        high=1.1 * values,
        num_samples=N,
        level=0.95,
    )


def alignment(*, cosines=0.95, pairs=K + SMALLEST, influences=None):
    """A pair that nearly commutes."""
    exact = Estimate(value=0.95, probe_error=0.01)
    return Alignment(
        chi=exact,
        chi_bulk=None,
        chi_null=0.01,
        chi_null_quantile=0.02,
        omega=exact,
        omega_null=0.01,
        cosine=Estimate(value=0.8, probe_error=0.01, sampling_error=0.02, low=0.76, high=0.84),
        cosine_null=0.0,
        kappa=0.01,
        trace_hessian=10.0,
        trace_covariance=10.0,
        norm_hessian=5.0,
        norm_covariance=5.0,
        direction_cosines=np.full(pairs, float(cosines)),
        direction_errors=np.full(pairs, 0.01),
        direction_influences=influences,
        direction_null=0.05,
        leak=0.1,
        leak_null=0.9,
        overlap=0.9,
        overlap_size=3,
        slope=1.0,
        slope_error=0.1,
        covariance=np.eye(pairs),
        num_probes=6,
    )


def sharpness(value):
    """Sixteen batches of 32 that agree."""
    return BatchSharpness(
        value=float(value),
        standard_error=0.02 * float(value),
        low=0.96 * float(value),
        high=1.04 * float(value),
        batch_size=32,
        small_batch_limit=2.0,
        large_batch_limit=38.0,
        curvatures=np.full(16, float(value)),
        squares=np.ones(16),
    )


def spectrum(
    epoch,
    *,
    lam=(8.0, 6, 4, 3, 2, 1),
    gamma=(4.0, 3, 2, 1.5, 1, 0.5),
    method="at",
    seed=0,
    wobble=0.01,
    learned=0.9,
    gap=0.1,
    train_loss=0.5,
    label_noise=0.0,
    cosines=0.95,
):
    """One checkpoint: eigenvalues and noise as asked for, samples that scatter about them."""
    rng = np.random.default_rng([epoch, seed, 7])
    common = np.random.default_rng([seed, 8]).standard_normal((N, K))
    spread = np.exp(wobble * rng.standard_normal())
    lam, gamma = np.sort(lam)[::-1] * spread, np.sort(gamma)[::-1] * spread
    projections = (common + 0.1 * rng.standard_normal((N, K))) * np.sqrt(gamma)
    projections *= np.sqrt(gamma / projections.var(axis=0, ddof=1))
    run = training(method, label_noise=label_noise)
    iteration = epoch * 10
    side = SplitMetrics(count=100, clean_loss=0.1, clean_accuracy=0.99, robust_loss=train_loss, robust_accuracy=learned)
    pairs = np.concatenate([lam, [-0.2, -0.1]])
    return Spectrum(
        training=run,
        measurement=Measurement(eigenpairs=K, smallest=SMALLEST),
        iteration=iteration,
        seed=seed,
        learning_rate=0.1 if iteration <= 480 else 0.01,
        next_learning_rate=None,
        data_digest="d",
        has_batch_norm=False,
        num_parameters=1000,
        num_samples=N,
        num_units=N,
        units="samples",
        noise_factor=1 / 32,
        lanczos=Lanczos(
            products=40,
            restarts=1,
            status="converged",
            noise_products=40,
            product_method="double-backward",
            product_seconds={},
        ),
        negative_mass=0.01,
        eigenvalues=pairs,
        residuals=np.full(len(pairs), 1e-6),
        error_bounds=np.full(len(pairs), 1e-9),
        noise_eigenvalues=gamma,
        noise_residuals=np.full(K, 1e-6),
        gamma=variances(projections.var(axis=0, ddof=1)),
        noise_covariance=np.cov(projections, rowvar=False),
        mean_slope=np.zeros(K),
        projections=projections,
        curvature_samples=lam * (1 + 0.3 * common[:, ::-1]),
        losses=np.full(N, train_loss),
        alignment=alignment(
            cosines=cosines, influences=0.2 * np.random.default_rng([seed, 9]).standard_normal((N, K + SMALLEST))
        ),
        gap=Gap(train=side, test=dataclasses.replace(side, robust_loss=train_loss + gap)),
        weights=WeightNorms(norm=10.0, layers={"body.0.weight": 10.0}),
        repeated_share=RepeatedShare(values=np.full(K, 0.9), standard_errors=np.full(K, 0.01), redraws=2),
        cross_fit=CrossFit(eigenvalues=lam[:3], gamma=variances(gamma[:3])),
        sharpness=sharpness(0.5 * lam[0]),
        finite_sharpness=sharpness(0.5 * lam[0]),
        attacked_sharpness=sharpness(0.6 * lam[0]),
        average_curvature=None,
        start=Start(prior_variance=0.01, distance=1.0, displacement=np.full(K, 0.1)),
        eigenvectors=np.zeros((1000, K), dtype=np.float32),
        turning=Turning(angles=np.zeros(K), overlap=1.0, null=0.01, matched_cosines=np.ones(K)),
        layers={"body.0": alignment(pairs=3)},
        hessian_density=Density(
            grid=np.arange(5.0), density=np.ones(5), standard_errors=np.zeros(5), width=0.1, num_probes=4
        ),
        noise_density=None,
        seconds=1.0,
    )


EPOCHS = (0, 12, 22, 23, 24, 25, 26, 29, 36, 46, 47, 48, 49, 50, 53, 60, 72, 84, 96, 108, 120)


def spectra(spike=1.0, noise_spike=1.0, **changes):
    """A run whose λ and γ jump by the factors given at the decay, and stay put otherwise."""
    lam, gamma = np.array([8.0, 6, 4, 3, 2, 1]), np.array([4.0, 3, 2, 1.5, 1, 0.5])
    return [
        spectrum(
            epoch, lam=lam * (spike if epoch > 48 else 1), gamma=gamma * (noise_spike if epoch > 48 else 1), **changes
        )
        for epoch in EPOCHS
    ]


def frozen(lam, gamma):
    """What predicts, at these λ and γ."""
    count = len(lam)
    return Frozen(
        curvatures=np.asarray(lam, dtype=np.float64),
        slope_variances=np.asarray(gamma, dtype=np.float64),
        noise_covariance=np.diag(gamma).astype(np.float64),
        repeated_share=np.full(count, 0.9),
        mean_slope=np.zeros(count),
        momentum=np.zeros(count),
    )


def ensemble(
    *,
    factor=1.0,
    obeys_drop=True,
    replicas=256,
    robust=1.0,
    with_curvature=True,
    with_rungs=True,
    moved=(1.0, 1.0),
    drift=0.0,
    before=60,
    steps=None,
    order="run",
):
    """Replicas that obey (P1) at ``robust`` times the Hessian's curvature.

    Args:
        factor: their variance over that.
        obeys_drop: whether it falls at the drop.
        replicas: how many.
        robust: curvature with the attack run again over the Hessian's.
        with_curvature: whether that was measured.
        with_rungs: whether λ and γ were measured where the replicas are.
        moved: λ and γ there over those at the checkpoint.
        drift: of their mean a step, in standard deviations of the spread at the drop.
        before: steps before the drop.
        steps: of the records; every fourth by default.
        order: of the replicas' sampling.
    """
    from empirical.measure.posterior import shuffled_transient_variance

    run = dataclasses.replace(training(), optimizer=dataclasses.replace(training().optimizer, weight_decay=0.0))
    lam, gamma = np.array([3.0, 1.0, 0.5]), np.array([2.0, 1.0, 0.4])
    rates = np.r_[np.full(before, 0.1), np.full(40, 0.01)]
    steps = np.unique([*range(4, before + 41, 4), before]) if steps is None else np.asarray(steps)
    share = 0.9 if order == "run" else 0.0
    law = functools.partial(
        shuffled_transient_variance, robust * lam, gamma, run.optimizer, num_samples=320, repeated_share=share
    )
    variance = law(rates if obeys_drop else np.full(before + 40, 0.1), [32] * 10, record=steps.tolist())
    (at_drop,) = law(rates, [32] * 10, record=[before])
    positions = (
        np.random.default_rng(0).standard_normal((len(steps), replicas, 3)) * np.sqrt(factor * variance)[:, None]
    )
    positions += drift * np.sqrt(at_drop) * steps[:, None, None]
    scatter = np.random.default_rng(1).standard_normal((320, 3))
    samples = lam * (1 + 0.3 * (scatter - scatter.mean(axis=0)))
    curvature = FiniteCurvature(step=0.05, exact=samples, fixed=samples, robust=robust * samples)
    held = frozen(lam, gamma)
    return Ensemble(
        training=run,
        measurement=Measurement(eigenpairs=3),
        iteration=480,
        ensemble=EnsembleSetting(replicas=replicas, before=before, after=40, order=order),
        seed=0,
        learning_rate=0.1,
        frozen=held,
        curvature=curvature if with_curvature else None,
        vectorized=True,
        steps=steps.astype(np.int64),
        learning_rates=rates,
        positions=positions,
        norms=np.ones(positions.shape[:2]),
        losses=np.ones(positions.shape[:2]),
        rungs=rungs(held, positions, moments=[before, int(steps[-1])], moved=moved) if with_rungs else None,
        seconds=1.0,
    )


def rungs(held, positions, *, moments, moved=(1.0, 1.0)):
    """Simpler dynamics that move as the network does, and λ and γ ``moved`` times the checkpoint's at 16 replicas."""
    count = len(held.curvatures)
    lam, gamma = (
        np.full((len(moments), 17, count), ratio) * values
        for ratio, values in zip(moved, (held.curvatures, held.slope_variances), strict=True)
    )
    nothing = np.zeros((count, count))
    return Rungs(
        law=SampleLaw(
            slopes=np.zeros((320, count)),
            curvatures=np.zeros((320, count, count)),
            mean_slope=np.zeros(count),
            momentum=np.zeros(count),
            outside_curvature=0.0,
            outside_coupling=nothing,
            outside_own=nothing,
        ),
        linearised=positions,
        fixed_inputs=None,
        places=Places(
            steps=np.array(moments, dtype=np.int64),
            curvatures=lam,
            slope_variances=gamma,
            attacked_curvatures=lam,
            attacked_slope_variances=gamma,
        ),
    )


def trajectory(*, window=200):
    """White noise in place of a run."""
    positions = np.random.default_rng(2).standard_normal((window, 3))
    return Trajectory(
        training=training(),
        measurement=Measurement(eigenpairs=3),
        iteration=480,
        window=window,
        seed=0,
        learning_rate=0.1,
        frozen=frozen([3.0, 1.0, 0.5], [2.0, 1.0, 0.4]),
        positions=positions,
        norms=np.ones(window),
        seconds=1.0,
    )


def study(pooled=0.1, half=0.05):
    """One displacement, off by ``pooled``."""
    one = np.array([1.0])
    return Study(
        radii=0.1 * one,
        measured=(1 + pooled) * one,
        predicted=one,
        relative=pooled * one,
        low=(pooled - half) * one,
        high=(pooled + half) * one,
        pooled=pooled,
        pooled_low=pooled - half,
        pooled_high=pooled + half,
    )


def expansion(pooled=0.1, half=0.05):
    """A loss off its quadratic by ``pooled`` along the top directions."""
    found = Studies(
        random=study(), path=study(), top=study(pooled, half), top_tenth=None, top_attacked=study(pooled, half)
    )
    return Expansion(
        training=training(),
        measurement=Measurement(eigenpairs=3),
        iteration=480,
        seed=0,
        learning_rate=0.1,
        studies=found,
        smooth=found,
        seconds=1.0,
    )


def curvature_attribution(seed=0, parts=(-0.2, 0.1, 0.05, 0.0), *, after=530, method="at"):
    """Two directions whose curvature changes by these parts of Δ ln λ after epoch 48."""
    run = training(method)
    parts = np.tile(np.asarray(parts, dtype=np.float64), (2, 1))
    before = np.array([3.0, 2.0])
    values = np.stack([before, before * np.exp(parts.sum(axis=1))])
    return CurvatureAttribution(
        training=run,
        measurement=Measurement(eigenpairs=2, smallest=0),
        seed=seed,
        before=480,
        after=after,
        data_digest="x",
        eigenvalues=values,
        curvatures=values,
        gauss_newton=0.9 * values,
        overlaps=np.ones(2),
        parts=parts,
        saturation=np.array([0.5, 0.4]),
        groups=("a",),
        norms=np.ones((2, 1)),
    )


def bound(values=(1.0, 2.0, 3.0), gap=(0.1, 0.2, 0.3)):
    """A bound and a gap, checkpoint by checkpoint."""
    values, gap = np.asarray(values, dtype=np.float64), np.asarray(gap, dtype=np.float64)
    ones = np.ones_like(values)
    return BoundOverTraining(
        training=training(),
        measurement=Measurement(),
        iterations=tuple(range(10, 10 * len(values) + 1, 10)),
        seed=0,
        label="at-seed0",
        left_out=0,
        epochs=np.arange(1.0, len(values) + 1),
        bound=values,
        robust_gap=gap,
        curvature_times_variance=ones,
        negative_log_variance=ones,
        mean_shift=ones,
        kl=ones,
        value=ones,
        error_bound=ones,
        directions=ones,
    )


def training_run(method="at", *, seed=0, run=None, columns=None, **changes):
    """A completed run of three epochs, or with these columns of its log."""
    run = training(method) if run is None else run
    if columns is None:
        columns = {name: np.array([0.5, 0.4, 0.3]) for name in EpochColumns.__annotations__}
        columns |= {"epoch": np.arange(3.0), "running_loss": np.array([np.nan, 0.4, 0.3])}
    count = len(columns["epoch"])
    whole = {name: columns.get(name, np.full(count, np.nan)) for name in EpochColumns.__annotations__}
    for name in ("iteration", "learning_rate", "weight_norm"):
        whole[name] = columns.get(name, np.ones(count))
    fields = {
        "training": run,
        "seed": seed,
        "data_digest": "d",
        "num_parameters": 1000,
        "num_train": 320,
        "num_validation": 300,
        "num_test": 600,
        "epochs": EpochColumns(**whole),
        "iterations": IterationColumns(
            **{name: np.zeros(0) for name in ("iteration", "epoch", "learning_rate", "loss", "accuracy")}
        ),
        "final": EpochLine(iteration=30, epoch=3, learning_rate=0.1, weight_norm=1.0, test_robust_loss=0.3),
        "best": None,
        "average": None,
        "masking": MaskingReport(
            count=10,
            accuracy=0.5,
            accuracy_strong=0.5,
            accuracy_fgsm=0.6,
            loss=1.0,
            loss_strong=1.0,
            loss_by_epsilon=(0.1, 0.5, 1.0, 2.0),
            loss_transfer=None,
            signs=(),
        ),
        "checkpoints": (StoredCheckpoint(file="runs/a/checkpoints/epoch-0003.pt", epoch=3, iteration=30, sha256="0"),),
        "run_folder": f"runs/{run.run_name(seed)}",
    }
    return TrainingRun(**(fields | changes))


def logged_run(
    columns=None,
    *,
    label="run",
    dataset="cifar10",
    method="at",
    order="cifar10, seed 0",
    train_columns="running",
    arguments=None,
    sha256=None,
    provenance=None,
):
    """An imported log with these columns."""
    if columns is None:
        columns = {"epoch": np.arange(3.0), "learning_rate": np.full(3, 0.1), "test_robust_loss": np.ones(3)}
    return LoggedRun(
        source=ImportedLog(sha256=(sha256 or label,), reading={}, given={}),
        seed=0,
        provenance=provenance or {},
        log=Log(
            label=label,
            dataset=dataset,
            method=method,
            data_order=order,
            train_columns=train_columns,
            arguments=arguments or {"batch_size": 128, "epsilon": 8, "seed": 0, "cutout_len": None},
            columns=LogColumns(**columns),
        ),
        format="text",
        inferred={},
        remarks=(Remark(line=3, text="a notice"),),
        restarts=(),
        superseded_lines=(),
        unread_columns=(),
    )


def robust_accuracy(failures=(0, 1, 1, 2, 3, 3)):
    """A strong evaluation of so many images by two attacks."""
    run = training()
    return RobustAccuracy(
        training=run,
        robustness=Robustness(epsilon=run.evaluation.attack.epsilon),
        checkpoint_digest="0" * 64,
        images="digits test",
        seed=0,
        iteration=30,
        data_digest="d",
        first_failure=np.array(failures),
    )


def regime_run(
    name,
    seed,
    *,
    share=0.8,
    loss=1.0,
    rise=0.0,
    late=None,
    rest=0.0,
    exponent=1.25,
    accuracy=0.6,
    changes=None,
    method="at",
    saturation=0.0,
    scale=0.0,
    valley=0.0,
    test_loss=1.0,
    scatter=0.02,
    square=None,
):
    """A run of the map with a known truth: λ rises by e^rise at the decay, γ by e^(rise + rest) with it.

    Across directions γ goes as λ^exponent, and as the mean squared curvature to the power `square` (1 if None).
    """
    run = Regime(name=name, preset="digits-cpu", method=method, changes=changes or {}).training()
    at = np.array(run.checkpoint_epochs)
    (milestone,) = run.schedule.milestones
    rng = np.random.default_rng([seed, *name.encode()])
    after = np.where(at > milestone, 1.0, 0.0)
    end = np.where(at > run.epochs - 5, 1.0, 0.0)
    height = rise * after + ((rise if late is None else late) - rise) * end
    wobble = scatter * rng.normal(size=(len(at), 1))
    directions = np.log(np.array([8.0, 6, 4, 3, 2]))
    lam = np.exp(directions + height[:, None] + wobble)
    gamma = 0.05 * np.exp(exponent * (directions + wobble) + (height * (1 + rest))[:, None])
    limit = 2 * (1 - run.optimizer.momentum) / run.optimizer.learning_rate
    before = at == int(milestone)
    power = 1.0 if square is None else square
    count = len(at)
    return RegimeRun(
        training=run,
        measurement=MEASUREMENT,
        seed=seed,
        regime=name,
        data_digest="d",
        num_parameters=1000,
        num_train=300,
        num_samples=200,
        noise_factor=1 / 32,
        prior_variance=0.01,
        iterations=at * run.iterations_per_epoch,
        curvatures=lam,
        residuals=0.01 * lam,
        noise=gamma,
        squared_curvatures=gamma**power,
        displacements=np.zeros_like(lam),
        average_curvatures=np.where(before[:, None], lam * np.exp(valley), np.nan),
        trace=lam.sum(axis=1),
        sharpness=np.full(count, share * limit),
        sharpness_error=np.full(count, 0.05),
        attacked_sharpness=np.where(before, share * limit, np.nan),
        output_curvature=0.5 * np.exp(saturation * after),
        log_weight_norm=-0.5 * scale * after,
        train_loss=np.full(count, float(loss)),
        test_loss=np.full(count, float(test_loss)),
        train_accuracy=np.full(count, accuracy),
        test_accuracy=np.full(count, accuracy),
    )


def one_of_each():
    """A record of every experiment."""
    from tests.empirical.separation_making import separation

    return (
        training_run(),
        spectrum(48),
        bound(),
        ensemble(replicas=8, with_rungs=False),
        separation(replicas=8, scouts=3),
        trajectory(window=20),
        expansion(),
        curvature_attribution(),
        robust_accuracy(),
        logged_run(),
        regime_run("one", 10),
    )
