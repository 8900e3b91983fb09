"""kpf and its peers in one namespace, in turn: what each costs for the same work. `python -m perf.peers` runs it.

    cases x subjects -> order -> runner ==Turns==> figures -> targets -> tables, plots

`runner` and `subjects` have effects; what comes after needs nothing but the record, and can be made anew from its JSON.
"""
