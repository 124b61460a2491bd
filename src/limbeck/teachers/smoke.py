"""``python -m limbeck.teachers.smoke MODULE[:FUNCTION]``: test that a teacher's package can be imported."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Import Limbeck's loaders, which need numpy and ase, then the given module."""
    for name in ("limbeck.teachers.registry", *sys.argv[1:]):
        module, _, function = name.partition(":")
        loaded = importlib.import_module(module)
        if function:
            getattr(loaded, function)()


if __name__ == "__main__":
    main()
