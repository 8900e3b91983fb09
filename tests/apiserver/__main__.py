"""`python -m tests.apiserver DESCRIPTOR HISTORY`: see `process`."""

import sys

from tests.apiserver.process import main

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
