"""From Kafka into ClickHouse: every event stored exactly once, projections recomputed from it."""
