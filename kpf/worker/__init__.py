"""A worker process: accepts, picks, dials, relays. Knows slots, addresses and ports; nothing of Kubernetes."""
