"""The configuration: one frozen value, from a file and from flags, validated whole.

Rules: a flag wins over the file; every mistake of both is found in one go; an unknown field is a mistake. A reload
makes a new value and swaps it in, or leaves the old one. A file of kube-proxy is taken too. Nothing here acts on the
configuration.
"""

from kpf.config.model import Config, Metrics, reload_needs_restart
from kpf.config.reader import FLAGS, ConfigError, load, warnings

__all__ = ["FLAGS", "Config", "ConfigError", "Metrics", "load", "reload_needs_restart", "warnings"]
