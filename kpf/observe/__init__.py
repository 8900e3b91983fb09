"""What the daemon tells the world: health, status, log lines, readiness. Gets plain values; asks nobody."""
