"""What a problem computes once for many derivatives at one point."""

from collections.abc import Callable

import torch
from torch import Tensor


class Last:
    """The last value of a function of tensors, given again while asked about the very same, unwritten."""

    def __init__(self) -> None:
        self._asked: list[tuple[Tensor, int]] = []
        self._value = torch.empty(0)

    def get(self, compute: Callable[[], Tensor], *asked: Tensor) -> Tensor:
        """The value of compute(), a function of `asked`."""
        known = len(asked) == len(self._asked) and all(
            now is then and now._version == version
            for now, (then, version) in zip(asked, self._asked, strict=True)
        )
        if not known:
            self._asked, self._value = [(tensor, tensor._version) for tensor in asked], compute()
        return self._value
