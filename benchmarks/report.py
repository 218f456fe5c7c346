"""How long the report of a large store takes, and how large it gets.

python benchmarks/report.py [--records 100000]
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import save

from quantsam.results.record import Record, new_id
from quantsam.results.store import ResultStore

REPEATED = 50  # different results in the store of repetitions
COMMAND = (
    "import resource, sys; from quantsam.cli.main import main; code = main(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
)
"""A command that also prints its peak memory in MiB."""


def fill(path: Path, count: int, different: int) -> None:
    """Make a store of so many records of `evaluate`, as they are, of so many different schemes."""
    sizes = ("", "_small", "_medium", "_large")
    figures = {f"{name}{size}": 1.0 for name in ("miou", "count", "standard_error", "box_fill_miou") for size in sizes}
    record = Record(
        model="l0",
        weights_digest="ab" * 32,
        scheme="fp32",
        dataset="coco:val2017",
        dataset_digest="cd" * 32,
        figures={**figures, "miou": 78.4, "size_bytes": 122_900_000, "fp32_bytes": 122_900_000, "saved_mib": 0.0},
        settings={"seed": 0, "calibration_images": 4500, "threads": 2},
    )
    ResultStore(path).append(record)
    body = record.to_json_dict()
    columns = ("id", "kind", "model", "scheme", "placement", "engine", "dataset", "prompt")
    statement = f"INSERT INTO records ({', '.join(columns)}, body) VALUES ({', '.join('?' * (len(columns) + 1))})"
    with sqlite3.connect(path) as connection:
        for number in range(count - 1):
            which = number % different
            body |= {"id": new_id(), "scheme": f"scheme-{which:06}"}
            share = which / different
            body["figures"] |= {"miou": 78.0 - 40 * share**2, "size_bytes": round(122_900_000 * (1 - 0.75 * share))}
            connection.execute(statement, (*(body[name] for name in columns), json.dumps(body)))


def measure(store: Path) -> dict[str, float]:
    """Write a report in a process of its own."""
    page = store.with_suffix(".html")
    line = ["report", "--store", str(store), "--out", str(page)]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", COMMAND, *line], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    peak = float(done.stdout.splitlines()[-1])
    return {"seconds": seconds, "page_mb": page.stat().st_size / 1e6, "peak_mib": peak}


def main() -> None:
    """Measure a store of different results, one of repetitions, and a small one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, count, different in (
            ("10 results", 10, 10),
            (f"{args.records:,} different results", args.records, args.records),
            (f"{args.records:,} results, {REPEATED} different", args.records, REPEATED),
        ):
            store = Path(folder) / f"{count}-{different}.sqlite"
            fill(store, count, different)
            found = measure(store)
            rows.append({"store": name, "store_mb": store.stat().st_size / 1e6, **found})
            print(f"{name}: {found['seconds']:.1f} s, page {found['page_mb']:.1f} MB, peak {found['peak_mib']:.0f} MiB")
    save("report", {"rows": rows})


if __name__ == "__main__":
    main()
