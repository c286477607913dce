"""Annotations read as Grafana would write them."""

from __future__ import annotations

import pytest

from infra.grafana.alerts.template import TemplateError, humanize, humanize_duration, humanize_percentage, render


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (64, "64"), (999.95, "1000"), (1500, "1.5k"), (220_160, "220.2k"), (3.1e8, "310M"),
     (0.25, "250m"), (0.00012, "120u"), (-1500, "-1.5k"), (float("nan"), "NaN"), (float("inf"), "+Inf")],
)  # fmt: skip
def test_humanize(value: float, text: str) -> None:
    assert humanize(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.153, "15.3%"), (1.0, "100%"), (0.0001, "0.01%")])
def test_humanize_percentage(value: float, text: str) -> None:
    assert humanize_percentage(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (45, "45s"),
        (61, "1m 1s"),
        (3600, "1h 0m 0s"),
        (90_061, "1d 1h 1m 1s"),
        (-60, "-1m 0s"),
        (0.1, "100ms"),
    ],
)
def test_humanize_duration(value: float, text: str) -> None:
    assert humanize_duration(value) == text


def test_labels_and_values_are_put_in() -> None:
    text = "{{ .Labels.node }} GPU {{.Labels.gpu}}: {{ .Values.B.Value | humanize }} of {{ .Values.B.Value }}"
    assert render(text, {"node": "h100-r0001-n01", "gpu": "3"}, {"B": 1500.0}) == "h100-r0001-n01 GPU 3: 1.5k of 1500"


def test_an_alert_without_labels_has_words_of_its_own() -> None:
    text = "{{ if .Labels.site }}Site {{ .Labels.site }} is old.{{ else }}Nothing answers.{{ end }} Look."
    assert render(text, {"site": "s1"}, {}) == "Site s1 is old. Look."
    assert render(text, {}, {}) == "Nothing answers. Look."


def test_a_missing_label_shows() -> None:
    assert render("{{ .Labels.node }}", {}, {}) == "[no value]"


@pytest.mark.parametrize("text", ["{{ $labels.node }}", "{{ .Values.B.Value | printf }}", "{{ if .Labels.a }}"])
def test_what_this_file_does_not_read_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        render(text, {}, {})
