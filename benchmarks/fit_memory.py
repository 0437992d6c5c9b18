"""Peak memory of a fitting step beyond parameters, optimiser state and the batch itself (Linux).

    python benchmarks/fit_memory.py [--shapes 768,12288,32,2048 ...]

The bound to stay below is 3 x batch x (features + width) x 4 bytes: three times the dense scores.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import torch
from fit_speed import SHAPES, made_rows, moediff


def status(key: str) -> int:
    """A figure of this process in bytes: VmRSS now, VmHWM the most since `forget_peak`."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", text).group(1))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measure(shape: tuple[int, ...], select: str, screen: bool) -> tuple[int, int]:
    """Bytes at the peak beyond what must be there, after 3 and after 12 steps."""
    width, features, _, batch = shape
    data = made_rows(width, features, batch, 1)
    moediff(select, screen)(64, 256, 4, 128)(made_rows(64, 256, 128, 1))  # libraries warm up
    before = status("VmRSS")
    step = moediff(select, screen)(*shape)
    kept = 3 * 4 * (2 * features * width + features + width)  # parameters, two moments
    found = []
    for steps in (3, 9):
        forget_peak()
        for _ in range(steps):
            step(data)
        found.append(status("VmHWM") - before - kept)
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="width,features,k,batch")
    parser.add_argument("--one", nargs=3, help="a shape, a rule and a screening, in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.one:
        shape, select, screen = arguments.one
        print(*measure(tuple(map(int, shape.split(","))), select, screen == "True"))
        return
    for shape in arguments.shapes:
        width, features, _, batch = map(int, shape.split(","))
        bound = 3 * batch * (features + width) * 4
        for select in ("batchtopk", "topk"):
            for screen in (False, True):
                command = [sys.executable, __file__, "--one", shape, select, str(screen)]
                found = subprocess.run(command, capture_output=True, text=True, check=True)
                early, late = (int(part) for part in found.stdout.split())
                print(f"{shape} {select:10s} screened {screen!s:5}: {early / bound:.2f} of the bound "
                      f"({early / 1e6:.0f} MB of {bound / 1e6:.0f}), later {late / bound:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
