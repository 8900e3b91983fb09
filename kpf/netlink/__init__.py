"""Netlink on the event loop: a socket of our own, messages encoded by pyroute2's classes."""
