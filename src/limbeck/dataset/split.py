"""Training and validation parts of a labelled set, cut between groups."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from limbeck.core.hashing import hash_structure
from limbeck.core.labels import LabelledSet
from limbeck.core.scans import scan_mask
from limbeck.errors import InputError

_MOST_OF_STRATUM = 0.5  # validation takes no more of one step and temperature unless asked for more
_NEAR = 0.5  # a validation part under this share of what was asked for is remarked on


@dataclass(frozen=True)
class Split:
    """Which structures train and which validate.

    Attributes
    ----------
    train_index: (T,) int64, into the set that was split, sorted unless it is a permutation.
    val_index: (V,) int64, into the set that was split, or into ``val_set`` where there is one.
    how: one sentence or several for the card and the log.
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
    """Cut a labelled set.

    ``val`` a set: that set validates; structures of it found in ``labelled`` do not train.
    ``val`` a fraction: whole groups validate, chosen so that their structures come as near to
    the fraction as the groups allow, spread over steps and temperatures. Structures without
    a group in a set with groups count as groups of their own. A set without any group is
    permuted by ``numpy.random.default_rng(seed)``: the first n - round(fraction * n) train. A
    single group is cut once, the last part validates, and ``how`` warns. Contact scans always train:
    a few collisions would outweigh all else in a validation error.

    Raises
    ------
    InputError: fewer than two structures, or a fraction outside (0, 1).
    """
    if isinstance(val, LabelledSet):
        return _against(labelled, val)
    if not 0.0 < val < 1.0:
        what = "the validation fraction is out of range"
        raise InputError(what, where="--val", got=val, wanted="between 0 and 1")
    scans = scan_mask(labelled.config_type)
    if scans.any() and not scans.all():
        rest = np.flatnonzero(~scans)
        inner = split(labelled.select(rest), val, seed)
        how = f"{inner.how}; {int(scans.sum())} frames of contact scans train and do not validate"
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
            f"warning: all {n} structures are of one group, so the last {target} validate and neighbours "
            "in time stand on both sides; validation errors may be too small; sample more trajectories"
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
    how = f"{len(val)} structures of a set of their own validate"
    if double.any():
        how += f"; {int(double.sum())} of them were in the training data too and do not train"
    if common := sorted((set(labelled.group[~double]) & set(val.group)) - {""}):
        how += f"; warning: {len(common)} group names are on both sides ({common[0]}, ...)"
    return Split(np.flatnonzero(~double), np.arange(len(val)), how, val)


def found_in(labelled: LabelledSet, other: LabelledSet) -> np.ndarray:
    """(S,) bool: structures of ``labelled`` that ``other`` holds as well."""
    known = {hash_structure(atoms) for atoms in other.structures.to_atoms()}
    return np.array([hash_structure(atoms) in known for atoms in labelled.structures.to_atoms()], bool)


def _strata(labelled: LabelledSet, member: np.ndarray, n_groups: int) -> np.ndarray:
    """Step and median temperature of each group as one integer, in that order, (K,)."""
    keys = []
    for k in range(n_groups):
        own = np.flatnonzero(member == k)
        known = labelled.temperature_k[own][np.isfinite(labelled.temperature_k[own])]
        keys.append((str(labelled.config_type[own[0]]), round(float(np.median(known))) if len(known) else -1))
    index = {key: number for number, key in enumerate(sorted(set(keys)))}
    return np.array([index[key] for key in keys], dtype=np.int64)


def _choose(
    size: np.ndarray, stratum: np.ndarray, target: int, most: float, rng: np.random.Generator
) -> np.ndarray:
    """Which groups validate, (K,) bool.

    Groups are offered in turns over the strata, in random order, and taken while the total comes
    nearer to the target. Each stratum keeps a group that trains and at least 1 - ``most`` of its
    structures, so a stratum of one group is not offered: without its temperature the student
    would be worse than validation could say.
    """
    queues: dict[int, list[int]] = defaultdict(list)
    for k in rng.permutation(len(size)):
        queues[int(stratum[k])].append(int(k))
    room = {s: most * size[ks].sum() for s, ks in queues.items()}
    spare = {s: len(ks) - 1 for s, ks in queues.items()}
    chosen = np.zeros(len(size), dtype=bool)
    order = rng.permutation(sorted(queues))
    for turn in range(max(len(ks) for ks in queues.values())):
        for s in order:
            if turn >= len(queues[s]) or not spare[s]:
                continue
            k, total = queues[s][turn], size[chosen].sum()
            if abs(total + size[k] - target) < abs(total - target) and size[k] <= room[s]:
                chosen[k] = True
                room[s] -= size[k]
                spare[s] -= 1
    if not chosen.any():
        chosen[_forced(size, stratum, target)] = True
        return chosen
    return _exchange(chosen, size, stratum, target, most)


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


def _forced(size: np.ndarray, stratum: np.ndarray, target: int) -> int:
    """The one group that validates where no stratum can spare one.

    First of a stratum with several groups, then nearest to the target in size, then of a stratum
    in the middle (strata are sorted by step and temperature), which the others bracket.
    """
    several = np.bincount(stratum)[stratum] > 1
    middle = np.abs(stratum - np.median(stratum))
    return int(np.lexsort((middle, np.abs(size - target), ~several))[0])


def _describe(size: np.ndarray, stratum: np.ndarray, chosen: np.ndarray, target: int, seed: int) -> str:
    taken = int(size[chosen].sum())
    how = (
        f"{int(chosen.sum())} of {len(size)} groups validate ({taken} of {int(size.sum())} structures, "
        f"{target} asked for), seed {seed}"
    )
    validating, training = set(stratum[chosen]), set(stratum[~chosen])
    both, either = validating & training, validating | training
    if both != either:
        how += f"; {len(both)} of {len(either)} steps and temperatures are on both sides"
    if taken < _NEAR * target or taken > 2 * target + 1:
        how += "; warning: groups are too few to come near the fraction; sample more trajectories (starts)"
    if not validating <= training:
        how += "; warning: a whole step or temperature validates and does not train"
    return how
