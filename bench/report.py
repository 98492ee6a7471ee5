"""Results as JSON, as a table and as bar charts (SVG written by hand: no plotting library to install)."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.load import Run

_COLOURS = ("#2b6cb0", "#718096", "#c05621", "#2f855a", "#805ad5")
_BAR, _GAP, _LEFT, _WIDTH = 18, 14, 220, 760


@dataclass(slots=True)
class Results:
    """All results of one run of the benchmark."""

    machine: dict[str, str]
    settings: dict[str, float]
    runs: list[Run] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """Single figures by name; the unit ends the name."""
    left_out: list[str] = field(default_factory=list)

    def servers(self, scenario: str) -> list[str]:
        """Return the servers that ran a scenario, in order of appearance."""
        return list(dict.fromkeys(run.server for run in self.runs if run.scenario == scenario))

    def scenarios(self) -> list[str]:
        """Return the scenarios in order of appearance."""
        return list(dict.fromkeys(run.scenario for run in self.runs))

    def values(self, server: str, scenario: str, name: str) -> list[float]:
        """Return a figure of every repetition."""
        return [
            float(getattr(run, name)) for run in self.runs if (run.server, run.scenario) == (server, scenario)
        ]

    def median(self, server: str, scenario: str, name: str) -> float | None:
        """Return the median of a figure, None when it was not measured."""
        values = self.values(server, scenario, name)
        return statistics.median(values) if values else None

    def ratio(self, server: str, other: str, scenario: str) -> float | None:
        """Return CPU per request of one server over another's."""
        mine, theirs = (self.median(name, scenario, "cpu_us") for name in (server, other))
        return mine / theirs if mine and theirs else None


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table of goals."""

    what: str
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False

    def line(self) -> str:
        """Write it as a line of a markdown table."""
        sign = "≥" if self.at_least else "≤"
        if self.value is None:
            return f"| {self.what} | {sign} {self.limit:g}{self.unit} | not measured | |"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        value = f"{self.value:,.4g}{self.unit}"
        return f"| {self.what} | {sign} {self.limit:g}{self.unit} | {value} | {'yes' if met else 'NO'} |"


def goals(results: Results) -> list[Goal]:
    """Return the project's goals with the measured figures."""
    get = results.figures.get
    cfssl = results.ratio("cfssl", "ocspd", "POST")
    one, two = (results.median(name, "GET", "cpu_us") for name in ("ocspd", "ocspd, 2 workers"))
    return [
        Goal("CPU per GET, times nginx", results.ratio("ocspd", "nginx", "GET"), 0.97),
        Goal("CPU per POST, times nginx", results.ratio("ocspd", "nginx", "POST"), 0.97),
        Goal("CPU per POST, CFSSL's in times of ours", cfssl, 25, at_least=True),
        *(
            Goal(
                f"CPU per {method}, one connection each, times {peer}",
                results.ratio("ocspd", peer, name),
                limit,
            )
            for method in ("GET", "POST")
            for name in (f"{method}, new connection",)
            for peer, limit in (("nginx", 0.75), ("nginx, deferred", 0.95))
        ),
        Goal(
            "CPU per GET, 4 000 connections kept alive, times nginx",
            results.ratio("ocspd", "nginx", "GET, 4,000 connections"),
            0.8,
        ),
        Goal("private memory of 50 000 idle connections", get("idle_mb"), 30, " MB"),
        Goal("two workers, difference of their shares", get("two_workers_imbalance"), 0.1),
        Goal(
            "p99 latency at half of the saturating rate, times nginx",
            _ratio(
                *(results.median(name, "GET, half rate", "p99_us") for name in ("ocspd", "nginx")),
            ),
            1,
        ),
        Goal(
            "p99 latency at half of the saturating rate",
            _ms(results.median("ocspd", "GET, half rate", "p99_us")),
            1,
            " ms",
        ),
        Goal("CPU per GET with two workers, times one worker", two / one if one and two else None, 1.1),
        Goal("native path alone, GET, 1 000 certificates", get("respond_get_hot_ns"), 450, " ns"),
        Goal("native path alone, POST, 1 000 certificates", get("respond_post_hot_ns"), 350, " ns"),
        Goal("native path alone, GET, 50 000 certificates", get("respond_get_ns"), 450, " ns"),
        Goal("native path alone, POST, 50 000 certificates", get("respond_post_ns"), 350, " ns"),
        Goal("index, P-256", get("index_p256_bytes_per_entry"), 110, " B per entry"),
        Goal("index, RSA-2048", get("index_rsa2048_bytes_per_entry"), 310, " B per entry"),
        Goal("open 1 M entries, first reply", get("first_answer_1m_ms"), 50, " ms"),
        Goal("open 10 M entries, first reply", get("first_answer_10m_ms"), 200, " ms"),
        Goal("private memory of a worker", get("worker_private_mb"), 60, " MB"),
        Goal(
            "build from base64 responses",
            get("build_per_cpu_second"),
            200_000,
            " per CPU second",
            at_least=True,
        ),
    ]


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine is not None and theirs else None


