"""Netlink on the event loop: a socket of our own, and messages encoded by hand."""
