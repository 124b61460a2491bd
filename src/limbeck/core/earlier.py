"""Names that earlier versions used, so that their files can still be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: entry of a frame or label record -> what it was called
_PROVENANCE = {"group": "family", "config_type": "step"}
#: key of metrics.json, a model card or finalize.json -> what it was called
_KEYS = {
    "test": "heldout",
    "n_groups": "n_families",
    "stable": "survived",
    "test_by_temperature": "heldout_by_temperature",
    "test_structures": "heldout_structures",
    "test_force_rmse_mev_per_a": "heldout_force_rmse_mev_per_a",
}
_NEW = {old: new for new, old in _KEYS.items()}


def provenance(entries: Mapping[str, Any], name: str) -> str:
    """``group`` or ``config_type`` of a frame's or a record's entries, "" where it has none."""
    return str(entries.get(name, entries.get(_PROVENANCE[name], "")))


def with_new_keys(tree: Any) -> Any:
    """JSON of an earlier version with the present keys, at any depth."""
    if isinstance(tree, dict):
        # by_family: values of each trajectory, which are no longer kept
        kept = {key: value for key, value in tree.items() if key != "by_family"}
        if isinstance(kept.get("rounds"), list):  # elsewhere a number, of repeated timings
            kept["active_learning"] = kept.pop("rounds")
        return {_NEW.get(key, key): with_new_keys(value) for key, value in kept.items()}
    return [with_new_keys(value) for value in tree] if isinstance(tree, list) else tree
