from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.authority.cfssl import make_material

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key material that Debian's CFSSL has made."""
    return make_material(tmp_path_factory.mktemp("client") / "material")
