"""Key material made by CFSSL, once per session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.authority.cfssl import make_material

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, an OCSP signer, a CSR and a signing configuration."""
    return make_material(tmp_path_factory.mktemp("material"))
