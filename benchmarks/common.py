"""What the benchmarks share: the MNIST problem, interleaved timing, the floor, and a Markdown table."""

import argparse
import ctypes
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from problems.data_poisoning import DataPoisoning

BATCH = 90
Rows = Sequence[Sequence[object]]


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("HARNESS_DATA"), help="default: $HARNESS_DATA"
    )
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many is reported")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def one_thread() -> None:
    """One thread on one CPU for all sides, whatever library they use."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def problem(data_dir: Path | None) -> DataPoisoning:
    found = DataPoisoning()
    found.setup(Path(data_dir) if data_dir else None, 1, torch.device("cpu"), torch.float32)
    return found


def attack(task: DataPoisoning, trials: int) -> Tensor:
    """Perturbations that every row takes part in, shape (trials, dim_x)."""
    noise = torch.rand(trials, task.dim_x, generator=torch.Generator().manual_seed(1))
    return task.project(noise.sub_(0.5).mul_(0.5))


def medians(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Each side returns its seconds per unit; the sides take turns, so that a busy moment meets them all."""
    for side in sides.values():
        side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            found[name].append(side())
    return {name: statistics.median(times) for name, times in found.items()}


def timed(run: Callable[[], object], units: float) -> Callable[[], float]:
    def side() -> float:
        begun = time.perf_counter()
        run()
        return (time.perf_counter() - begun) / units

    return side


def peak_megabytes(run: Callable[[], object]) -> float:
    """Memory that a call takes at its peak beyond what is held before it; Linux only."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _resident("VmRSS:")
    run()
    return max(0.0, _resident("VmHWM:") - before)


def _resident(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


class Published:
    """The lower level as the published code has it: the poisoned set rebuilt, then autograd."""

    def __init__(self, task: DataPoisoning, x: Tensor) -> None:
        self.clean, self.poison = task._clean, task._poison
        self.labels = torch.cat([self.clean.labels, self.poison.labels])
        self.x, self.rho, self.shape = x.view(-1, task.pixels), task._rho, (task.classes, task.pixels)

    def loss(self, w: Tensor, rows: Tensor) -> Tensor:
        images = torch.cat([self.clean.images, self.poison.images + self.x])[rows]
        return cross_entropy(images @ w.T, self.labels[rows]) + self.rho * (w * w).sum()

    def lower_step(self, w: Tensor, rows: Tensor, step_size: float) -> Tensor:
        w = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(w, rows), w)
        return (w - step_size * gradient).detach()

    def system_step(self, w: Tensor, v: Tensor, b: Tensor, rows: Tensor, step_size: float) -> Tensor:
        w = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(w, rows), w, create_graph=True)
        (product,) = torch.autograd.grad(gradient, w, v)
        return v - step_size * (product + b)

    def cross(self, w: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        """One mini-batch of the cross product, a dense vector of the size of x."""
        w, x = w.detach().requires_grad_(), self.x
        self.x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(w, rows), w, create_graph=True)
        (product,) = torch.autograd.grad(gradient, self.x, v)
        self.x = x
        return product


class Machine:
    """Measured rates of this machine now: the arithmetic and the memory floor of some work."""

    def __init__(self, task: DataPoisoning) -> None:
        a, images = torch.rand(768, 768), task._clean.images
        self.flops, self.bytes = 2 * 768**3, images.numel() * 4
        self.sides: dict[str, Callable[[], float]] = {
            "gemm": timed(lambda: a @ a, 1),
            "read": timed(lambda: images.max(), 1),
        }

    def floor(self, times: Mapping[str, float], flops: float, read: float) -> float:
        """Seconds that arithmetic or memory, whichever is slower, needs at least."""
        return max(flops * times["gemm"] / self.flops, read * times["read"] / self.bytes)

    def say(self, times: Mapping[str, float]) -> str:
        return (
            f"Rates measured in this run, one thread: {self.flops / times['gemm'] / 1e9:.0f} GFLOP/s in a "
            f"768 × 768 product, {self.bytes / times['read'] / 1e9:.1f} GB/s reading. The floor is the "
            "larger of arithmetic and memory at these rates."
        )


def table(heads: Sequence[str], rows: Rows) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs"


def times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 20 else f"{ratio:.2f}×"


def report(name: str, parts: Sequence[str], out: Path | None) -> None:
    """To stdout, and to `out`."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    where = (
        f"`python -m benchmarks.{name}`: {os.cpu_count()} CPUs ({platform.machine()}), Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}, load average {load} at the end."
    )
    text = "\n\n".join([f"# {name}", where, *parts]) + "\n"
    sys.stdout.write(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
