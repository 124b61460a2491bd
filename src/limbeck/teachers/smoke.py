"""``python -m limbeck.teachers.smoke MODULE[:FUNCTION]``: does a package load where its worker will run?"""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Import Limbeck's own loaders, which show that numpy and ase fit, then what is named."""
    for name in ("limbeck.teachers.registry", *sys.argv[1:]):
        module, _, function = name.partition(":")
        loaded = importlib.import_module(module)
        if function:
            getattr(loaded, function)()


if __name__ == "__main__":
    main()
