"""What a user ships: the benchmark's table, and exports with their certificates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.report.markup import code, details, judged, missing, number, paragraph, short_hash, table, text
from limbeck.report.reading import Run, as_dict, figures

_STEADY = 0.2  #: distance of the quartiles over the median, at most, of timings on a quiet machine


def _in(run: Run, name: str) -> str:
    """A file of the run as a shell takes it; of an absolute folder the name alone: pages are passed on."""
    folder = Path(run.folder.name) if run.folder.is_absolute() else run.folder
    return shlex.quote(str(folder / name))


def benchmark(run: Run) -> str:
    """What bench.json holds beyond its figures."""
    rows = (run.bench or {}).get("rows")
    if not rows:
        files = " ".join(_in(run, f"{preset}.safetensors") for preset in run.presets)
        return missing(
            "Speed and memory by size and batch were not measured.",
            f"limbeck bench {files} --json {_in(run, 'bench.json')}",
        )
    bench = run.bench or {}
    machine, settings = as_dict(bench.get("machine")), as_dict(bench.get("settings"))
    said = ", ".join(
        part
        for part in (
            str(machine.get("processor") or ""),
            f"{settings['threads']} of {machine.get('cores', '?')} cores" if settings.get("threads") else "",
            ", ".join(f"{name} {version}" for name, version in as_dict(bench.get("versions")).items()),
        )
        if part
    )
    columns = (
        "model", "engine", "system", "atoms", "batch", "threads", "latency, ms", "± IQR", "structures/s",
        "atoms/s", "memory, MB", "speed-up", "not measured",
    )  # fmt: skip
    lines = [
        (
            text(row.get("model")),
            text(row.get("engine"))
            + ("" if row.get("device") in (None, "cpu") else f" ({text(row['device'])})"),
            text(row.get("system")),
            number(row.get("atoms"), "{:,}"),
            number(row.get("batch"), "{:d}"),
            number(row.get("threads"), "{:d}"),
            number(row.get("latency_ms_median")),
            number(row.get("latency_ms_iqr"), "{:.2g}"),
            number(row.get("structures_per_s")),
            number(row.get("atoms_per_s"), "{:,.0f}"),
            number(row.get("peak_memory_mb"), "{:,.1f}"),
            number(row.get("speedup_vs_teacher"), "{:.3g}×"),
            text(row.get("skipped") or ""),
        )
        for row in rows
    ]
    what = str(bench.get("what") or "")
    note = paragraph(f"{what[:1].upper()}{what[1:]}. {said}. Medians." if what else said, "note")
    return (
        note + _unsteady(rows) + details(f"All {len(lines)} rows", table(columns, lines, words=(0, 1, 2, 12)))
    )


def _unsteady(rows: Sequence[dict[str, Any]]) -> str:
    """A warning where timings scatter: something else used the machine, and ratios of rows mislead."""
    spreads = [(figures(row).get("latency_ms_iqr"), figures(row).get("latency_ms_median")) for row in rows]
    known = [(spread, median) for spread, median in spreads if spread is not None and median]
    busy = sum(spread > _STEADY * median for spread, median in known)
    if not busy:
        return ""
    return paragraph(
        f"In {busy} of {len(known)} rows the timings scatter by more than a fifth (IQR over median): the "
        "machine was busy. Measure again when it is not, before comparing speeds.",
        "warn",
    )


def exports(run: Run) -> str:
    """Files for other runtimes with their certificates."""
    if not run.exports:
        files = _in(run, f"{run.presets[0]}.safetensors")
        return missing(
            "There are no exports for other runtimes.",
            f"limbeck export {files} --to all --out {_in(run, 'exports')}",
        )
    sizes = sorted({row["atoms"] for one in run.exports for row in _latencies(one)})
    rows = []
    for one in run.exports:
        kinds = _kinds(one)
        first = next(iter(kinds.values()), {})
        rows.append(
            (
                text(one.get("format") or "–") + f"<br><small>{text(_versions_of(one))}</small>",
                code(Path(str(one["path"])).name),
                number(one["bytes"] / 1e3, "{:,.0f}") if isinstance(one.get("bytes"), int | float) else "–",
                short_hash(one["sha256"]) if one.get("sha256") else "–",
                judged(one.get("verdict")),
                number(first.get("force_mev_per_a"), "{:.2g}"),
                number(first.get("energy_mev"), "{:.2g}"),
                number(first.get("stress_mev_per_a3"), "{:.2g}"),
                number(_largest(kinds, "share"), "{:.0%}"),
                *(_latency(one, atoms) for atoms in sizes),
            )
        )
    kinds = _kinds(run.exports[0])
    where = next(iter(kinds), "test")
    columns = (
        "format", "file", "kB", "SHA-256", "certificate", "ΔF, meV/Å", "ΔE, meV", "Δσ, meV/Å³",
        "of the tolerance", *(f"{atoms:,} atoms, ms (native)" for atoms in sizes),
    )  # fmt: skip
    said = (
        "Certificate: the file was loaded in its own runtime, and its energies, forces and stress compared "
    )
    said += f"with the student's. Largest deviations on {where} structures, and how much of the tolerance "
    said += "is used on structures of any kind."
    if kinds:
        counts = ", ".join(f"{kind} {part.get('n_structures', '?')}" for kind, part in kinds.items())
        said += f" Structures: {counts}."
    return table(columns, rows, words=(0, 1, 3, 4)) + paragraph(said, "note")


def _kinds(one: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parity with the student by kind of structure."""
    found = as_dict(as_dict(one.get("parity")).get("against_student"))
    return {kind: part for kind, part in found.items() if isinstance(part, dict)}


def _largest(kinds: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [kind.get(key) for kind in kinds.values()]
    known = [float(v) for v in values if isinstance(v, int | float)]
    return max(known) if known else None


def _versions_of(one: dict[str, Any]) -> str:
    parts = [f"opset {one['opset']}" if one.get("opset") else ""]
    parts += [f"torch {one['torch']}" if one.get("torch") else ""]
    return ", ".join(part for part in parts if part)


def _latencies(one: dict[str, Any]) -> list[dict[str, Any]]:
    rows = one.get("latency")
    return [
        row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
        and isinstance(row.get("atoms"), int)
        and isinstance(row.get("export_ms"), int | float)
    ]


def _latency(one: dict[str, Any], atoms: int) -> str:
    for row in _latencies(one):
        if row["atoms"] == atoms:
            return f"{number(row['export_ms'])} ({number(row.get('native_ms'))})"
    return "–"
