"""The chart library: plotly.js, as the package ``plotly`` carries it. Nothing is fetched from anywhere."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

from infra.errors import UsageError


@cache
def path() -> Path:
    """The installed plotly.min.js; UsageError where the package lacks. Found without importing the package."""
    spec = importlib.util.find_spec("plotly")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        script = Path(place) / "package_data" / "plotly.min.js"
        if script.is_file():
            return script
    raise UsageError("the preview needs the chart library of the package plotly: pip install 'gpufleet[embedded]'")


@cache
def name() -> str:
    """File name with the version in it, under which it is served."""
    path()
    return f"plotly-{importlib.metadata.version('plotly')}.min.js"
