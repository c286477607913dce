"""After a killed run on a broker in memory: what its consumer stored and had not put into the ledger yet.

With a log on disk the next consumer reads those messages again and puts them into the ledger. A log in memory is gone,
and the windows that those events touch would never be computed.
"""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

from consumers.projector import ledger
from schemas.catalogue import KINDS

SPAN_S = 60
"""Rows stored up to this long before the ledger's last row are named again; its rows are written once a second."""

# Grain: one row a topic; nothing when nothing was stored in that time. Offsets are those of the topic's last row, so
# that the ledger has neither a hole nor another end than before.
_NAME_AGAIN = """
INSERT INTO ingest_ledger
    (at, consumer, topic, topic_id, partition, first_offset, last_offset, path, event_ts_min, event_ts_max,
     append_ts_max, minutes)
SELECT
    now64(6), 'up', {{topic:String}}, last_row.1, last_row.2, last_row.3, last_row.4, 'filter', min(ts), max(ts),
    max(stored_at), arraySort(groupUniqArray(toStartOfMinute(toDateTime(ts, 'UTC'))))
FROM {table}
CROSS JOIN
(
    SELECT if(count() = 0, tuple('', 0, 0, -1), argMax(tuple(topic_id, partition, first_offset, last_offset), at))
        AS last_row
    FROM ingest_ledger
    WHERE topic = {{topic:String}}
) AS newest
WHERE stored_at >= {{since:DateTime64(6, 'UTC')}}
GROUP BY last_row
"""


def name_again(client: Client) -> None:
    """Put into the ledger, as read and found stored, what was stored just before the ledger ended."""
    found = client.query(
        "SELECT count(), max(at) - toIntervalSecond({span:UInt32}) FROM ingest_ledger", {"span": SPAN_S}
    )
    rows, since = found.result_rows[0]
    for topic in ledger.TOPICS:
        client.command(
            _NAME_AGAIN.format(table=KINDS[topic].table),
            parameters={"topic": topic, "since": since if rows else "1970-01-01 00:00:00"},
        )
