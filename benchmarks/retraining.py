"""(b) The retraining of the evaluation: ours in a pack, against one by one through autograd."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import problems.data_poisoning as module
from benchmarks import common
from benchmarks.common import times
from problems.data_poisoning import DataPoisoning


def published(task: DataPoisoning, x: Tensor, steps: int) -> Tensor:
    """The poisoned set built once, then full-batch SGD with momentum by autograd."""
    poisoned = task._poison.images + x.view(-1, task.pixels)
    images = torch.cat([task._clean.images, poisoned])
    labels = torch.cat([task._clean.labels, task._poison.labels])
    w = torch.zeros(task.pixels, task.classes, requires_grad=True)
    optimiser = torch.optim.SGD([w], lr=module.RETRAINING_STEP_SIZE, momentum=task.final_momentum)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = cross_entropy(images @ w, labels) + task._rho * (w * w).sum()
        torch.autograd.backward(loss)
        optimiser.step()
    return w.detach().T.flatten()


def retrain(task: DataPoisoning, x: Tensor, steps: int) -> Tensor:
    """Ours, with another number of steps."""
    whole = module.RETRAINING_STEPS
    module.RETRAINING_STEPS = steps
    try:
        return task._retrain(x)
    finally:
        module.RETRAINING_STEPS = whole


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, default=10, help="steps timed, of 1000")
    parser.add_argument("--pack", type=int, default=8)
    options = parser.parse_args()
    common.one_thread()
    task = common.problem(options.data_dir)
    n, steps = options.pack, options.steps
    x = common.attack(task, n)
    gap = (published(task, x[0], steps) - retrain(task, x, steps)[0]).abs().max()
    machine = common.Machine(task)
    sides = {
        **machine.sides,
        "published": common.timed(lambda: published(task, x[0], steps), steps),
        "alone": common.timed(lambda: retrain(task, x[:1], steps), steps),
        "pack": common.timed(lambda: retrain(task, x, steps), steps * n),
    }
    found = common.medians(sides, options.repeats)
    flops = 4 * task.lower_examples * task.dim_y
    clean, poisoned = (4 * task.pixels * len(part.images) for part in (task._clean, task._poison))
    base = found["published"]
    rows = [["published way, one by one", f"{base * 1e3:.1f} ms", "", "", ""]]
    for label, key, trials, target in (
        ("ours, alone", "alone", 1, ""),
        (f"ours, pack of {n}", "pack", n, "4×"),
    ):
        floor = machine.floor(found, flops, clean / trials + poisoned)
        rows.append(
            [label, f"{found[key] * 1e3:.1f} ms", times(base / found[key]), target, f"{floor * 1e3:.1f} ms"]
        )
    heads = ["how", "per step and configuration", "faster", "target", "floor"]
    note = (
        f"{steps} of the {module.RETRAINING_STEPS} steps are timed, with what each side prepares before the "
        f"first. Largest difference of the weights after them: {gap:.1e}."
    )
    common.report("retraining", [machine.say(found), common.table(heads, rows), note], options.out)


if __name__ == "__main__":
    main()
