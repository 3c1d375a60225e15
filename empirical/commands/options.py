"""Command-line options made of the fields of Settings, and the Settings that what was typed describes.

Options, types, choices and help come from `empirical.settings.options`; an option that was not given is absent from
the overrides: the preset decides.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import shlex
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empirical.settings.data import PUBLISHED
from empirical.settings.measuring import Measuring
from empirical.settings.method import METHODS
from empirical.settings.options import MEASURING, Option, options_of
from empirical.settings.precision import FAST
from empirical.settings.presets import OVERRIDES, PRESET_OF, PRESETS, PresetName, make_training
from theory.model.setting import Setting

if TYPE_CHECKING:
    from empirical.training.jobs import Job

__all__ = [
    "add_measuring_options",
    "add_run_options",
    "add_shard_option",
    "add_training_options",
    "available_cores",
    "device_name",
    "fast_path",
    "gpu_count",
    "measuring",
    "measuring_of",
    "override_of",
    "overrides",
    "preset_and_methods",
    "shard",
    "signs_of_a_gpu",
    "torchrun_place",
]

#: The preset on a CPU, and where there is a CUDA device.
CPU_PRESET: PresetName = "digits-cpu"
GPU_PRESET: PresetName = "cifar10"
#: Runs of a method that one command may ask for, and the bound of root seeds.
MOST_SEEDS = 100_000
LARGEST_SEED = 2**63


def number(text: str) -> float:
    """A number, or a ratio such as 8/255."""
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"must be a number or a ratio such as 8/255; got {text!r}") from None


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}") from None


def _several(one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def several(text: str) -> tuple[Any, ...]:
        if text == "none":
            return ()
        if not text.strip():
            raise argparse.ArgumentTypeError(f"must be values separated by commas, or none; got {text!r}")
        return tuple(one(part) for part in text.split(","))

    return several


#: How a text becomes the value of a field, by the field's type.
_READ: Mapping[Any, Callable[[str], Any]] = {
    int: whole,
    float: number,
    tuple[int, ...]: _several(whole),
    tuple[float, ...]: _several(number),
}
_PLACEHOLDER: Mapping[Any, str] = {int: "N", float: "X", tuple[int, ...]: "N,N", tuple[float, ...]: "X,X"}


def _add(group: Any, option: Option, default: str) -> None:
    """An option of the parser: None unless it is given."""
    text = f"{option.meaning} (default: {default})".replace("%", "%%")
    if option.type is bool:
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif option.choices:
        group.add_argument(option.flag, choices=option.choices, default=None, help=text)
    elif option.type in _READ:
        group.add_argument(
            option.flag, type=_READ[option.type], default=None, help=text, metavar=_PLACEHOLDER[option.type]
        )
    else:  # a tuple of names
        names = typing.get_args(typing.get_args(option.type)[0])
        group.add_argument(option.flag, nargs="+", choices=names, default=None, help=text)


@functools.cache
def _shown() -> tuple[tuple[str, Setting], ...]:
    """Trainings whose values ``--help`` states: the two default presets, with every part there is."""
    return tuple((name, make_training(name, "awp")) for name in (CPU_PRESET, GPU_PRESET))


def _text(value: Any) -> str:
    """A value as it would be typed: 8/255 rather than 0.0313725…"""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    if isinstance(value, float):
        levels = round(value * 255)
        return f"{levels}/255" if 0 < levels < 255 and abs(value - levels / 255) < 1e-12 else f"{value:g}"
    return str(value)


def _default(option: Option) -> str:
    found = {name: _text(option.value_in(training)) for name, training in _shown()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{value} in {name}" for name, value in found.items())


def add_training_options(parser: argparse.ArgumentParser, *, published: bool = False) -> None:
    """What to train: preset, methods, seeds, and every part that can be overridden.

    Args:
        parser: gets the options.
        published: the data set is not one but several, of those whose runs were published.
    """
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help=f"default: {CPU_PRESET}, or {GPU_PRESET} where there is a CUDA device",
    )
    parser.add_argument("--method", nargs="+", choices=METHODS, help="default: the preset's, at and awp for most")
    parser.add_argument(
        "--seeds", type=whole, default=1, help="runs of each method, of distinct data orders (default: 1)"
    )
    parser.add_argument("--seed", type=whole, default=0, help="first root seed (default: %(default)s)")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="on CUDA, float32 without TF32, compilation or graphs; by default bfloat16 inside the network, "
        "channels-last, compiled, attacks as CUDA graphs (x, δ, weights, loss and batch-norm statistics in float32)",
    )
    group = parser.add_argument_group("overrides of the preset")
    for name, option in OVERRIDES.items():
        if published and name == "dataset":
            group.add_argument(option.flag, nargs="+", choices=PUBLISHED, help="data sets (default: all of them)")
        else:
            _add(group, option, _default(option))


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """What to measure: the fields of a `Measuring`."""
    standard = Measuring()
    group = parser.add_argument_group("what is measured")
    for option in options_of(MEASURING).values():
        _add(group, option, _text(option.value_in(standard)))


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Where and how to run."""
    parser.add_argument("--out", default="reports/local/empirical", help="results folder (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives (default: %(default)s)")
    parser.add_argument("--no-download", action="store_true", help="use the archives that are there")
    parser.add_argument("--resume", action="store_true", help="continue unfinished runs of the folder")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")
    parser.add_argument("--wandb", metavar="PROJECT", help="show the curves in this project of Weights & Biases too")
    parser.add_argument(
        "--gpus", metavar="all|N", help="runs at once, each on a GPU of its own: on all, or the first N"
    )
    parser.add_argument("--jobs", type=whole, help="runs at once (default: one a core, or as --gpus says; on a GPU 1)")
    parser.add_argument("--threads", type=whole, help="threads of each run (default: cores / jobs)")
    parser.add_argument("--quiet", action="store_true", help="no live progress")


