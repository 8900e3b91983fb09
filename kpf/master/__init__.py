"""The master: decides everything, carries nothing. One asyncio loop without threads of its own."""
