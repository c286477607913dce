"""The whole pipeline on one machine: what ``gpufleet up`` and the benchmarks start."""
