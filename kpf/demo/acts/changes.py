"""What clients notice of changes under load: of manifests, and of the configuration."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from signal import SIGHUP

from kpf.demo.acts.load import CALM_S, HEADER, claim_no_error, kept_row, row
from kpf.demo.numbers import is_even, window
from kpf.demo.scene import MEMBERS, SPARE, Scene
from kpf.demo.stage import Stage
from kpf.lab.clients import failures
from kpf.lab.load import UnderLoad

# how soon a change of a file is in effect
PROMISED_S = 1.0
# then the show goes on, with a claim that is broken
PATIENCE_S = 5.0
RELOADED = "configuration and manifests are read anew"
BROKEN_FILE = "shop.yaml"
BROKEN_TEXT = "kind: Service\nspec: {ports: [\n"
REFUSED = ("the old one stays in force", "logging.format", BROKEN_FILE)


@dataclass(frozen=True, slots=True)
class _Edit:
    """When the file was written, and since when it has been in effect for every new connection; monotonic seconds."""

    written_s: float
    settled_s: float


def edits(stage: Stage, scene: Scene) -> None:
    """A pod is added and one is taken away by writing a file: who is new gets its share, who is open goes on."""
    removed, *stay = MEMBERS
    stage.act("Manifest edited under load", f"{SPARE} is added, then {removed} is taken away")
    with scene.load() as load:
        stage.doing(f"{len(MEMBERS)} pods")
        stage.pause(CALM_S)
        more = _edit(stage, scene, load, (*MEMBERS, SPARE))
        fewer = _edit(stage, scene, load, (*stay, SPARE))
        report = load.stop()
    scene.serve_shop(MEMBERS)
    stage.wait_for(lambda: scene.endpoints().keys() == set(MEMBERS), PATIENCE_S)
    with_spare = window(report.new, more.settled_s, fewer.written_s)
    without_removed = window(report.new, fewer.settled_s, float("inf"))
    rows = [
        row(f"{len(MEMBERS)} pods", window(report.new, 0.0, more.written_s)),
        row(f"+ {SPARE}", with_spare),
        row(f"- {removed}", without_removed),
        kept_row(report),
    ]
    stage.table(HEADER, rows)
    gained_s = min((one.began_s for one in report.new if one.name == SPARE), default=float("inf")) - more.written_s
    lost_s = max((one.began_s for one in report.new if one.name == removed), default=float("inf")) - fewer.written_s
    effect = f"{SPARE} in after {_ms(gained_s)}, {removed} out after {_ms(lost_s)}"
    claim_no_error(stage, report)
    is_soon = gained_s < PROMISED_S and lost_s < PROMISED_S
    stage.claim(f"a file is in effect within a second: {effect}", is_soon)
    is_shared = is_even(with_spare, (*MEMBERS, SPARE)) and is_even(without_removed, (*stay, SPARE))
    stage.claim(f"{SPARE} has exactly its share, {removed} nothing any more", is_shared)
    kept = report.kept.get(removed, 0)
    go_on = kept > 0 and not failures(report.asked)
    stage.claim(f"the {kept} kept connections to {removed}, no endpoint any more, go on", go_on)
    stage.result(effect)


def _edit(stage: Stage, scene: Scene, load: UnderLoad, pods: Collection[str]) -> _Edit:
    stage.doing(f"shop.yaml has {', '.join(sorted(pods))}")
    # with nothing under way, what began before and what began after can be told apart
    with load.still():
        written_s = time.monotonic()
        scene.serve_shop(pods)
    stage.wait_for(lambda: scene.endpoints().keys() == set(pods), PATIENCE_S)
    with load.still():
        settled_s = time.monotonic()
    stage.pause(CALM_S)
    return _Edit(written_s, settled_s)


def _ms(seconds: float) -> str:
    return f"{max(seconds, 0.0) * 1000:.0f} ms"


def reloads(stage: Stage, scene: Scene) -> None:
    """The configuration changes, and changes for the worse; clients notice neither."""
    stage.act("SIGHUP under load", "the log turns to JSON, then configuration and a manifest are broken")
    with scene.load() as load:
        stage.doing("SIGHUP: the log in JSON")
        scene.configure(log_format="json")
        changed = _reload(stage, scene, RELOADED)
        stage.pause(CALM_S)
        stage.doing("SIGHUP: both files broken")
        scene.configure(log_format="xml")
        scene.manifests.write_text(BROKEN_FILE, BROKEN_TEXT)
        refused = _reload(stage, scene, *REFUSED)
        stage.pause(CALM_S)
        in_force = scene.endpoints().keys()
        stage.doing("SIGHUP: all as it was")
        scene.write_all()
        restored = _reload(stage, scene, RELOADED)
        stage.pause(CALM_S)
        report = load.stop()
    stage.table(HEADER, [row("new", report.new), kept_row(report)])
    for line in (*changed, *refused, *restored):
        stage.say(f"  | {line}", style="dim", wraps=False)
    claim_no_error(stage, report)
    formats = [{_format(line) for line in lines} for lines in (changed, refused, restored)]
    is_reloaded = formats == [{"json"}, {"json"}, {"text"}]
    stage.claim("the log is in JSON from one line to the next, and in text again", is_reloaded)
    stage.claim("what is broken is named; what was in force stays so", bool(refused) and in_force == set(MEMBERS))
    failed = len(failures([*report.new, *report.asked]))
    stage.result(f"{failed} errors on {len(report.new)} new and {sum(report.kept.values())} kept connections")


def _reload(stage: Stage, scene: Scene, *signs: str) -> list[str]:
    """SIGHUP; the lines with `signs` in them that kpf logs then, none if it has not said them all in time."""
    known = len(scene.daemon.log())

    def said() -> list[str]:
        lines = scene.daemon.log()[known:].splitlines()
        return [line for line in lines if any(sign in line for sign in signs)]

    scene.daemon.signal(SIGHUP)
    complete = stage.wait_for(lambda: all(any(sign in line for line in said()) for sign in signs), PATIENCE_S)
    return said() if complete else []


def _format(line: str) -> str:
    return "json" if line.startswith("{") else "text"
