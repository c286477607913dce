"""The contract between producers and consumers: Avro schemas, their ids, and their bytes on the wire."""
