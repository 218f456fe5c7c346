"""What the benchmarks share: where raw results go, and what they say of machine and versions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from quantsam.files import atomic_write
from quantsam.results.machine import environment
from quantsam.results.record import utc_now

RESULTS = Path(__file__).parent / "results"


def save(name: str, result: dict[str, Any]) -> None:
    """Write a raw result with time, machine and versions."""
    (RESULTS / name).parent.mkdir(parents=True, exist_ok=True)
    document = {"created_utc": utc_now(), "environment": environment("numba", "pillow"), **result}
    with atomic_write(RESULTS / f"{name}.json") as aside:
        aside.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {RESULTS / name}.json")


def interleaved_ms(tasks: dict[str, Callable[[], object]], rounds: int, pause_s: float = 0.0) -> dict[str, float]:
    """Time several tasks in turn, A B C A B C ..., after one warm-up each; the median of each in milliseconds.

    In turn, because the machine may be shared: what slows one round slows all tasks of it. A pause before each lets the
    threads of an engine that ran before come to rest.
    """
    for task in tasks.values():
        task()
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            time.sleep(pause_s)
            started = time.perf_counter()
            task()
            samples[name].append(1000 * (time.perf_counter() - started))
    return {name: median(values) for name, values in samples.items()}


def load(name: str) -> dict[str, Any]:
    """Return a raw result."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def kept_rows(name: str, settings: dict[str, Any], again: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return the rows of a raw result that are not measured anew.

    Args:
        name: The result's name.
        settings: What the result and this run must have in common, beside the processor.
        again: Tells of a row whether it is measured anew.
    """
    before, here = load(name), environment()
    processor = ("cpu", "instruction_sets")
    was = {key: before[key] for key in settings} | {key: before["environment"].get(key) for key in processor}
    now = settings | {key: here.get(key) for key in processor}
    if was != now:
        raise SystemExit(
            f"error: --add needs the settings and the processor of the rows that are there, {was}, got {now}"
        )
    return [row for row in before["rows"] if not again(row)]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def machine(document: dict[str, Any]) -> str:
    """Return one line about where a result comes from."""
    env = document["environment"]
    sets = f" ({env['instruction_sets']})" if "instruction_sets" in env else ""  # the oldest results did not tell
    return (
        f"{env['cpu']}{sets}, {env['cpu_count']} cores; Python {env['python']}, "
        f"torch {env['torch']}, numpy {env['numpy']}; "
        f"{document['created_utc'][:10]}"
    )
