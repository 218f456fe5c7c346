"""How much disk the base package and each extra need.

    python benchmarks/installed_sizes.py [--extras quantize onnxruntime ...]

Each extra is installed with the base into a folder of its own, with the versions of constraints.txt and this machine's
wheels. What it adds is the folder's size less the base's. Packages are downloaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import save

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("quantize", "onnxruntime", "openvino", "search", "ray", "report", "app", "web")


def installed_bytes(package: str) -> int:
    """Return the bytes of all files that an installation of the package writes."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, package]
        subprocess.run(line, check=True, env={**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")})
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def main() -> None:
    """Measure the base and each extra."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="+", choices=EXTRAS, default=list(EXTRAS))
    args = parser.parse_args()
    base = installed_bytes(str(ROOT))
    print(f"base: {base / 2**20:.0f} MiB", flush=True)
    added = {}
    for name in args.extras:
        added[name] = installed_bytes(f"{ROOT}[{name}]") - base
        print(f"{name}: {added[name] / 2**20:.0f} MiB", flush=True)
    save("installed_sizes", {"base": base, "added": added})


if __name__ == "__main__":
    main()
