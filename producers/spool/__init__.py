"""The durable spool: events are on disk before they count as sampled, and go when the broker acknowledged them.

``SpoolOutbox`` (outbox.py) stands between the encoder and the publisher; storing.py keeps the files, draining.py sends
the backlog. Beneath them, from the inside out:
records (record.py) in files (segment.py) of two logs (log.py), facts and samples; what was thinned or given up, by
sequence number (accounts.py, thin.py, bounds.py); and how a backlog is sent (pace.py).
"""
