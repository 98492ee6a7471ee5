"""Metrics that every long-running role exposes."""

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
        "Versions of ocspd and of Python.",
        value={"version": release, "python": platform.python_version()},
    )
