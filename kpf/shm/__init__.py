"""Shared memory of master and workers: round robin, members, affinity, health, counters. Nothing of Kubernetes."""
