"""Metrics that every long-running role shows."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import InfoMetricFamily


def build_info() -> InfoMetricFamily:
    """Return the metric that names the version of ocspd and of Python."""
    try:
        release = version("ocspd")
    except PackageNotFoundError:
        release = "unknown"
    return InfoMetricFamily(
        "ocspd_build",
        "Version of this program.",
        value={"version": release, "python": platform.python_version()},
    )
