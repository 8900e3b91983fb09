"""`python -m kpf.worker FD [VERSION [NAME]]`: FD is the worker's end of the channel to the master, kpf VERSION.

NAME is for people, who look at processes. Another version may have been installed since the master has started; a
worker of that one cannot serve it.
"""

import sys

from kpf.worker import signals

signals.ignore()

from kpf import __version__, stderr  # noqa: E402 (imports take a tenth of a second)

if __name__ == "__main__":
    # it is the master's: nobody may read it
    stderr.install()
    if sys.argv[2:3] not in ([], [__version__]):
        sys.exit(f"this is kpf {__version__}, and its master is kpf {sys.argv[2]}: kpf has to be restarted")

    # not before: another version may lack something by now
    from kpf.worker.worker import main

    sys.exit(main(int(sys.argv[1])))
