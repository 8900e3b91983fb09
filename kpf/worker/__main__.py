"""`python -m kpf.worker FD`: FD is the worker's end of the channel to the master."""

import sys

from kpf.worker import signals

signals.ignore()

from kpf import stderr  # noqa: E402 (imports take a tenth of a second)
from kpf.worker.worker import main  # noqa: E402

if __name__ == "__main__":
    # it is the master's: nobody may read it
    stderr.install()
    sys.exit(main(int(sys.argv[1])))
