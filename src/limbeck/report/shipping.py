"""What a user ships: the benchmark's table, and exports with their certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.report.markup import code, details, judged, missing, number, paragraph, sha, table, text
from limbeck.report.reading import Run


def _in(run: Run, name: str) -> Path:
    return Path(run.folder.name) / name


def benchmark(run: Run) -> str:
    """What bench.json holds beyond its figures."""
    rows = (run.bench or {}).get("rows")
    if not rows:
        files = " ".join(str(_in(run, f"{preset}.safetensors")) for preset in run.presets)
        return missing(
            "Speed and memory by size and batch were not measured.",
            f"limbeck bench {files} --json {_in(run, 'bench.json')}",
        )
    bench = run.bench or {}
    machine, settings = bench.get("machine") or {}, bench.get("settings") or {}
    said = ", ".join(
        part
        for part in (
            str(machine.get("processor") or ""),
            f"{settings['threads']} of {machine.get('cores', '?')} cores" if settings.get("threads") else "",
            ", ".join(f"{name} {version}" for name, version in (bench.get("versions") or {}).items()),
        )
        if part
    )
    columns = (
        "model", "engine", "system", "atoms", "batch", "latency, ms", "± IQR", "structures/s", "atoms/s",
        "memory, MB", "speed-up", "not measured",
    )  # fmt: skip
    lines = [
        (
            text(row.get("model")),
            text(row.get("engine"))
            + ("" if row.get("device") in (None, "cpu") else f" ({text(row['device'])})"),
            text(row.get("system")),
            number(row.get("atoms"), "{:,}"),
            number(row.get("batch"), "{:d}"),
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
    return note + details(f"All {len(lines)} rows", table(columns, lines, words=(0, 1, 2, 11)))


def exports(run: Run) -> str:
    """Files for other runtimes with their certificates."""
    if not run.exports:
        files = str(_in(run, f"{run.presets[0]}.safetensors"))
        return missing(
            "There are no exports for other runtimes.",
            f"limbeck export {files} --to all --out {_in(run, 'exports')}",
        )
    rows = []
    for one in run.exports:
        parity = one.get("parity") or {}
        kinds = parity.get("against_student") or {}
        kinds = {k: v for k, v in kinds.items() if isinstance(v, dict)}
        rows.append(
            (
                text(one.get("format") or "–"),
                code(Path(str(one["path"])).name),
                number(one["bytes"] / 1e3, "{:,.0f}") if isinstance(one.get("bytes"), int | float) else "–",
                sha(one["sha256"]) if one.get("sha256") else "–",
                text(_versions_of(one)),
                judged(one.get("verdict")),
                number(one.get("n_structures"), "{:,}"),
                number(_largest(kinds, "force_mev_per_a"), "{:.2g}"),
                number(_largest(kinds, "energy_mev"), "{:.2g}"),
                number(_largest(kinds, "stress_mev_per_a3"), "{:.2g}"),
                number(_largest(kinds, "share"), "{:.2f}"),
                text(_latency(one)),
            )
        )
    columns = (
        "format", "file", "kB", "SHA-256", "made with", "certificate", "structures", "largest ΔF, meV/Å",
        "largest ΔE, meV", "largest Δσ, meV/Å³", "share of tolerance", "latency",
    )  # fmt: skip
    said = paragraph(
        "Certificate: the file was loaded in its own runtime, and its energies, forces and stress compared "
        "with the student's on held-out structures and, as far as the certificate says, on special cases "
        "(triclinic, smaller than the cutoff, molecule, isolated atom).",
        "note",
    )
    return table(columns, rows, words=(0, 1, 3, 4, 5, 11)) + said


def _largest(kinds: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [kind.get(key) for kind in kinds.values()]
    known = [float(v) for v in values if isinstance(v, int | float)]
    return max(known) if known else None


def _versions_of(one: dict[str, Any]) -> str:
    parts = [f"opset {one['opset']}" if one.get("opset") else ""]
    parts += [f"torch {one['torch']}" if one.get("torch") else "", str(one.get("quantisation_kind") or "")]
    return ", ".join(part for part in parts if part)


def _latency(one: dict[str, Any]) -> str:
    shown = []
    for row in one.get("latency") or []:
        if isinstance(row, dict) and isinstance(row.get("export_ms"), int | float):
            native = row.get("native_ms")
            beside = f" (native {native:.3g})" if isinstance(native, int | float) else ""
            shown.append(f"{row.get('atoms', '?')} atoms {row['export_ms']:.3g} ms{beside}")
    return "; ".join(shown)
