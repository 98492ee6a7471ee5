"""The documents agree with the tree: what they name exists, and what they list is complete."""

from __future__ import annotations

import re

import pytest

from tests.test_layering import CONFINED, FLOORS, ROOT, SOURCE

FOLDERS = (".", "docs", "docs/decisions", "deploy", "bench")
PAGES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def rooms() -> list[tuple[int, set[str], set[str]]]:
    """(floor, parts of the package, third-party packages) of each row of the architecture page's table."""
    rows = re.findall(r"^\| (\d) \| (.+?) \| .+? \| (.*?) ?\|$", ARCHITECTURE, re.MULTILINE)
    return [
        (int(floor), set(re.findall(r"`(\w+)`", parts)), set(re.findall(r"\w+", packages)))
        for floor, parts, packages in rows
    ]


def test_the_table_of_rooms_has_every_part_of_the_package_on_its_floor() -> None:
    listed = {part: floor for floor, parts, _ in rooms() for part in parts}
    assert listed == {part: floor for part, floor in FLOORS.items() if part != "__main__"}


def test_the_table_of_rooms_lists_the_packages_that_the_layering_test_allows() -> None:
    for _, parts, packages in rooms():
        allowed = {package for package, importers in CONFINED.items() if importers & parts}
        assert packages == allowed, parts


def test_the_journeys_name_modules_that_exist() -> None:
    named = re.findall(
        r"`((?:[a-z]\w*/)*[a-z_]\w*)`", ARCHITECTURE.split("## Journey 1")[1].split("## The index")[0]
    )
    modules = [name for name in named if "/" in name or name.startswith("_")]
    assert len(modules) > 20, "the page lost its journeys"
    missing = [name for name in modules if not any(SOURCE.glob(f"{name}.py*"))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    broken = [
        target for target in targets if "://" not in target and not ((ROOT / page).parent / target).exists()
    ]
    assert broken == []
