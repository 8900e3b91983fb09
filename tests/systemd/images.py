"""What the machines of these tests boot: Debian with systemd and kpf's dependencies; and kpf itself, as a wheel.

Made by `python -m tests.systemd.images`, as root, by debootstrap and pip as they are configured here. Images are kept
in `$KPF_SYSTEMD_CACHE`, .cache/systemd by default, and made again when pyproject.toml is newer; the wheel each time.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
CACHE = Path(os.environ.get("KPF_SYSTEMD_CACHE", CHECKOUT / ".cache" / "systemd")).absolute()
# the releases, with the version of Python that each has
RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
PACKAGES = ("systemd", "systemd-sysv", "dbus", "iproute2", "python3-venv", "procps")


def image(release: str) -> Path:
    """The root of a release's files; whoever boots it leaves it as it is."""
    return CACHE / release


def wheel() -> Path:
    """The one of this checkout. Raises `ValueError` if it has not been made."""
    (one,) = (CACHE / "wheel").glob("*.whl")
    return one


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True)


def _pip(*argv: str | Path) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *argv)


def _make_wheel() -> None:
    # setuptools takes from build/ what has been deleted from the checkout
    for old in (CACHE / "wheel", CHECKOUT / "build"):
        shutil.rmtree(old, ignore_errors=True)
    _pip("wheel", "--no-deps", "--wheel-dir", CACHE / "wheel", CHECKOUT)


def _make_image(release: str) -> None:
    """Without a network in the image: packages come by the programs of this machine."""
    new = CACHE / f"{release}.new"
    shutil.rmtree(new, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", release, new)
    wheels = new / "srv" / "wheels"
    _pip("download", "--only-binary=:all:", "--python-version", RELEASES[release], "--dest", wheels, wheel())
    _run("chroot", new, "python3", "-m", "venv", "/opt/kpf")
    inside = f"/srv/wheels/{wheel().name}"
    _run("chroot", new, "/opt/kpf/bin/pip", "install", "--quiet", "--no-index", "--find-links=/srv/wheels", inside)
    shutil.rmtree(image(release), ignore_errors=True)
    new.rename(image(release))


def main() -> None:
    """Make what is missing or old. Raises `CalledProcessError` if a program fails."""
    CACHE.mkdir(parents=True, exist_ok=True)
    _make_wheel()
    changed_s = (CHECKOUT / "pyproject.toml").stat().st_mtime
    for release in RELEASES:
        made = image(release)
        if not made.exists() or made.stat().st_ctime < changed_s:
            _make_image(release)


if __name__ == "__main__":
    main()
