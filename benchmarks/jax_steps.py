"""The same lower step as a jitted JAX `lax.scan`; the mini-batches are handed over ready made."""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from problems.data_poisoning import DataPoisoning

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")


def sides(
    task: DataPoisoning, x: Tensor, y: Tensor, rows: np.ndarray, step_size: float
) -> dict[str, Callable[[], float]]:
    """Seconds per step and configuration: one alone, and the whole pack by vmap and by wide products.

    Raises ImportError where JAX is missing. rows: (steps, batch)."""
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")

    clean, poison = task._clean, task._poison
    n_clean, rho, p = len(clean.images), task._rho, task.pixels
    images = jnp.asarray(np.concatenate([clean.images.numpy(), poison.images.numpy()]))
    onehot = jnp.asarray(np.concatenate([clean.onehot.numpy(), poison.onehot.numpy()], 1).T)
    attacks = jnp.asarray(x.view(len(x), -1, p).numpy())
    starts, places = jnp.asarray(y.view(len(y), -1, p).numpy()), jnp.asarray(rows.astype(np.int32))

    def step(w: Any, place: Any, attack: Any) -> Any:
        moved = attack[jnp.maximum(place - n_clean, 0)]
        u = images[place] + jnp.where((place >= n_clean)[:, None], moved, 0)
        r = jax.nn.softmax(u @ w.T, axis=1) - onehot[place]
        return w - step_size * (r.T @ u / len(place) + 2 * rho * w), None

    def alone(w: Any, attack: Any, places: Any) -> Any:
        return jax.lax.scan(lambda w, place: step(w, place, attack), w, places)[0]

    def packed(w: Any, attacks: Any, places: Any) -> Any:
        """Clean part in one wide product over the pack, the poisoned share vmapped."""

        def both(w: Any, place: Any) -> Any:
            base, labels = images[place], onehot[place]
            is_poison = (place >= n_clean)[None, :, None]
            moved = jnp.where(is_poison, attacks[:, jnp.maximum(place - n_clean, 0)], 0)
            logits = jnp.einsum("ncp,bp->nbc", w, base) + jnp.einsum("ncp,nbp->nbc", w, moved)
            r = jax.nn.softmax(logits, axis=2) - labels
            g = jnp.einsum("nbc,bp->ncp", r, base) + jnp.einsum("nbc,nbp->ncp", r, moved)
            return w - step_size * (g / len(place) + 2 * rho * w), None

        return jax.lax.scan(both, w, places)[0]

    def side(run: Callable[..., object], w: object, attack: object, units: int) -> Callable[[], float]:
        compiled = jax.jit(run)

        def once() -> float:
            begun = time.perf_counter()
            jax.block_until_ready(compiled(w, attack, places))
            return (time.perf_counter() - begun) / units

        return once

    many = jax.vmap(alone, in_axes=(0, 0, None))
    return {
        "jax alone": side(alone, starts[0], attacks[0], len(rows)),
        "jax vmap": side(many, starts, attacks, len(rows) * len(x)),
        "jax wide": side(packed, starts, attacks, len(rows) * len(x)),
    }
