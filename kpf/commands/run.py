"""`kpf run`: the daemon, in the foreground."""

from collections.abc import Mapping, Sequence

from kpf import stderr
from kpf.commands import USAGE
from kpf.commands.configuration import configuration
from kpf.config import Config, load, warnings
from kpf.named import call_process
from kpf.observe import log


def main(flags: Mapping[str, str], usage_errors: Sequence[str]) -> int:
    """Serve until a signal ends it; what the master says is the exit status, or USAGE."""
    call_process("kpf: master")
    stderr.install()
    said: list[str] = []

    def warn(config: Config) -> Config:
        found = warnings(config)
        for warning in found:
            if warning not in said:
                log.logger.warning(warning)
        said[:] = found
        return config

    config = configuration(flags, usage_errors)
    if config is None:
        return USAGE
    log.set_up(config.logging.level, config.logging.format)
    warn(config)

    from kpf.master.master import main as run

    return run(config, lambda: warn(load(flags)))
