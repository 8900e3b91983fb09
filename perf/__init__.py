"""What kpf costs, measured in a network namespace of one's own."""
