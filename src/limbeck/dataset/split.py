"""Training and validation parts of a labelled set, cut between groups."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from limbeck.core.hashing import hash_structure
from limbeck.core.labels import LabelledSet
from limbeck.core.scans import scan_mask
from limbeck.errors import InputError

_MOST_OF_STRATUM = 0.5  # of one config_type and temperature validate, unless a larger fraction is asked for
_NEAR = 0.5  # of the fraction asked for: a smaller validation set is warned of


@dataclass(frozen=True)
class Split:
    """Which structures train and which validate.

    Attributes
    ----------
    train_index: (T,) int64, into the set that was split, sorted unless it is a permutation.
    val_index: (V,) int64, into the set that was split, or into ``val_set`` where there is one.
    how: how the set was cut, for the model card and the log.
    val_set: the validation set that was given, or None.
    """

    train_index: np.ndarray
    val_index: np.ndarray
    how: str
    val_set: LabelledSet | None = None

    def parts(self, labelled: LabelledSet) -> tuple[LabelledSet, LabelledSet]:
        """The training and the validation set; ``labelled`` is the set that was split."""
        source = labelled if self.val_set is None else self.val_set
        return labelled.select(self.train_index), source.select(self.val_index)


def split(labelled: LabelledSet, val: float | LabelledSet, seed: int = 0) -> Split:
    """Cut a labelled set into training and validation set.

    Parameters
    ----------
    val: a validation set, whose structures found in ``labelled`` do not train; or a fraction. Then whole
        groups validate, as near to the fraction as the groups allow, spread over the kinds of frame
        (config_type) and temperatures. A structure without a group is a group of its own; in a set without
        any group a random permutation validates its end. Of a set of one group the end validates, with a
        warning in ``how``. Close-contact scans always train: a few collisions would outweigh all other
        validation errors.

    Raises
    ------
    InputError: fewer than two structures, or a fraction outside (0, 1).
    """
    if isinstance(val, LabelledSet):
        return _against(labelled, val)
    if not 0.0 < val < 1.0:
        what = "invalid validation fraction"
        raise InputError(what, where="--val", got=val, wanted="between 0 and 1")
    scans = scan_mask(labelled.config_type)
    if scans.any() and not scans.all():
        rest = np.flatnonzero(~scans)
        inner = split(labelled.select(rest), val, seed)
        how = f"{inner.how}; {int(scans.sum())} frames of close-contact scans train and do not validate"
        train = np.concatenate([rest[inner.train_index], np.flatnonzero(scans)])
        return Split(np.sort(train), rest[inner.val_index], how)
    n = len(labelled)
    if n < 2:
        raise InputError("too few structures to split", where="--val", got=n, wanted="2 or more")
    target = min(max(round(val * n), 1), n - 1)
    if not (labelled.group != "").any():
        order = np.random.default_rng(seed).permutation(n)
        how = f"{n} structures without groups permuted with seed {seed}, the last {target} validate"
        return Split(order[: n - target], order[n - target :], how)
    group = np.where(labelled.group == "", np.char.add("\0", np.arange(n).astype(str)), labelled.group)
    names, member = np.unique(group, return_inverse=True)  # (K,), (n,)
    if len(names) == 1:
        how = (
            f"warning: all {n} structures are of one group, so the last {target} validate; both sets have "
            "frames correlated in time, so validation errors may be too small; sample more trajectories"
        )
        return Split(np.arange(n - target), np.arange(n - target, n), how)
    stratum = _strata(labelled, member, len(names))
    size = np.bincount(member)
    chosen = _choose(size, stratum, target, max(_MOST_OF_STRATUM, val), np.random.default_rng(seed))
    mask = chosen[member]
    how = _describe(size, stratum, chosen, target, seed)
    return Split(np.flatnonzero(~mask), np.flatnonzero(mask), how)


def _against(labelled: LabelledSet, val: LabelledSet) -> Split:
    if not len(val):
        raise InputError("the validation set is empty", where="--val", wanted="at least one structure")
    double = found_in(labelled, val)
    if double.all():
        raise InputError(
            "every training structure is also in the validation set",
            where="--val",
            got=f"{len(labelled)} structures in common",
            wanted="structures that are only in one of them",
        )
    how = f"{len(val)} structures of a separate set validate"
    if double.any():
        how += f"; {int(double.sum())} of them are in the training data too and do not train"
    if common := sorted((set(labelled.group[~double]) & set(val.group)) - {""}):
        how += f"; warning: {len(common)} group names are in both sets ({common[0]}, ...)"
    return Split(np.flatnonzero(~double), np.arange(len(val)), how, val)


def found_in(labelled: LabelledSet, other: LabelledSet) -> np.ndarray:
    """(S,) bool: structures of ``labelled`` that ``other`` holds as well."""
    known = {hash_structure(atoms) for atoms in other.structures.to_atoms()}
    return np.array([hash_structure(atoms) in known for atoms in labelled.structures.to_atoms()], bool)


def _strata(labelled: LabelledSet, member: np.ndarray, n_groups: int) -> np.ndarray:
    """(K,) a number for each config_type and median temperature of a group, in that order."""
    keys = []
    for k in range(n_groups):
        own = np.flatnonzero(member == k)
        known = labelled.temperature_k[own][np.isfinite(labelled.temperature_k[own])]
        keys.append((str(labelled.config_type[own[0]]), round(float(np.median(known))) if len(known) else -1))
    return np.array([sorted(set(keys)).index(key) for key in keys], dtype=np.int64)


def _choose(
    size: np.ndarray, stratum: np.ndarray, target: int, most: float, rng: np.random.Generator
) -> np.ndarray:
    """Which groups validate, (K,) bool.

    The strata take turns in offering a group, in random order; a group is taken where that brings the
    total nearer to the target. At most the share ``most`` < 1 of a stratum's structures validate, so each
    keeps a training group: the student should see every temperature that it is to work at.
    """
    groups = rng.permutation(len(size))
    queues = [groups[stratum[groups] == s].tolist() for s in rng.permutation(np.unique(stratum))]
    room = most * np.bincount(stratum, weights=size)
    chosen, total = np.zeros(len(size), dtype=bool), 0
    for k in chain.from_iterable(zip_longest(*queues)):
        if k is None or size[k] > room[stratum[k]]:
            continue
        if abs(total + size[k] - target) < abs(total - target):
            chosen[k] = True
            room[stratum[k]] -= size[k]
            total += size[k]
    if chosen.any():
        return _exchange(chosen, size, stratum, target, most)
    # No stratum can spare a group. One validates all the same: of a stratum with several groups, then
    # nearest to the target in size, then of a temperature in the middle, which the others bracket.
    several = np.bincount(stratum)[stratum] > 1
    chosen[np.lexsort((np.abs(stratum - np.median(stratum)), np.abs(size - target), ~several))[0]] = True
    return chosen


def _exchange(
    chosen: np.ndarray, size: np.ndarray, stratum: np.ndarray, target: int, most: float
) -> np.ndarray:
    """Swap two groups of one stratum as long as that brings the total nearer to the target."""
    whole = np.bincount(stratum, weights=size)
    while True:
        miss = int(size[chosen].sum()) - target
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        change = size[outside][None, :] - size[inside][:, None]  # (chosen, others)
        taken = np.bincount(stratum, weights=size * chosen, minlength=len(whole))[stratum[inside]]
        fits = (stratum[inside][:, None] == stratum[outside][None, :]) & (
            taken[:, None] + change <= most * whole[stratum[inside]][:, None]
        )
        after = np.where(fits, np.abs(miss + change), np.inf)
        if not after.size or after.min() >= abs(miss):
            return chosen
        i, o = np.unravel_index(int(after.argmin()), after.shape)
        chosen[inside[i]], chosen[outside[o]] = False, True


def _describe(size: np.ndarray, stratum: np.ndarray, chosen: np.ndarray, target: int, seed: int) -> str:
    taken = int(size[chosen].sum())
    how = (
        f"{int(chosen.sum())} of {len(size)} groups validate ({taken} of {int(size.sum())} structures, "
        f"{target} asked for), seed {seed}"
    )
    validating, training = set(stratum[chosen]), set(stratum[~chosen])
    both, either = validating & training, validating | training
    if both != either:
        how += f"; {len(both)} of {len(either)} config_types and temperatures are in both sets"
    if taken < _NEAR * target or taken > 2 * target + 1:
        how += "; warning: groups are too few to come near the fraction; sample more trajectories (starts)"
    if not validating <= training:
        how += "; warning: a whole config_type or temperature validates and does not train"
    return how
