"""The acts of the show, in their order. Each says what it does, shows figures, and makes claims that they bear out.

An act leaves the scene as it found it. It raises what the lab raises if it cannot be played to its end.
"""

from kpf.demo.acts.changes import edits, reloads
from kpf.demo.acts.ending import stop
from kpf.demo.acts.failures import dead_pods, dead_worker
from kpf.demo.acts.fairness import affinity, turns

ACTS = (turns, affinity, dead_pods, dead_worker, edits, reloads)

__all__ = ["ACTS", "stop"]
