"""The register as a user has it: the claims that come with the theory, those of installed packages, and those named.

A module of claims exports `CLAIMS` and `EXPERIMENTS`, as those of `theory.claims` do. It is found through

  an entry point   of the group ``spikeshrink.claims`` in any installed package: always there;
  a name           ``--register package.module``: imported as Python imports it;
  a path           ``--register claims/mine.py``: loaded from that file, whatever the working folder or the path.

All of them share one family of tests: slots, names and experiments are checked together (`check_register`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from theory.judge.claim import Claim, Experiment, check_register
from theory.judge.files import require_regular

#: Group of entry points by which a package registers claims.
GROUP = "spikeshrink.claims"


@dataclass(frozen=True, kw_only=True)
class Register:
    """Claims and the experiments that decide them, in the order of the report."""

    claims: tuple[Claim, ...]
    experiments: tuple[Experiment, ...]


def register(named: Sequence[str] = ()) -> Register:
    """The whole register: the theory's, then installed packages', then those `named` by module or path.

    Raises:
        ValueError: if a module cannot be loaded or exports no claims, if names collide, or if the family has no room.
    """
    from theory.claims import CLAIMS, EXPERIMENTS

    claims, experiments = list(CLAIMS), list(EXPERIMENTS)
    for where, module in (*_installed(), *((f"`--register {name}`", _load(name)) for name in dict.fromkeys(named))):
        more = _exported(module, "CLAIMS", Claim, where)
        claims += more
        experiments += _exported(module, "EXPERIMENTS", Experiment, where)
        try:
            check_register(claims, experiments)
        except ValueError as error:
            raise ValueError(f"{where} does not fit the register: {error}") from None
    return Register(claims=tuple(claims), experiments=tuple(experiments))


def _installed() -> Iterable[tuple[str, Any]]:
    """Modules of installed packages, by the name of their entry point."""
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        where = f"the entry point {point.name!r} of {GROUP}"
        try:
            module = point.load()
        except Exception as error:  # whatever a package of someone else's raises
            raise ValueError(f"{where} cannot be loaded: {_said(error)}.") from error
        yield where, module


def _load(name: str) -> ModuleType:
    """A module by name, or from a file whose name ends in .py."""
    where = f"`--register {name}`"
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).resolve()
        require_regular(path, where)
        # A name of its own: a file called numpy.py replaces nothing. The same in every process and folder, because
        # the digest of the measuring code holds it.
        unique = f"spikeshrink_register_{path.stem}"
        if unique in sys.modules:
            if sys.modules[unique].__file__ == str(path):
                return sys.modules[unique]
            raise ValueError(f"{where} must have another name than {sys.modules[unique].__file__}.")
        spec = importlib.util.spec_from_file_location(unique, path)
        assert spec is not None and spec.loader is not None  # the name ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[unique]
            raise
        return module
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where} cannot be loaded: {_said(error)}.") from error
    except Exception as error:  # whatever a user's module raises
        raise ValueError(f"{where} cannot be loaded: {_said(error)}.") from error


def _exported(module: Any, name: str, kind: type, where: str) -> list[Any]:
    found = getattr(module, name, None)
    if not isinstance(found, (tuple, list)) or not all(isinstance(item, kind) for item in found):
        raise ValueError(f"{where} must export {name}, a tuple of {kind.__name__}; got {type(found).__name__}.")
    return list(found)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")
