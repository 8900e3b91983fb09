"""What kpf costs: load scripts for any running kpf, kpf beside its peers, and a worker alone."""
