"""What a user ships: the benchmark's table, and exports with their certificates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.records.metrics import as_dict
from limbeck.report.markup import (
    code,
    details,
    evaluated,
    missing,
    number,
    paragraph,
    short_hash,
    table,
    text,
)
from limbeck.report.reading import Run, figures

_STEADY = 0.2  #: distance of the quartiles over the median, at most, of timings on a quiet machine
#: title, key of a benchmark's row, and how the value is shown
_BENCH = (
    ("atoms", "atoms", "{:,}"),
    ("batch", "batch", "{:d}"),
    ("threads", "threads", "{:d}"),
    ("latency, ms", "latency_ms_median", "{:.3g}"),
    ("± IQR", "latency_ms_iqr", "{:.2g}"),
    ("structures/s", "structures_per_s", "{:.3g}"),
    ("atoms/s", "atoms_per_s", "{:,.0f}"),
    ("memory, MB", "peak_memory_mb", "{:,.1f}"),
    ("speed-up", "speedup_vs_teacher", "{:.3g}×"),
)
_DEVIATIONS = (
    ("ΔF, meV/Å", "force_mev_per_a"),
    ("ΔE, meV", "energy_mev"),
    ("Δσ, meV/Å³", "stress_mev_per_a3"),
)


def _in(run: Run, name: str) -> str:
    """A file of the run as a shell takes it; of an absolute folder the name alone: pages are passed on."""
    folder = Path(run.folder.name) if run.folder.is_absolute() else run.folder
    return shlex.quote(str(folder / name))


def benchmark(run: Run) -> str:
    """What bench.json holds beyond its figures."""
    bench = run.bench or {}
    rows = bench.get("rows")
    if not rows:
        files = " ".join(_in(run, f"{preset}.safetensors") for preset in run.presets)
        command = f"limbeck bench {files} --json {_in(run, 'bench.json')}"
        return missing("Speed and memory by size and batch were not measured.", command)
    machine, threads = as_dict(bench.get("machine")), as_dict(bench.get("settings")).get("threads")
    about = [
        str(machine.get("processor") or ""),
        f"{threads} of {machine.get('cores', '?')} cores" if threads else "",
        *(f"{name} {version}" for name, version in as_dict(bench.get("versions")).items()),
    ]
    said, what = ", ".join(filter(None, about)), str(bench.get("what") or "")
    note = f"{what[:1].upper()}{what[1:]}. {said}. Medians." if what else said
    lines = []
    for row in rows:
        device = "" if row.get("device") in (None, "cpu") else f" ({text(row['device'])})"
        who = (text(row.get("model")), text(row.get("engine")) + device, text(row.get("system")))
        values = (number(row.get(key), form) for _, key, form in _BENCH)
        lines.append((*who, *values, text(row.get("skipped") or "")))
    columns = ("model", "engine", "system", *(title for title, *_ in _BENCH), "not measured")
    shown = table(columns, lines, words=(0, 1, 2, 12))
    return paragraph(note, "note") + _unsteady(rows) + details(f"All {len(lines)} rows", shown)


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
        command = f"limbeck export {_in(run, f'{run.presets[0]}.safetensors')} --to all"
        return missing("There are no exports for other runtimes.", f"{command} --out {_in(run, 'exports')}")
    sizes = sorted({atoms for one in run.exports for atoms in _latencies(one)})
    rows = []
    for one in run.exports:
        kinds, latencies = _kinds(one), _latencies(one)
        first = next(iter(kinds.values()), {})
        shares = [kind["share"] for kind in map(figures, kinds.values()) if "share" in kind]
        size = figures(one).get("bytes")
        versions = ", ".join(
            f"{name} {one[key]}" for name, key in (("opset", "opset"), ("torch", "torch")) if one.get(key)
        )
        rows.append(
            (
                f"{text(one.get('format') or '–')}<br><small>{text(versions)}</small>",
                code(Path(str(one["path"])).name),
                number(size and size / 1e3, "{:,.0f}"),
                short_hash(one["sha256"]) if one.get("sha256") else "–",
                evaluated(one.get("verdict")),
                *(number(first.get(key), "{:.2g}") for _, key in _DEVIATIONS),
                number(max(shares, default=None), "{:.0%}"),
                *(latencies.get(atoms, "–") for atoms in sizes),
            )
        )
    columns = ("format", "file", "kB", "SHA-256", "certificate", *(title for title, _ in _DEVIATIONS),
               "of the tolerance", *(f"{atoms:,} atoms, ms (native)" for atoms in sizes))  # fmt: skip
    kinds = _kinds(run.exports[0])
    counts = ", ".join(f"{kind} {part.get('n_structures', '?')}" for kind, part in kinds.items())
    note = (
        "Certificate: the file was loaded in its own runtime, and its energies, forces and stress compared "
        f"with the student's. Largest deviations on {next(iter(kinds), 'test')} structures, and how much "
        "of the tolerance is used on structures of any kind." + (f" Structures: {counts}." if counts else "")
    )
    return table(columns, rows, words=(0, 1, 3, 4)) + paragraph(note, "note")


def _kinds(one: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parity with the student by kind of structure."""
    found = as_dict(as_dict(one.get("parity")).get("against_student"))
    return {kind: part for kind, part in found.items() if isinstance(part, dict)}


def _latencies(one: dict[str, Any]) -> dict[int, str]:
    """Number of atoms -> time of the export beside the native engine's."""
    rows = one.get("latency")
    known = [row for row in map(figures, rows if isinstance(rows, list) else []) if "export_ms" in row]
    return {
        row["atoms"]: f"{number(row['export_ms'])} ({number(row.get('native_ms'))})"
        for row in known
        if isinstance(row.get("atoms"), int)
    }
