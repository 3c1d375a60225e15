"""Command-line options of a training run, and how they become overrides of a preset.

An option that was not given is absent from the namespace's overrides: the preset decides.
"""

from __future__ import annotations

import argparse
import os
from fractions import Fraction
from typing import Any

__all__ = ["add_run_options", "add_training_options", "device_name", "overrides", "preset_and_methods"]

METHODS = ("standard", "at", "awp", "trades", "trades-awp")
PRESETS = ("cifar10", "cifar100", "svhn", "cifar10-short", "digits-cpu", "smoke")
DATASETS = ("cifar10", "cifar100", "svhn", "digits", "generated")


def number(text: str) -> float:
    """A number, or a ratio such as 8/255."""
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"must be a number or a ratio such as 8/255; got {text!r}") from None


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(number(part) for part in text.split(",") if part)


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers separated by commas; got {text!r}") from None


#: Option, type, help. The names with underscores are the keys of `make_training(overrides=...)`.
_VALUES: tuple[tuple[str, Any, str], ...] = (
    ("epochs", int, "epochs; decays move in proportion"),
    ("batch-size", int, "samples a step"),
    ("learning-rate", number, "first learning rate"),
    ("momentum", number, "momentum"),
    ("dampening", number, "dampening of the momentum buffer"),
    ("weight-decay", number, "weight decay, on every parameter"),
    ("milestones", numbers, "epochs of the decays, such as 100,150"),
    ("factor", number, "factor of each decay"),
    ("peak", number, "epoch of the largest rate (cyclic)"),
    ("train-size", int, "training images"),
    ("validation-size", int, "training images held out for choosing a checkpoint"),
    ("test-size", int, "test images"),
    ("split-seed", int, "seed of subsets and noisy labels"),
    ("label-noise", number, "share of training labels replaced by another class"),
    ("epsilon", number, "radius of the attack in pixel units of [0, 1], such as 8/255"),
    ("step-size", number, "step of the attack, same units"),
    ("steps", int, "steps of the training attack"),
    ("restarts", int, "restarts of the training attack"),
    ("evaluation-steps", int, "steps of the evaluation attack"),
    ("evaluation-step-size", number, "step of the evaluation attack"),
    ("evaluation-every", int, "epochs between evaluations (every epoch around decays)"),
    ("evaluation-batch-size", int, "images at once in evaluation"),
    ("train-probe", int, "training images evaluated"),
    ("masking-probe", int, "test images of the masking guard; 0 for none"),
    ("beta", number, "weight of TRADES' divergence"),
    ("awp-gamma", number, "radius of the weight perturbation"),
    ("awp-warmup", int, "epochs without weight perturbation"),
    ("awp-steps", int, "ascent steps of the weight perturbation"),
    ("widths", integers, "layer widths of convnet and mlp, such as 16,32,64"),
    ("ema", number, "decay of the running average of the weights"),
    ("log-window", int, "iterations around each decay that are logged one by one"),
    ("checkpoint-epochs", integers, "epochs after which a checkpoint is kept"),
)
_CHOICES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("dataset", DATASETS, "data set; also picks the preset of that name when none is given"),
    ("schedule", ("piecewise", "cosine", "linear", "cyclic", "constant"), "shape of the learning-rate path"),
    ("order", ("shuffle", "replacement"), "each sample once an epoch, or independent draws"),
    ("augmentation", ("none", "reflect-crop-flip", "zero-crop-flip", "zero-crop-flip-rotate"), "augmentation"),
    ("norm", ("linf", "l2"), "norm of the attack"),
    ("random-start", ("uniform", "gaussian", "none"), "start of the training attack"),
    ("attack-batch-norm", ("train", "batch", "eval"), "batch-norm mode during the training attack"),
    ("network", ("preactresnet18", "convnet", "mlp"), "architecture"),
    ("normalization", ("batch", "group", "none"), "normalization layers"),
    ("activation", ("relu", "softplus", "gelu"), "activation"),
    ("awp-normalization", ("layer", "filter", "network"), "norm of the weight perturbation"),
    ("awp-batch", ("same", "fresh"), "batch that perturbs the weights"),
    ("awp-weight-decay", ("perturbed", "original"), "weights on which weight decay acts under AWP"),
    ("autocast", ("none", "bfloat16"), "precision inside the network"),
)
_SWITCHES: tuple[tuple[str, str], ...] = (
    ("nesterov", "Nesterov momentum"),
    ("published-offset", "decay one iteration early, as the published scripts do"),
    ("awp-recompute", "attack the inputs again at the perturbed weights"),
    ("channels-last", "channels-last memory layout"),
    ("compile", "torch.compile the network"),
    ("cuda-graph", "replay the attack as one CUDA graph"),
    ("tf32", "allow TensorFloat-32"),
    ("deterministic", "deterministic cuDNN algorithms"),
)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """What to train: preset, methods, seeds, and every part that can be overridden."""
    parser.add_argument(
        "--preset", choices=PRESETS, help="default: digits-cpu, or cifar10 where there is a CUDA device"
    )
    parser.add_argument("--method", nargs="+", choices=METHODS, help="default: at awp", metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each method, with distinct data orders")
    parser.add_argument("--seed", type=int, default=0, help="first root seed (default: %(default)s)")
    group = parser.add_argument_group("overrides of the preset")
    for name, kind, text in _VALUES:
        group.add_argument(f"--{name}", type=kind, default=None, help=text, metavar="X")
    for name, choices, text in _CHOICES:
        group.add_argument(f"--{name}", choices=choices, default=None, help=text)
    for name, text in _SWITCHES:
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=text)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Where and how to run."""
    parser.add_argument("--out", default="reports/local/empirical", help="results folder (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives (default: %(default)s)")
    parser.add_argument("--no-download", action="store_true", help="use the archives that are there")
    parser.add_argument("--resume", action="store_true", help="continue unfinished runs of the folder")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")
    parser.add_argument("--jobs", type=int, help="runs at once on the CPU (default: one a core)")
    parser.add_argument("--threads", type=int, help="threads of each run (default: cores / jobs)")
    parser.add_argument("--quiet", action="store_true", help="no live progress")


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by the names `make_training` knows."""
    names = [name for name, *_ in (*_VALUES, *_CHOICES, *_SWITCHES)]
    keys = [name.replace("-", "_") for name in names]
    return {key: getattr(args, key) for key in keys if getattr(args, key, None) is not None}


def preset_and_methods(args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """The preset and the methods that were meant.

    Raises:
        ValueError: if the number of seeds is not positive.
    """
    if args.seeds < 1:
        raise ValueError(f"`--seeds` must be >= 1; got {args.seeds}.")
    preset = args.preset
    if preset is None:
        if args.dataset in PRESETS:
            preset = args.dataset
        else:
            preset = "cifar10" if device_name(args.device) != "cpu" else "digits-cpu"
    return preset, tuple(dict.fromkeys(args.method or ("at", "awp")))


def device_name(asked: str) -> str:
    """The device to use: "auto" is CUDA where there is one.

    Raises:
        ValueError: if the device is unknown, or CUDA is asked for and absent.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ValueError(f"`--device` must be auto, cpu or cuda; got {asked!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`--device` must be auto, cpu or cuda; got {asked!r}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`--device {asked}` must name a device that is there; this PyTorch sees no CUDA device.")
    return asked


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
