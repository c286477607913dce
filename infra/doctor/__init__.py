"""Checking what gpufleet depends on, and saying what to do about it."""
