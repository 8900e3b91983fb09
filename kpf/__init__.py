"""kpf: a node-local Service proxy for Kubernetes in user space."""

__version__ = "0.1.0"
