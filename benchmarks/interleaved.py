"""Timing things against each other: in turns, in one process, by two clocks, with the noise beside.

Every repeat times all contenders one after the other, in a new order each time, so that what else runs on the
machine hits all of them alike; ratios are taken within a repeat. Two clocks are read: the wall's, and the
processor time of this process, which other processes hardly touch. The spread is half the distance of the
quartiles.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}

#: Name → what to time, and the name of what it is compared with (None for what others are compared with).
Contenders = Mapping[str, tuple[Callable[[], object], str | None]]


def compare(compared: Contenders, repeats: int) -> dict[str, dict[str, float]]:
    """Warms everything up, measures, prints a table per clock.

    Returns:
        Per clock and contender the milliseconds and the ratio to its reference, each with its spread.
    """
    for call, _ in compared.values():
        for _ in range(3):
            call()
    rows = _measured({name: call for name, (call, _) in compared.items()}, repeats)
    results = {}
    for clock in CLOCKS:
        print(f"\n{clock + ' time':44} milliseconds        ratio")
        for name, (_, reference) in compared.items():
            times = [1e3 * row[clock][name] for row in rows]
            found = {"ms": statistics.median(times), "ms_spread": spread(times)}
            line = f"{name:44} {found['ms']:8.1f} ± {found['ms_spread']:<6.1f}"
            if reference is not None:
                ratios = [row[clock][name] / row[clock][reference] for row in rows]
                found |= {"ratio": statistics.median(ratios), "ratio_spread": spread(ratios)}
                line += f" {found['ratio']:6.2f} ± {found['ratio_spread']:.2f} × {reference}"
            print(line)
            results[f"{clock}: {name}"] = found
    return results


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles."""
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def run(description: str | None, make_contenders: Callable[[], Contenders]) -> None:
    """The command line: ``--repeats N --out FILE``; prints tables, then JSON on the last line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = compare(make_contenders(), arguments.repeats)
    text = json.dumps({"repeats": arguments.repeats, "results": results})
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def _measured(calls: dict[str, Callable[[], object]], repeats: int) -> list[dict[str, dict[str, float]]]:
    """Per repeat, clock and contender the seconds of one call."""
    rows = []
    for _ in range(repeats):
        row: dict[str, dict[str, float]] = {clock: {} for clock in CLOCKS}
        for name in random.sample(list(calls), len(calls)):
            before = {clock: read() for clock, read in CLOCKS.items()}
            calls[name]()
            for clock, read in CLOCKS.items():
                row[clock][name] = read() - before[clock]
        rows.append(row)
    return rows
