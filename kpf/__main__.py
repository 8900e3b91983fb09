"""`python -m kpf` is the `kpf` command."""

import sys

from kpf.cli import main

sys.exit(main())
