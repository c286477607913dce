"""Configuration, the command line, the store and the broker: everything around the pipeline."""
