"""``python -m warploom``: the ``warploom`` command."""

import sys

from warploom.cli import main

sys.exit(main())
