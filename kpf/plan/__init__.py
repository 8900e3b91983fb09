"""From what is to what must hold: pure functions from a snapshot and the node's facts to a desired state and its steps.

Does no input or output: a port that may be taken is asked about through a function that the caller gives.
"""
