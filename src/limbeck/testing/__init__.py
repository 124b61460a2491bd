"""The check of the Potential contract, as public API.

    from limbeck.testing import check_potential
    report = check_potential(my_potential)     # raises CheckFailure with every failed check

Nothing here imports torch.
"""

from __future__ import annotations

from limbeck.testing.contract import check_potential
from limbeck.testing.report import CheckFailure, CheckReport, CheckResult

__all__ = ["CheckFailure", "CheckReport", "CheckResult", "check_potential"]
