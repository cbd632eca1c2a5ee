"""4 KiB uploads by 32 clients, two workers, tokens checked, against the floor of the same disk in the same run.

    python bench/small_uploads.py --tools ../shared/bench [--rounds 5] [--seconds 6] [--directory DIR]

The disk's own speed swings, so rounds alternate: floor, Starlette, Falcon, floor, ... The floor is
`durable_create` mode 4: C, 32 threads, data and sidecar each fsynced, renamed, and their directory fsynced.
Nothing is deleted before the end: an ext4 without a journal is 5 to 10 times slower at making files for minutes
after many were deleted (it steps over every inode that was freed a short while ago).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from element import Element, element


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tools", type=Path, required=True, help="where durable_create.c and hload.c lie")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=6)
    arguments.add_argument("--clients", type=int, default=32)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--directory", type=Path, default=Path("bench/out"))
    args = arguments.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=args.directory)).absolute()
    try:
        floor, hload = _compile(args.tools, work)
        rates: dict[str, list[float]] = {"floor": [], "starlette": [], "falcon": []}
        costs: dict[str, list[float]] = {"starlette": [], "falcon": []}
        for n in range(args.rounds):
            rates["floor"].append(_floor(floor, work / f"floor-{n}", args))
            for adapter in ("starlette", "falcon"):
                home = work / f"{adapter}-{n}"
                with element(home, adapter=adapter, port=8950, workers=args.workers) as served:
                    rate, cost = _load(hload, served, args)
                rates[adapter].append(rate)
                costs[adapter].append(cost)
            print("  ".join(f"{k} {v[-1]:7.0f}/s" for k, v in rates.items()), flush=True)
        base = statistics.median(rates["floor"])
        for name, found in rates.items():
            cost = f"  {statistics.median(costs[name]) * 1e6:.0f} us of CPU each" if name in costs else ""
            print(
                f"{name:10} median {statistics.median(found):7.0f}/s = {statistics.median(found) / base:.2f}{cost}"
            )
    finally:
        shutil.rmtree(work)


def _compile(tools: Path, work: Path) -> tuple[Path, Path]:
    for name in ("durable_create", "hload"):
        command = ["gcc", "-O2", "-w", "-o", str(work / name), str(tools / f"{name}.c"), "-lpthread"]
        subprocess.run(command, check=True)
    return work / "durable_create", work / "hload"


def _floor(binary: Path, directory: Path, args: argparse.Namespace) -> float:
    directory.mkdir()
    command = [str(binary), str(directory), str(args.clients), str(args.seconds), "4096", "4"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r": (\d+)/s", printed)
    return float(found[1]) if found else 0.0


def _load(hload: Path, served: Element, args: argparse.Namespace) -> tuple[float, float]:
    command = [str(hload), "-b", f"http://127.0.0.1:{served.port}", "-c", str(args.clients)]
    command += ["-d", str(args.seconds), "-w", "1", "-X", "POST", "-u", "/api/v1/files?filename=doc{n}.bin"]
    command += ["-H", f"Authorization: Bearer {served.token}", "-H", "Content-Type: application/octet-stream"]
    before = served.cpu()
    printed = subprocess.run([*command, "-s", "4096"], check=True, capture_output=True, text=True).stdout
    result = json.loads(printed)
    if result["errors"]:
        raise SystemExit(f"{result['errors']} uploads failed: {result['first_error']}")
    return result["rps"], (served.cpu() - before) / (result["ok"] * (args.seconds + 1) / args.seconds)


if __name__ == "__main__":
    main()
