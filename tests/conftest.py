"""Every test process moves into a network namespace with no uplink of its own before anything is opened.

As root or, where the kernel allows it, as an ordinary user in a user namespace of one id. Where it does not, the tests
that touch the kernel's network are skipped and say why; the pure ones run.
"""

import gc
import getpass
import os
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings

from kpf.lab import namespace

_refused: str | None = None

# modules that stay off the kernel's network tables run anywhere; every other one needs the namespace
PURE_PREFIXES = (
    "test_access",
    "test_api_address",
    "test_api_convergence",
    "test_api_events",
    "test_api_memory",
    "test_cache",
    "test_cli",
    "test_config",
    "test_connections",
    "test_decode",
    "test_distribution",
    "test_docstrings",
    "test_documents",
    "test_examples",
    "test_explain",
    "test_follower",
    "test_health.py",
    "test_journal",
    "test_labels",
    "test_layers",
    "test_lint",
    "test_manifests",
    "test_manual",
    "test_metrics.py",
    "test_monitoring",
    "test_mutants",
    "test_nft_known",
    "test_parsing",
    "test_peers.py",
    "test_perf_figures",
    "test_plan",
    "test_prometheus",
    "test_reflector",
    "test_refusals",
    "test_report",
    "test_schedule",
    "test_service_manager.py",
    "test_shm",
    "test_starts",
    "test_status",
    "test_stored_objects",
    "test_story",
    "test_suggestions",
    "test_supervisor",
    "test_systemd",
    "test_uapi",
)


# how long an example takes, to make or to try, says something of the machine and nothing of kpf
settings.register_profile("kpf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kpf")


def pytest_configure() -> None:
    global _refused
    # until all is collected: nothing of it is garbage
    gc.disable()
    # aiohttp reads the system's certificates when it is imported, which costs each process 55 ms of CPU; no test talks
    # to anybody whose certificate they are for
    os.environ.setdefault("SSL_CERT_FILE", os.devnull)
    # inside we are root, and pytest's temporary directory would be named after that, not after who owns it
    # an arbitrary user id, as in a container, has no name
    with suppress(KeyError, OSError):
        os.environ.setdefault("LOGNAME", getpass.getuser())
    try:
        namespace.enter()
    except OSError as error:
        _refused = str(error)


def pytest_report_header() -> str:
    if _refused:
        return f"kpf: no network namespace of our own ({_refused}): only the pure tests run"
    return "kpf: in a network namespace of our own"


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Tell what was measured: it is printed at the end of the run."""
    return lambda text: request.node.user_properties.append(("figure", text))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    figures = [text for report in reports for name, text in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for text in figures:
            terminalreporter.write_line(text)


def pytest_collection_finish() -> None:
    # no collection looks at it again, nor does one of a process that is forked copy it
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _refused is None:
        return
    skip = pytest.mark.skip(reason=f"needs a network namespace of its own: {_refused}")
    for item in items:
        if not item.path.name.startswith(PURE_PREFIXES):
            item.add_marker(skip)
