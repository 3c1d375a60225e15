"""A pytest plugin: the fixture ``assumptions``, the marker ``spikeshrink``, and a summary of what was measured.

    def test_noise_commutes(assumptions):
        assert assumptions(model, loss, loader, learning_rate=0.1, momentum=0.9).commutativity.supported

The fixture is `empirical.check_assumptions`; ``@pytest.mark.spikeshrink(learning_rate=0.1, momentum=0.9)`` sets
defaults of its arguments for a test, class or module. A failing test prints the report's table. Installed with the
package by an entry point; it imports torch when the fixture is first called and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from empirical.measure.assumptions import AssumptionReport

__all__ = ["assumptions"]

#: Under which a report's lines travel from a test to the summary, from another process as well.
PROPERTY = "spikeshrink"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "spikeshrink(**settings): defaults of the fixture `assumptions`")


@pytest.fixture
def assumptions(request: pytest.FixtureRequest) -> Callable[..., AssumptionReport]:
    """`empirical.check_assumptions`, its reports kept for the summary."""
    defaults: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("spikeshrink"))):  # the closest wins
        if marker.args:
            raise pytest.UsageError(f"@pytest.mark.spikeshrink takes settings by name; got {marker.args!r}.")
        defaults.update(marker.kwargs)

    def measure(model: Any, loss: Any, batches: Any, **settings: Any) -> AssumptionReport:
        from empirical.measure.assumptions import check_assumptions

        report = check_assumptions(model, loss, batches, **{**defaults, **settings})
        broken = [check.name for check in report.checks.values() if check.result.value == "fail"]
        line = f"{report.outcome}{': ' + ', '.join(broken) if broken else ''}"
        request.node.user_properties.append((PROPERTY, line))
        request.node.add_report_section("call", "assumptions", str(report))
        return report

    return measure


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line a report."""
    lines = list(_lines(terminalreporter))
    if lines:
        terminalreporter.section("assumptions")
        for line in lines:
            terminalreporter.line(line)


def _lines(terminalreporter: Any) -> Iterator[str]:
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == PROPERTY:
                        yield f"{report.nodeid}  {value}"
