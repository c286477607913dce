"""The part of Grafana's alert templates that our annotations use.

``{{ .Labels.NAME }}``, ``{{ .Values.REF.Value }}``, a pipe into one of Prometheus' functions, and
``{{ if .Labels.NAME }}...{{ else }}...{{ end }}`` for alerts of an answer without rows. Dollars are avoided
(``$labels`` is ``.Labels``): whether a dollar in a provisioning file is replaced by an environment variable depends on
Grafana's version and on the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

_ACTION = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_IF = re.compile(r"\{\{\s*if \.Labels\.(\w+)\s*\}\}(.*?)\{\{\s*else\s*\}\}(.*?)\{\{\s*end\s*\}\}", re.DOTALL)
_LABEL = re.compile(r"\.Labels\.(\w+)")
_VALUE = re.compile(r"\.Values\.(\w+)\.Value(?:\s*\|\s*(\w+))?")


class TemplateError(ValueError):
    """A template that this file does not read: Grafana may, our tests would not notice."""


def humanize(value: float) -> str:
    """Four significant digits and a prefix of the SI, as Prometheus writes it."""
    if value == 0 or not math.isfinite(value):
        return _short(value)
    large = abs(value) >= 1
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z") if large else ("", "m", "u", "n", "p", "f", "a", "z"):
        if abs(value) < 1000 if large else abs(value) >= 1:
            return _short(value) + prefix
        value = value / 1000 if large else value * 1000
    return _short(value) + ("Y" if large else "y")


def humanize_percentage(value: float) -> str:
    """A ratio as a percentage with four significant digits."""
    return f"{_short(value * 100)}%"


def humanize_duration(value: float) -> str:
    """Seconds as days, hours, minutes and seconds."""
    if not math.isfinite(value):
        return _short(value)
    if abs(value) < 1:
        return "0s" if value == 0 else f"{humanize(value)}s"
    sign, seconds = ("-" if value < 0 else ""), int(abs(value))
    minutes, hours, days = seconds // 60 % 60, seconds // 3600 % 24, seconds // 86400
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds % 60}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds % 60}s"
    if minutes:
        return f"{sign}{minutes}m {seconds % 60}s"
    return f"{sign}{_short(abs(value))}s"


FUNCTIONS: Mapping[str, Callable[[float], str]] = {
    "humanize": humanize,
    "humanizePercentage": humanize_percentage,
    "humanizeDuration": humanize_duration,
}


def _short(value: float) -> str:
    """Go's %.4g."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return f"{value:.4g}"


def render(template: str, labels: Mapping[str, str], values: Mapping[str, float]) -> str:
    """The text with labels and values in it; a label that is not there is ``[no value]``. TemplateError."""

    def put(match: re.Match[str]) -> str:
        action = match[1]
        label = _LABEL.fullmatch(action)
        if label:
            return labels.get(label[1], "[no value]")
        value = _VALUE.fullmatch(action)
        if value is None or (value[2] or "humanize") not in FUNCTIONS:
            raise TemplateError(f"expected .Labels.NAME or .Values.REF.Value | FUNCTION, found {{{{ {action} }}}}")
        number = values.get(value[1], math.nan)
        return FUNCTIONS[value[2]](number) if value[2] else f"{number:g}"

    chosen = _IF.sub(lambda match: match[2] if labels.get(match[1]) else match[3], template)
    return _ACTION.sub(put, chosen)
