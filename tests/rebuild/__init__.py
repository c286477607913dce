"""Tests of `gpufleet rebuild`."""
