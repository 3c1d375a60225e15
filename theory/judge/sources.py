"""Which code measures: a digest of everything that an experiment's ``run`` reaches, read off the source.

Rule      From ``run``, follow names. In the module where it stands, and in modules of its package's ``claims`` room,
          the statements that bind the names it uses, and those that these use: an experiment may stand beside
          predictions and decoys, which do not measure. Of any other module of ours that is reached, the whole source,
          and of all that it imports. Third-party packages are not followed: evidence records their versions. Nor is
          `theory.judge.claim`, which names types and measures nothing.
Limits    Code found by other means than a name (`importlib`, a plug-in, a data file) is not seen.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

#: The package that every experiment may measure with.
OURS = "theory"
#: Reached by annotations alone.
TYPES_ONLY = frozenset({"theory.judge.claim"})


@functools.cache
def measuring_code(run: Callable[..., Any]) -> str:
    """16 hexadecimal digits that change whenever code that `run` measures with does.

    Raises:
        ValueError: if the source of `run` cannot be found.
    """
    walk = _Walk()
    for function in _functions(run):
        walk.start(function)
    digest = hashlib.sha256()
    for name, text in sorted(walk.found.items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def _functions(run: Any) -> Iterator[Any]:
    """The functions that a callable is made of: itself, what a partial holds, what a closure holds."""
    if isinstance(run, functools.partial):
        held = cast("functools.partial[Any]", run)
        for part in (held.func, *held.args, *held.keywords.values()):
            if callable(part):
                yield from _functions(part)
        return
    run = inspect.unwrap(run)
    if inspect.ismethod(run):
        run = run.__func__
    if not (inspect.isfunction(run) or inspect.isclass(run)):
        run = cast(Any, type(run))
    yield run
    for cell in getattr(run, "__closure__", None) or ():
        if callable(cell.cell_contents):
            yield from _functions(cell.cell_contents)


class _Module:
    """A parsed source file: what each of its top-level statements binds."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.is_package = name, path.name == "__init__.py"
        self.text = _text(path)
        self.lines = self.text.splitlines()
        self.bindings: dict[str, list[ast.stmt]] = {}
        tree = ast.parse(self.text)
        self.imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        for statement in tree.body:
            for bound in _bound(statement):
                self.bindings.setdefault(bound, []).append(statement)

    def source(self, statement: ast.stmt) -> str:
        first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", []))])
        return "\n".join(self.lines[first - 1 : statement.end_lineno])


class _Walk:
    """Sources found so far, by the name of the module or of the binding."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.home = ""

    def start(self, function: Any) -> None:
        module = getattr(function, "__module__", None)
        source = None if module is None else _module(module)
        if source is None:
            raise ValueError(f"an experiment's `run` must stand in a source file; {function!r} does not.")
        self.home = source.name
        self._follow(source, function.__qualname__.split(".")[0])

    def _follow(self, module: _Module, name: str) -> None:
        """A name as `module` binds it."""
        if name not in module.bindings:
            self._whole(module)  # a lambda, or a name bound by other means than a statement
            return
        for place, statement in enumerate(module.bindings[name]):
            key = f"{module.name}:{name}:{place}"
            if key in self.found:
                continue
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self.found[key] = ast.unparse(_only(statement, name))
                self._imported(module, statement, name)
                continue
            self.found[key] = module.source(statement)
            for node in ast.walk(statement):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    self._imported(module, node)
                elif isinstance(node, ast.Name) and node.id in module.bindings:
                    self._follow(module, node.id)

    def _imported(self, module: _Module, node: ast.Import | ast.ImportFrom, name: str | None = None) -> None:
        """What an import statement brings: all of it, or only what it binds to `name`."""
        for alias in (node if name is None else _only(node, name)).names:
            if isinstance(node, ast.Import):
                self._reach(alias.name, None)
            else:
                package = module.name if module.is_package else module.name.rpartition(".")[0]
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                self._reach(base, alias.name)

    def _reach(self, base: str, name: str | None) -> None:
        """The module `base`, or `name` out of it."""
        package = _module(base) if self._is_ours(base) and base not in TYPES_ONLY else None
        if package is None:
            return
        if name is not None and package.is_package and _module(f"{base}.{name}") is not None:
            base, name = f"{base}.{name}", None
        home = None if name is None else getattr(getattr(sys.modules.get(base), name, None), "__module__", None)
        if home is not None and home != base and base == OURS:
            base = home  # a public name, which its package looks up on first use
        module = _module(base)
        if module is None or base in TYPES_ONLY:
            return
        if name is not None and name != "*" and (base == self.home or ".claims." in f"{base}."):
            self._follow(module, name)
        else:
            self._whole(module)

    def _whole(self, module: _Module) -> None:
        if module.name in self.found:
            return
        self.found[module.name] = module.text
        for node in module.imports:
            self._imported(module, node)

    def _is_ours(self, name: str) -> bool:
        return name.split(".")[0] in {OURS, self.home.split(".")[0]}


@functools.cache
def _module(name: str) -> _Module | None:
    """The source of a module, imported or not; None where there is none."""
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        path = None if spec is None else spec.origin
    return _Module(name, Path(path)) if path is not None and path.endswith(".py") else None


def _only(node: ast.Import | ast.ImportFrom, name: str) -> ast.Import | ast.ImportFrom:
    """An import statement with what it binds to `name` alone."""
    kept = [alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) == name]
    return ast.ImportFrom(node.module, kept, node.level) if isinstance(node, ast.ImportFrom) else ast.Import(kept)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement binds, in whatever blocks of it."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0]
