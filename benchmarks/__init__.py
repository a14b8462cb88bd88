"""Benchmarks: every fast path beside its plain oracle and the machine's limit, as ratios from one run."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does
os.environ.setdefault("LANCE_LOG", "error")
