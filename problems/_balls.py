"""Norms of rows, and the nearest rows of a ball."""

import torch
from torch import Tensor

BALLS = ("l2", "l1", "linf")
_ORDERS = {"l2": 2.0, "l1": 1.0, "linf": float("inf")}


def norms(rows: Tensor, ball: str) -> Tensor:
    """Of every row, shape (n,)."""
    found: Tensor = torch.linalg.vector_norm(rows, _ORDERS[ball], dim=1)
    return found


def nearest(rows: Tensor, ball: str, radius: float) -> Tensor:
    """The nearest rows (n, p), in the Euclidean norm, of a ball around 0; one inside stays as it is."""
    if ball == "linf":
        return rows.clamp(-radius, radius)
    size = norms(rows, ball).unsqueeze(1)
    if ball == "l2":
        return rows * torch.where(size > radius, radius / size, 1)
    return torch.where(size > radius, _nearest_of_l1(rows, radius), rows)


def _nearest_of_l1(rows: Tensor, radius: float) -> Tensor:
    """Soft thresholding, sign(r) max(|r| - theta, 0), at the theta of norm `radius`: of the magnitudes
    a_1 >= a_2 >= ..., theta = (a_1 + ... + a_k - radius) / k of the last k at which a_k is above it (Duchi,
    Shalev-Shwartz, Singer and Chandra, ICML 2008)."""
    magnitudes = rows.abs().sort(1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    thetas = (magnitudes.cumsum(1) - radius) / counts
    last = (magnitudes > thetas).sum(1, keepdim=True).clamp(min=1) - 1
    return rows.sign() * (rows.abs() - thetas.gather(1, last)).clamp(min=0)
