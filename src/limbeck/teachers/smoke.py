"""``python -m limbeck.teachers.smoke MODULE``: does a teacher's package load where its worker will run?"""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Import Limbeck's own loaders, which show that numpy and ase fit, then the modules named."""
    for name in ("limbeck.teachers.registry", *sys.argv[1:]):
        importlib.import_module(name)


if __name__ == "__main__":
    main()
