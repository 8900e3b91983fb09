"""Shared memory of master and workers: turns, members, pins, health, counters. Knows nothing of Kubernetes."""
