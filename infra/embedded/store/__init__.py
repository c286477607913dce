"""The embedded store: ClickHouse's engine (chDB) behind ClickHouse's HTTP protocol, in a process of its own.

Start it from Python with :class:`infra.embedded.store.process.StoreProcess`, by hand with
``python -m infra.embedded.store --data DIR``. docs/embedded.md says what differs from a real server.
"""
