"""Reports as Markdown tables, printed and written between marks in README.md."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"
_WRITE = {"x": "{:.2f}x", "%": "{:.1%}", "µs": "{:.0f} µs", "bytes": "{:,.0f} bytes", "order": "{:.2f}x"}


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]


def bars_table(report: dict[str, Any]) -> list[str]:
    rows = []
    for entry in report["bars"]:
        sign = "at most " if entry["at_most"] else ""
        met = {True: "yes", False: "no", None: ""}[entry["met"]]
        if entry.get("stretch_met"):
            met = "yes, stretch too"
        value = _write(entry["value"], entry["unit"]) or f"not measured: {entry['reason']}"
        bar, stretch = (_write(entry[key], entry["unit"]) for key in ("bar", "stretch"))
        if entry["unit"] == "order":
            bar = "over 1x"
        rows.append([entry["measure"], value, bar and sign + bar, stretch and sign + stretch, met])
    return table(["measure", "value", "bar", "stretch", "met"], rows)


def _write(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return _WRITE[unit].format(1e6 * value if unit == "µs" else value)


def rows_tables(report: dict[str, Any]) -> list[str]:
    """Latency and atoms/s of all rows by group."""
    lines = []
    for group in report["groups"]:
        lines += [f"\n{group['title']} ({group['rounds']} rounds, load {group['load_at_start']}):\n"]
        rows = []
        for row in group["rows"]:
            if "reason" in row:
                cells = [f"not measured: {row['reason']}", "", ""]
            elif "gflop_per_s" in row:
                cells = ["", "", f"{row['gflop_per_s']:.1f} GFLOP/s, {row['instruction_set']}"]
            elif "ns_a_pair" in row:
                error = (
                    f", slopes within {row['slope_error']:.1e} of their rms" if "slope_error" in row else ""
                )
                cells = ["", "", f"{row['ns_a_pair']:.0f} ns a pair{error}"]
            else:
                remark = row["weights"] if row.get("weights") == "random weights" else ""
                cells = [_latency(row["latency_ms_median"]), f"{row['atoms_per_s']:,.0f}", remark]
            rows.append([row["model"], str(row["threads"]), *cells])
        lines += table(["model, case", "threads", "ms a call", "atoms/s", ""], rows)
    return lines


def _latency(ms: float) -> str:
    return f"{ms:,.1f}" if ms >= 100 else f"{ms:.3g}"


def flops_table(report: dict[str, Any]) -> list[str]:
    """FLOPs per atom by part, counted from the architecture."""
    how = report["settings"]["filters"]
    rows = []
    for preset, ways in report["flops_per_atom"].items():
        counted = ways[how]
        parts = ("matrices", "pairs", "filters", "elementwise", "total")
        rows.append(
            [
                preset,
                *(f"{counted[part] / 1e3:,.0f}" for part in parts),
                f"{ways['product']['total'] / 1e3:,.0f}",
            ]
        )
    heads = ["thousand FLOPs an atom", "matrix products", "pairs", "filters", "elementwise", "total"]
    pairs = report["settings"]["pairs_per_atom"]
    heading = f"\nCounted for {2 * pairs:.1f} neighbours an atom, filters as evaluated ({how}):\n"
    return [heading, *table([*heads, "total, filters kept"], rows)]


def roofline_table(report: dict[str, Any]) -> list[str]:
    """Phases of the engine compared with the peak of the machine, where the phases were timed."""
    lines = []
    rows = [row for group in report["groups"] if group["group"] == "peak" for row in group["rows"]]
    for before, row in itertools.pairwise(rows):
        times = row.get("phases_us_per_atom")
        if not times or "gflop_per_s" not in before:
            continue
        preset = row["model"].partition(",")[0]
        counted, cells = report["phases"][preset], []
        for name, us in times.items():
            flops, moved = counted[name]["flops"], counted[name]["bytes"]
            share = f"{flops / us / 1e3 / before['gflop_per_s']:.0%}" if flops else ""
            intensity = f"{flops / moved:.0f}" if flops and moved else ""
            cells.append(
                [name, f"{us:.2f}", f"{us / sum(times.values()):.0%}", f"{flops / 1e3:,.0f}", share]
                + [f"{moved:,.0f}", intensity, f"{moved / us / 1e3:.1f}" if moved else ""]
            )
        heads = ["phase", "µs an atom", "of the time", "thousand FLOPs", "share of peak", "bytes moved"]
        lines += [f"\nPhases of `{preset}`, Si 1,000 atoms, 1 thread:\n"]
        lines += table([*heads, "FLOPs a byte", "GB/s"], cells)
    return lines


def headline(report: dict[str, Any]) -> str:
    """Machine, versions and load."""
    about = report["machine"]
    versions = {
        name: version
        for group in report["groups"]
        for found in group["versions"].values()
        for name, version in found.items()
        if name not in ("ase", "numpy", "e3nn", "vesin")
    }
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{about['processor']}, {about['cores']} cores ({about['threads_per_core']} threads a core), Python "
        f"{about['python']}; {named}; load when it began {about['load_at_start']}."
    )


def markdown(report: dict[str, Any]) -> list[str]:
    return [
        headline(report), "", *bars_table(report), *flops_table(report), *roofline_table(report),
        *rows_tables(report),
    ]  # fmt: skip


def write_readme(script: str, lines: list[str], readme: Path = README) -> None:
    """Write ``lines`` into the part of the README that belongs to ``script``."""
    begin, end = f"<!-- {script} writes from here -->\n", "<!-- to here"
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    after = rest.partition(end)[2]
    readme.write_text(before + begin + "\n".join([*lines, end + after]), encoding="utf-8")
