"""`python -m kpf.worker FD`: FD is the worker's end of the channel to the master."""

import sys

from kpf import stderr
from kpf.worker.worker import main

if __name__ == "__main__":
    # it is the master's: nobody may read it
    stderr.install()
    sys.exit(main(int(sys.argv[1])))
