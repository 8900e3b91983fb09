"""The manual pages: kpf(8) of the parser, kpf.yaml(5) of the configuration's fields."""

from argparse import Action, ArgumentParser
from collections.abc import Mapping

from kpf import __version__
from kpf.arguments import ABOUT, COMMANDS, parsers
from kpf.config import Config
from kpf.config.reader import API_VERSION, KIND
from manual.fields import groups
from manual.roff import Page

SOURCE = f"kpf {__version__}"
CONFIGURATION = "/etc/kpf/kpf.yaml"


def command() -> str:
    """kpf(8)."""
    page = Page("KPF", 8, SOURCE)
    page.heading("Name")
    page.paragraph("kpf - Service proxy for Kubernetes in user space")
    page.heading("Synopsis")
    page.paragraph("`kpf` COMMAND [FLAG ...]")
    page.heading("Description")
    page.paragraph(
        f"{ABOUT} A master follows Services and EndpointSlices, and has nftables redirect what is sent to a Service to "
        "its workers, which dial an endpoint in its turn, and the next one if that fails."
    )
    page.heading("Commands")
    _, commands = parsers()
    shared = _flags(commands["run"])
    for name, parser in commands.items():
        _command(page, name, parser, shared if name != "run" else {})
    page.heading("Files")
    page.item(f"`{CONFIGURATION}`", "The configuration that the unit gives to kpf: kpf.yaml(5).")
    page.item(f"`{Config().control_socket}`", "Where `kpf status` asks the daemon.")
    page.item(f"`{Config().handover_path}`", "Where the next kpf asks for all that this one has.")
    page.heading("Examples")
    page.literal(
        [
            "kpf check --manifests DIR --strict",
            "kpf run --manifests DIR",
            "kubectl get services,endpointslices -A -o yaml > DIR/all.yaml",
            "kpf status",
        ]
    )
    page.heading("See also")
    page.paragraph("kpf.yaml(5), nft(8), systemctl(1)")
    return str(page)


def _flags(parser: ArgumentParser) -> Mapping[str, Action]:
    """By how they are shown; without that of help, of which every help tells. Arguments that are no flags, too."""
    return {_shown(action): action for action in parser._actions if action.dest != "help"}


def _shown(action: Action) -> str:
    names = ", ".join(f"`{one}`" for one in action.option_strings)
    # one without a value takes none; a positional one is its value
    value = action.metavar or ("" if action.nargs == 0 else action.dest)
    return f"{names} {value}".strip()


def _command(page: Page, name: str, parser: ArgumentParser, shared: Mapping[str, Action]) -> None:
    """`shared`: flags that are told once, of a command that has all of them."""
    told = COMMANDS[name]
    page.subheading(f"kpf {name}")
    page.paragraph(f"{told.summary[:1].upper()}{told.summary[1:]}. {told.description}")
    flags = _flags(parser)
    if shared and shared.keys() <= flags.keys():
        flags = {shown: action for shown, action in flags.items() if shown not in shared}
        page.paragraph(f"Takes the flags of `kpf run`{', and:' if flags else '.'}")
    for shown, action in flags.items():
        page.item(shown, f"{action.help}.")
    page.paragraph("Exit status:")
    for status, meaning in told.exit_statuses.items():
        page.item(f"`{status}`", f"{meaning}.")


def configuration() -> str:
    """kpf.yaml(5)."""
    page = Page("KPF.YAML", 5, SOURCE)
    page.heading("Name")
    page.paragraph("kpf.yaml - configuration of kpf")
    page.heading("Description")
    page.paragraph(
        "A YAML file for `kpf run --config FILE`. A flag wins over its field, a field that there is not is an error, "
        "null stands for one that is not given, and lists may be written with commas. SIGHUP reads the file anew; what "
        "is wrong in it is said then, and the old one stays in force. `kpf check --config FILE` says it before."
    )
    page.literal([f"apiVersion: {API_VERSION}", f"kind: {KIND}", "manifests: /etc/kpf/manifests"])
    for title, fields in groups():
        page.heading(title)
        for field in fields:
            text = field.text + (f" One of {', '.join(field.values)}." if field.values else "")
            flag = f" Flag: `{field.flag}`." if field.flag else ""
            restart = " Only a restart changes it." if field.needs_restart else ""
            page.item(f"`{field.name}`", f"{text} Default: {field.default}.{flag}{restart}")
    page.heading("See also")
    page.paragraph("kpf(8)")
    return str(page)
