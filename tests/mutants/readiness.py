"""What a probe is told, what a restart of the unit leaves behind, and how pods follow on one another."""

from tests.mutants import Mutant

READY = "tests/test_ready.py"
UNIT = "tests/test_systemd.py"
PODS = "tests/test_examples.py"

MUTANTS = (
    Mutant(
        "who has handed over counts as ready",
        "kpf/master/own_state.py",
        'return "another kpf has taken over"',
        'return ""',
        (f"{READY}::test_who_is_ready",),
    ),
    Mutant(
        "a successor is ready before its predecessor has left",
        "kpf/master/own_state.py",
        "        if not self.effects.may_close.is_set():\n",
        "        if self.effects is None:\n",
        (f"{READY}::test_who_is_ready",),
    ),
    Mutant(
        "a probe takes any answer for a yes",
        "kpf/commands/ready.py",
        'if status == b"200":',
        'if status != b"503":',
        (f"{READY}::test_another_answer_is_none",),
    ),
    Mutant(
        "a probe reads the whole of the configuration's code",
        "kpf/cli.py",
        "    from kpf.places import DEFAULT_CONTROL_SOCKET\n",
        "    from kpf.config.model import DEFAULT_CONTROL_SOCKET\n",
        (f"{READY}::test_a_probe_loads_next_to_nothing",),
    ),
    Mutant(
        "a predecessor takes its successor's control socket away",
        "kpf/observe/http.py",
        "if self._unix_path and not handed_over:",
        "if self._unix_path:",
        ("tests/e2e/test_readiness.py::test_the_end_of_a_predecessor_takes_no_control_socket_away",),
    ),
    Mutant(
        "a stop of the unit leaves everything behind, too",
        "systemd/kpf.service",
        'in *"restart "*)',
        'in *"s"*)',
        (f"{UNIT}::test_a_restart_leaves_all_for_the_next_and_waits_for_the_end",),
    ),
    Mutant(
        "a restart does not wait until the master has left",
        "systemd/kpf.service",
        "kill -0 $$MAINPID 2>/dev/null || break",
        "break",
        (f"{UNIT}::test_a_restart_leaves_all_for_the_next_and_waits_for_the_end",),
    ),
    Mutant(
        "two pods of a node have one control socket",
        "examples/kubernetes/daemonset.yaml",
        "              mountPath: /run/kpf-of-node\n",
        "              mountPath: /run/kpf\n",
        (f"{PODS}::test_a_new_pod_begins_beside_the_old_one_and_finds_it",),
    ),
    Mutant(
        "a pod is killed while connections may go on",
        "examples/kubernetes/daemonset.yaml",
        "terminationGracePeriodSeconds: 3660",
        "terminationGracePeriodSeconds: 60",
        (f"{PODS}::test_a_pod_is_not_killed_before_it_has_drained",),
    ),
    Mutant(
        "less time at a restart than at a stop is not told",
        "kpf/config/reader.py",
        "    if config.handover_timeout < config.drain_timeout:\n",
        "    if config.handover_timeout < 0:\n",
        ("tests/test_config.py::test_less_time_at_a_restart_than_at_a_stop_is_warned_of",),
    ),
)
