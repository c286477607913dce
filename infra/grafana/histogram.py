"""Percentiles out of histograms: usage windows keep counts per bucket, never single requests.

A histogram is ``latency_bounds_ms`` (upper bounds) and counts with one more bucket above the last bound. Windows may
have different bounds; they are added bound by bound.
"""

from __future__ import annotations

from typing import Final

BUCKETS_MS: Final = (100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
"""Bounds that a heat map is drawn by. [ms]"""


def merged(rows: str, counts: str, keys: str) -> str:
    """A subquery: ``keys`` and the histogram of each: bounds, counts (one longer), reached (cumulated), total.

    ``rows`` is a subquery with ``keys``, latency_bounds_ms and the array ``counts``.
    """
    return f"""(
    SELECT {keys}, bounds, counts, arrayCumSum(counts) AS reached, arraySum(counts) AS total
    FROM
    (
        SELECT {keys},
            groupArray((h_bounds, h_counts)) AS parts,
            arraySort(arrayDistinct(arrayFlatten(groupArray(h_bounds)))) AS bounds,
            arrayPushBack(
                arrayMap(bound -> arraySum(part -> part.2[indexOf(part.1, bound)], parts), bounds),
                arraySum(part -> part.2[-1], parts)) AS counts
        FROM
        (
            SELECT {keys}, latency_bounds_ms AS h_bounds, sumForEach({counts}) AS h_counts
            FROM {rows}
            WHERE notEmpty({counts})
            GROUP BY {keys}, h_bounds
        )
        GROUP BY {keys}
    )
)"""


def percentile(q: float) -> str:
    """Of a row of ``merged``, in ms: linear within a bucket; what lies above the last bound counts as that bound."""
    at = f"arrayFirstIndex(sum -> sum >= total * {q}, reached)"
    low = f"if({at} = 1, 0, bounds[{at} - 1])"
    within = f"{low} + (bounds[{at}] - {low}) * (total * {q} - (reached[{at}] - counts[{at}])) / counts[{at}]"
    return f"if(total = 0, NULL, if({at} > length(bounds), toFloat64(bounds[-1]), {within}))"


def buckets() -> str:
    """Columns of a row of ``merged`` for a heat map: requests per bucket of BUCKETS_MS, the lowest first."""
    columns = []
    for low, high in zip((-1, *BUCKETS_MS), (*BUCKETS_MS, None), strict=True):
        inside = f"bound > {low}" if high is None else f"bound > {low} AND bound <= {high}"
        name = f"more than {low / 1000:g} s" if high is None else f"up to {high / 1000:g} s"
        beyond = " + counts[-1]" if high is None else ""
        columns.append(f'arraySum((bound, n) -> if({inside}, n, 0), bounds, arrayPopBack(counts)){beyond} AS "{name}"')
    return ",\n    ".join(columns)