def _ms(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1e3


def markdown(results: Results) -> str:
    """Write the tables."""
    lines = ["# Results", "", *(f"- {key}: {value}" for key, value in results.machine.items())]
    lines += [f"- {key}: {value:g}" for key, value in results.settings.items()]
    lines += ["", "## Goals", "", "| what | goal | measured | met |", "|---|---|---|---|"]
    lines += [goal.line() for goal in goals(results)]
    lines += [
        "",
        "## Runs",
        "",
        "Medians; in brackets the lowest and highest CPU per request of the repetitions.",
        "",
        "| scenario | server | CPU per request | requests/s | p50 | p99 | bytes | errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scenario in results.scenarios():
        for server in results.servers(scenario):
            cpu = results.values(server, scenario, "cpu_us")
            rate, p50, p99, octets = (
                results.median(server, scenario, name) or 0
                for name in ("per_second", "p50_us", "p99_us", "octets")
            )
            errors = sum(results.values(server, scenario, "errors"))
            lines.append(
                f"| {scenario} | {server} | {statistics.median(cpu):.2f} us ({min(cpu):.2f}-{max(cpu):.2f}) "
                f"| {rate:,.0f} | {p50:,.0f} us | {p99:,.0f} us | {octets:.0f} | {errors:.0f} |"
            )
    lines += ["", "## Other figures", "", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:,.4g} |" for name, value in results.figures.items()]
    if results.left_out:
        lines += ["", "## Left out", "", *(f"- {reason}" for reason in results.left_out)]
    return "\n".join(lines) + "\n"


def chart(results: Results, *, figure: str, title: str, unit: str) -> str:
    """Draw the medians of one figure as horizontal bars, grouped by scenario, as SVG."""
    groups = [
        (
            scenario,
            [(server, results.median(server, scenario, figure) or 0) for server in results.servers(scenario)],
        )
        for scenario in results.scenarios()
    ]
    names = list(dict.fromkeys(server for _, bars in groups for server, _ in bars))
    largest = max((value for _, bars in groups for _, value in bars), default=0) or 1
    scale = (_WIDTH - _LEFT - 120) / largest
    y, body = 40, []
    for scenario, bars in groups:
        for number, (server, value) in enumerate(bars):
            colour = _COLOURS[names.index(server) % len(_COLOURS)]
            if number == 0:
                body.append(f'<text x="10" y="{y + 13}">{escape(scenario)}</text>')
            body.append(
                f'<rect x="{_LEFT}" y="{y}" width="{value * scale:.1f}" height="{_BAR - 3}" fill="{colour}"/>'
            )
            label = f"{escape(server)}: {value:,.3g} {escape(unit)}"
            body.append(
                f'<text x="{_LEFT + value * scale + 5:.1f}" y="{y + 12}" font-size="11">{label}</text>'
            )
            y += _BAR
        y += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="22" font-weight="bold">{escape(title)}</text>{"".join(body)}</svg>\n'
    )


def write(results: Results, directory: Path) -> None:
    """Write results.json, results.md and the charts."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {**asdict(results), "goals": [asdict(goal) for goal in goals(results)]}
    (directory / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    (directory / "results.md").write_text(markdown(results))
    for figure, title, unit in (
        ("cpu_us", "CPU per request (less is better)", "us"),
        ("per_second", "Requests per second, server on one CPU (more is better)", "/s"),
        ("p99_us", "p99 latency (less is better)", "us"),
    ):
        name = f"{figure.removesuffix('_us')}.svg"
        (directory / name).write_text(chart(results, figure=figure, title=title, unit=unit))
