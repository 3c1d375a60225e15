"""The public names exist, are the ones of their homes, and nothing else answers."""

from __future__ import annotations

import pytest

import theory


def test_every_public_name_is_found_at_home():
    for name in theory.__all__:
        assert getattr(theory, name).__module__.startswith("theory."), name
    assert set(theory.__all__) == set(theory._HOME) and theory.__dir__() == theory.__all__
    with pytest.raises(AttributeError, match="no attribute 'guess'"):
        theory.guess  # noqa: B018


def test_the_readmes_example_runs():
    import re
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    names: dict = {}
    exec(compile(example.group(1), "README.md", "exec"), names)
    assert names["problem"].dimension == 2
