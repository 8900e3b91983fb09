"""Table `inet kpf`: what it looks like, what changes from one state of it to the next, and how the kernel is told."""