def add_shard_option(parser: argparse.ArgumentParser) -> None:
    """Which part of the runs is this command's: what the tasks of a cluster's job array differ in."""
    parser.add_argument(
        "--shard", metavar="I/N", help="the I-th of N parts of the runs, I from 1: every run is in exactly one of them"
    )


def shard(jobs: Sequence[Job], asked: str | None) -> list[Job]:
    """The runs of a part: every N-th from the I-th on, in the order in which they are listed.

    Raises:
        ValueError: if `asked` is not I/N with whole numbers 1 <= I <= N.
    """
    if asked is None:
        return list(jobs)
    index, slash, parts = asked.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and 1 <= int(index) <= int(parts)):
        raise ValueError(f"`--shard` must be I/N with whole numbers 1 <= I <= N, such as 1/4; got {asked!r}.")
    return list(jobs[int(index) - 1 :: int(parts)])


def gpu_count(args: argparse.Namespace) -> int | None:
    """How many GPUs ``--gpus`` asks for; None without it.

    Raises:
        ValueError: if there are not so many, or one device is named as well.
    """
    if args.gpus is None:
        return None
    import torch

    if args.device not in ("auto", "cuda"):
        raise ValueError(f"`--gpus` must not be given with one device; got --device {args.device}.")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = there if args.gpus == "all" else int(args.gpus) if args.gpus.isdecimal() else 0
    if not 1 <= asked <= there:
        raise ValueError(f"`--gpus` must be all or 1 to the number that PyTorch can use, {there}; got {args.gpus!r}.")
    return asked


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by the names `make_training` knows."""
    return {name: getattr(args, name) for name in OVERRIDES if getattr(args, name, None) is not None}


def fast_path(args: argparse.Namespace) -> Mapping[str, Any]:
    """How training on the chosen device computes where nothing was said about it: fast on CUDA, exact elsewhere."""
    if device_name(args.device) == "cpu" or args.exact:
        return {}
    return {**FAST, "cuda_graph": False} if args.sync_batch_norm else FAST


def override_of(name: str, text: str) -> Any:
    """The value that a text gives an override.

    Raises:
        ValueError: if the override takes no such value.
    """
    option = OVERRIDES[name]
    if option.type is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"`{option.flag}` must be true or false; got {text!r}.")
        return text.lower() == "true"
    if option.choices:
        if text not in option.choices:
            raise ValueError(f"`{option.flag}` must be one of {option.choices}; got {text!r}.")
        return text
    try:
        return _READ[option.type](text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"`{option.flag}` {error}.") from None


def measuring(args: argparse.Namespace) -> Measuring:
    """The Setting that the options of `add_measuring_options` describe.

    Raises:
        ValueError: if a value is out of range.
    """
    standard = Measuring()
    changes: dict[str, dict[str, Any]] = {part.path: {} for part in MEASURING}
    for name, option in options_of(MEASURING).items():
        value = getattr(args, name)
        if value is not None:
            changes[option.part.path][option.field] = tuple(value) if isinstance(value, list) else value
    measurement = dataclasses.replace(standard.measurement, **changes["measurement"])
    return dataclasses.replace(standard, measurement=measurement, **changes[""])


def measuring_of(text: str) -> Measuring:
    """The Setting that ``--measure-options TEXT`` describes.

    Raises:
        ValueError: if the text is no list of such options, or a value is out of range.
    """
    parser = _OneLine(prog="--measure-options", add_help=False)
    add_measuring_options(parser)
    return measuring(parser.parse_args(shlex.split(text)))


class _OneLine(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(f"`{self.prog}`: {message}.")


def preset_and_methods(args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """The preset and the methods that were meant.

    Raises:
        ValueError: if the first seed or the number of seeds is out of range.
    """
    if not 1 <= args.seeds <= MOST_SEEDS:
        raise ValueError(f"`--seeds` must be in [1, {MOST_SEEDS:,}]; got {args.seeds}.")
    require_seed(args.seed)
    preset = args.preset
    if preset is None:
        if args.dataset in PRESETS:
            preset = args.dataset
        elif args.dataset in PRESET_OF:
            preset = PRESET_OF[args.dataset]
        else:
            preset = GPU_PRESET if device_name(args.device) != "cpu" else CPU_PRESET
    return preset, tuple(dict.fromkeys(args.method or PRESETS[preset].methods))


def require_seed(seed: int) -> None:
    """Refuse a root seed that a checkpoint cannot keep.

    Raises:
        ValueError: if it is negative or takes more than 63 bits.
    """
    if not 0 <= seed < LARGEST_SEED:
        raise ValueError(f"`--seed` must be in [0, 2^63); got {seed}.")


def device_name(asked: str) -> str:
    """The device to use: "auto" is CUDA where there is one.

    Raises:
        ValueError: if the device is unknown, or CUDA is asked for and absent.
    """
    import torch

    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        signs = signs_of_a_gpu()
        if signs:
            raise ValueError(
                f"`--device auto` must find CUDA usable where there is a GPU ({signs}); PyTorch cannot use it: "
                f"{_why_no_cuda()} Pass --device cpu to do without."
            )
        return "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ValueError(f"`--device` must be auto, cpu or cuda; got {asked!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`--device` must be auto, cpu or cuda; got {asked!r}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"`--device {asked}` must name a device that is there; this PyTorch sees no CUDA device: {_why_no_cuda()}"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"`--device {asked}` must be one of the {count} that are there, cuda:0 to cuda:{count - 1}.")
    return asked


def signs_of_a_gpu() -> str:
    """What says that this machine should have a CUDA device, in words; empty where nothing does, or it was hidden."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ""
    signs = [str(path) for path in (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl")) if path.exists()]
    if visible is not None:
        signs.append(f"CUDA_VISIBLE_DEVICES={visible}")
    return ", ".join(signs)


def _why_no_cuda() -> str:
    """PyTorch's own reason, on one line."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:300]
    return "it gives no reason."


def torchrun_place() -> tuple[int, int]:
    """This process's rank and the number of processes, as ``torchrun`` set them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
