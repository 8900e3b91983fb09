"""Immutable values in the API's words: what sources produce and plans are made of. Pure; imports nothing of kpf."""
