"""``python -m limbeck.cli`` is ``limbeck``."""

from __future__ import annotations

import sys

from limbeck.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
