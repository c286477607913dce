"""Dead letters for people: find them, read them, send them again, put them aside (``gpufleet dlq``)."""
