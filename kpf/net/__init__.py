"""Sockets, and messages between master and workers. Knows nothing of Kubernetes; a worker imports it."""
