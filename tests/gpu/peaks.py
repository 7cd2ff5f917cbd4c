"""Memory that another trial of a pack takes on the pretend device, and what `harness.sizing` reckons for it.

    python -m tests.gpu.peaks [SOLVER,SOLVER]

prints a line for each solver on data poisoning, as JSON, in arrays as large as x.
"""

from tests.gpu import pretend  # isort: skip - before torch

import json
import sys

from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.sizing import pack_bytes
from tests.gpu.compare import CPU, SEED, configs_of, quicken, set_up
from tests.gpu.matrix import on

FEW, MANY = 2, 6
PROBLEM = "data_poisoning"


def main() -> None:
    quicken()
    plugins = Plugins()
    here = set_up(plugins, PROBLEM, CPU)
    names = sys.argv[1].split(",") if len(sys.argv) > 1 else plugins.names("solver")
    for name in (name for name in names if not plugins.solver(name).needs.unmet(here)):
        solver = plugins.solver(name)
        config, gpu = configs_of(solver, PROBLEM, wild=0)[0], pretend.Gpu()
        rules = Rules(2.5 * float(first_cost(here, solver, [config], SEED)[0]), {}, SEED, curves=2)
        peaks = []
        with on(gpu):
            there = set_up(plugins, PROBLEM, pretend.DEVICE)
            for trials in (FEW, MANY):
                gpu.peak = gpu.bytes
                run_pack(there, solver, [config] * trials, rules, pretend.DEVICE, there.dtype)
                peaks.append(gpu.peak)
        few, many = (pack_bytes(here, solver, [config] * trials) for trials in (FEW, MANY))
        array = (MANY - FEW) * here.dtype.itemsize * here.dim_x
        line = {"solver": name, "peak": (peaks[1] - peaks[0]) / array, "reckoned": (many - few) / array}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
