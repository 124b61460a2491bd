"""The check of the Potential contract, as public API.

    from limbeck.testing import check_potential
    report = check_potential(my_potential)     # raises CheckFailure with every failed check

Nothing here imports torch.
"""

from __future__ import annotations

from limbeck.testing.contract import CheckFailure, CheckReport, check_potential
from limbeck.testing.probe import CheckResult

__all__ = ["CheckFailure", "CheckReport", "CheckResult", "check_potential"]
