"""`kpf demo`: a complete show in a network namespace of its own, with everything real: nftables, kpf, pods, clients.

It claims things and checks each with numbers. Nothing outside its namespace is touched, and nothing is left of it:
processes die with it, files are in a temporary directory.
"""

from kpf.demo.command import main

__all__ = ["main"]
