"""What every native module keeps to (CONTRIBUTING.md), read from its text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "ocspd"
MODULES = sorted(SOURCES.rglob("*.pyx"))
UNSIGNED = r"size_t|uint\d+_t|unsigned(?: \w+)?"
CAST = re.compile(r"<(?:const )?(?:\w+)(?: \*+)?> ?(?=[\w(&*.])")
ORDER = re.compile(r"(?<![<>=-])(?:<=|>=|<|>)(?![<>=])")
EDGE = re.compile(r"\b(?:and|or|not|if|elif|else|while|return|min|max)\b|[,:=\[\]&|]|==|!=|<<|>>")
MINUS = re.compile(r"(?<=[\w)\]]) - (?=[\w(])")


def code_lines(text: str) -> list[str]:
    """Take comments and texts out; a statement over several lines becomes one."""
    text = re.sub(r'"""(?:.|\n)*?"""', '""', text)
    text = re.sub(r"""[bcf]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""", "0", text)
    text = re.sub(r"#.*", "", text)
    lines, depth = [""], 0
    for line in text.splitlines():
        lines[-1] += " " + line.strip()
        depth += sum(line.count(sign) for sign in "([{") - sum(line.count(sign) for sign in ")]}")
        if depth <= 0:
            lines.append("")
            depth = 0
    return lines


def pointers() -> set[str]:
    """Every name that is declared as a pointer: differences of two of them are signed."""
    text = "".join(path.read_text() for path in SOURCES.rglob("*.p[yx][xd]"))
    return set(re.findall(r"\*\s*(\w+)\s*(?=[,=)\n])", text))


POINTERS = pointers()


def unnested(text: str) -> str:
    """Take out what stands in brackets that are closed again."""
    while (shorter := re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "0", text)) != text:
        text = shorter
    return text


def is_distance(operand: str) -> bool:
    """Tell whether an operand is a difference of two pointers, such as `end - p`."""
    match = re.fullmatch(r"\s*([\w.\[\]]+) - ([\w.\[\]]+)\s*", operand)
    return match is not None and all(name.split(".")[-1] in POINTERS for name in match.groups())


def operands(line: str) -> list[str]:
    """What stands left and right of every <, <=, > and >=, and in every min and max."""
    found = []
    line = CAST.sub("", line)
    for match in ORDER.finditer(line):
        left = unnested(line[: match.start()])
        right = unnested(line[match.end() :])
        left = re.split(r"[()]", EDGE.split(left)[-1])[-1]
        right = re.split(r"[()]", EDGE.split(right)[0])[0]
        found += [left, right]
    for match in re.finditer(r"\b(?:min|max)\(((?:[^()]|\([^()]*\))*)\)", line):
        found += match[1].split(",")
    return found


def compared_differences(text: str) -> list[str]:
    return [
        operand.strip()
        for line in code_lines(text)
        for operand in operands(line)
        if MINUS.search(operand) and not is_distance(operand)
    ]


def cast_differences(text: str) -> list[str]:
    return [
        match[1]
        for line in code_lines(text)
        for match in re.finditer(rf"<(?:{UNSIGNED})> ?\(([^()]*)\)", line)
        if MINUS.search(match[1]) and not is_distance(match[1])
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_native_code_compares_sums_and_never_differences(path: Path) -> None:
    assert compared_differences(path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_native_code_casts_no_difference_to_an_unsigned_type(path: Path) -> None:
    assert cast_differences(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "if body_size > <size_t> (ROOM - HEAD - filled):",  # the overflow of November 2026
        "if body_size > ROOM - HEAD - filled:",
        "if left < 4 or header.size - offset < size:",
        "done = min(size, <uint32_t> BLOCK - self._buffered[part])",
        "while PAGE - offset % PAGE < 4 or x:",
        "good = (\n    a\n    and der_size - target >= n\n)",
        "return a <= b and count <= size - offset",
    ],
)
def test_the_check_itself_finds_a_compared_difference(line: str) -> None:
    assert compared_differences(line) or cast_differences(line)


@pytest.mark.parametrize(
    "line",
    [
        "if end - p < size:",
        "if filled + HEAD + body_size > ROOM:",
        "x = a - b",
        "if x == a - b:",
        "if count > limit:  # a - b < c",
        "octets = <size_t> (end - p)",
        "if table[i - 1] > f(n - 1):",
    ],
)
def test_the_check_itself_leaves_the_rest_alone(line: str) -> None:
    assert not compared_differences(line)
    assert not cast_differences(line)
