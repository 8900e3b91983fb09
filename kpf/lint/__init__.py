"""What is allowed in manifests and probably a mistake: for `kpf check` alone.

A daemon ignores what it does not know, and so does an API server that is not asked to be strict. Here it is said, with
the nearest right word: fields and kinds that there are not, names that do not fit together, files that nobody reads.
"""

from kpf.lint.findings import Findings, look

__all__ = ["Findings", "look"]
