"""What is made for readers of what the code says: manual pages, the configuration's reference, shells' completion.

`python -m manual` writes all of it anew. Flags, commands and exit statuses are those of `kpf.arguments`; fields,
defaults and values those of `kpf.config`; what a field is for is told in `manual.settings`, and nowhere else.
"""

from collections.abc import Mapping

from manual import completion, example, pages, reference


def files() -> Mapping[str, str]:
    """All that is made: what is in each file, by its path from the root of the project."""
    return {
        "share/man/man8/kpf.8": pages.command(),
        "share/man/man5/kpf.yaml.5": pages.configuration(),
        "docs/configuration.md": reference.configuration(),
        "systemd/kpf.yaml": example.configuration(),
        **completion.files(),
    }
