"""`kpf render`: the nftables ruleset of a daemon that starts here, without starting one."""

import sys
from collections.abc import Mapping, Sequence

from kpf.commands import FAILED, OK, USAGE
from kpf.commands.configuration import configuration
from kpf.config import Config
from kpf.master.facts import NodeWatch
from kpf.master.source import read_once
from kpf.model.snapshot import Snapshot
from kpf.nft.text import render
from kpf.plan.desired import DesiredState
from kpf.plan.preview import first_choice, plan_lines


def main(flags: Mapping[str, str], usage_errors: Sequence[str]) -> int:
    """Print the ruleset as one `nft -f` file; problems go to standard error. OK, or USAGE if there are any.

    FAILED if the source does not tell what it has.
    """
    config = configuration(flags, usage_errors)
    if config is None:
        return USAGE
    try:
        snapshot = read_once(config)
    except OSError as error:
        print(f"kpf render: {error}", file=sys.stderr)
        return FAILED
    state = planned(config, snapshot)
    sys.stdout.write(render(state.rules, plan_lines(state)))
    found = (*snapshot.problems, *state.problems)
    for problem in found:
        print(problem, file=sys.stderr)
    return USAGE if found else OK


def planned(config: Config, snapshot: Snapshot) -> DesiredState:
    """What would hold on this node as it is now."""
    return first_choice(snapshot, NodeWatch.read(config).facts(snapshot), config.port_range.ports)
