"""Benchmarks: every fast path beside its plain oracle and the machine's limit, as ratios from one run."""
