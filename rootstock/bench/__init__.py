"""Benchmarks as code: each measures arms that take turns, and reports ratios."""
