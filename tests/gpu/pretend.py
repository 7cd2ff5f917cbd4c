"""A pretend CUDA device: its tensors say `cuda:0`, their numbers lie in the CPU's memory.

Operations that mix devices raise as on a GPU. Counted are kernel launches, copies to the device, and what
makes the host wait for it, these two with the project's line at fault; memory can be capped. To be imported
before torch, in a process of its own:

    from tests.gpu import pretend
    with pretend.Gpu() as gpu: ...      # device "cuda"; gpu.counts, gpu.waits, gpu.peak

Not modelled: the rounding of CUDA's kernels, streams, errors that come late, fragmentation, operations that
CUDA lacks. A launch is counted for each operation, more where CUDA is known to take several.
"""

import ctypes
import os
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.gpu.build import LIBRARY, build

assert "torch" not in sys.modules, "import tests.gpu.pretend before torch"
with tempfile.TemporaryDirectory() as built:  # in front of libtorch, which says that there is no accelerator
    ctypes.CDLL(os.environ.get(LIBRARY) or str(build(Path(built))), mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
from torch.utils._mode_utils import no_dispatch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.device("cuda", 0)
ALL_BYTES = 80 * 10**9
aten = torch.ops.aten

COPIES = {aten._to_copy, aten.copy_}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
WAITS = {  # CUDA tells the host a number or a shape
    *(aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten._unique2),
    *(aten._linalg_eigh, aten.linalg_eigh, aten._linalg_svd, aten._linalg_solve_ex),
}
PRODUCTS = {  # the place of the left factor among the arguments
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv), 0),
    **dict.fromkeys((aten.addmm, aten.addmm_, aten.addmv, aten.addmv_, aten.baddbmm, aten.baddbmm_), 1),
}
NO_KERNEL = {
    *(aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided),
    *(aten._unsafe_view, aten.lift_fresh, aten.detach, aten._local_scalar_dense),
}
KERNELS = {
    aten.nonzero: 4,
    aten.sort: 3,
    aten.cumsum: 2,
    aten.equal: 3,
    aten.logsumexp: 6,
    aten._linalg_eigh: 60,
}

FLOPS, BYTES, LEAST = 60e12, 3e12, 2e-6
"""Of an H100 a second, in float32 without TF32, and the seconds that a kernel takes at least."""

torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(..., device="cuda") is seen to copy
torch.cuda._lazy_init = lambda: None
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.synchronize = lambda device=None: None
torch.cuda.get_device_name = lambda device=None: "Pretend"


class Device(torch.Tensor):
    """A tensor on the pretend device. host: the same on the CPU; views share memory, as on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    host: torch.Tensor
    gpu: "Gpu"

    @staticmethod
    def of(host: torch.Tensor, gpu: "Gpu") -> "Device":
        made = torch.Tensor._make_wrapper_subclass(
            Device, host.shape, host.stride(), host.storage_offset(), dtype=host.dtype, device=DEVICE
        )
        made.host, made.gpu = host, gpu
        gpu.hold(host)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Outside of `with gpu`, as in a backward pass."""
        own = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Device))
        return own.gpu.run(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy


class Gpu(TorchDispatchMode):
    """The device while it is entered.

    capacity: bytes; beyond the share of them that this process may take memory is out. counts: by (phase,
    kind), where kinds are launch, wait and copy, to the device. waits: by (phase, kind, line, operation), of
    waits and copies. seconds: by phase, of an H100, by a model. peak: bytes."""

    def __init__(self, capacity: float = ALL_BYTES) -> None:
        super().__init__()
        self.capacity, self.share = capacity, 1.0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.waits: Counter[tuple[str, str, str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.bytes = self.peak = 0
        self._phases = ["other"]
        self._holders: Counter[int] = Counter()

    def __enter__(self) -> "Gpu":
        torch.cuda.mem_get_info = lambda device=None: (int(self.capacity - self.bytes), int(self.capacity))
        torch.cuda.set_per_process_memory_fraction = self._limit
        super().__enter__()
        return self

    def _limit(self, share: float, device: object = None) -> None:
        self.share = share

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is counted inside is of this phase."""
        self._phases.append(name)
        try:
            yield
        finally:
            self._phases.pop()

    # --- memory

    def hold(self, host: torch.Tensor) -> None:
        """One more tensor on a storage, which takes memory for as long as there is one."""
        storage = host.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if not self._holders[key]:
            if self.bytes + size > self.share * self.capacity:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes")
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        self._holders[key] += 1
        weakref.finalize(host, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.bytes -= size

    # --- counting

    def count(self, kind: str, number: int = 1, what: str = "") -> None:
        self.counts[self._phases[-1], kind] += number
        if what:
            self.waits[self._phases[-1], kind, _line(), what] += number

    # --- operations

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The operation on the CPU's twins of device tensors; its results are on the device again."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, Device)]
        op, target = func.overloadpacket, kwargs.get("device")
        if op in (aten._pin_memory, aten.is_pinned):
            return self._pinning(op, tensors[0])
        to_device = torch.device(target).type == "cuda" if target is not None else bool(here)
        if not here and not to_device:
            return func(*args, **kwargs)
        if op in COPIES:
            to_device = self._copy(op, args, kwargs, to_device)
        else:
            self._require_one_device(func, op, args, tensors)
        plain, named = tree_map_only(Device, lambda tensor: tensor.host, (args, kwargs))
        if target is not None:
            named["device"] = torch.device("cpu")
        found = func(*plain, **named)
        self._count_kernels(func, op, plain, found)
        if torch.Tag.inplace_view in func.tags:  # squeeze_ and the like: the tensor's own shape follows
            with no_dispatch():
                func(*args, **kwargs)
        if not to_device:
            return found
        known = {id(tensor.host): tensor for tensor in here}

        def placed(new: torch.Tensor) -> torch.Tensor:
            return known[id(new)] if id(new) in known else Device.of(new, self)

        return tree_map_only(torch.Tensor, placed, found)

    def _pinning(self, op: Any, tensor: torch.Tensor) -> Any:
        if op is aten.is_pinned:
            return getattr(tensor, "pinned", False)
        pinned = tensor.clone()
        pinned.pinned = True
        return pinned

    def _copy(self, op: Any, args: Any, kwargs: dict[str, Any], to_device: bool) -> bool:
        """Whether a copy's result is on the device. The host waits, but for one of pinned memory."""
        source = args[1] if op is aten.copy_ else args[0]
        if op is aten.copy_:
            to_device = isinstance(args[0], Device)
        if isinstance(source, Device) == to_device:
            self.count("launch")
            return to_device
        behind = kwargs.get("non_blocking") or (op is aten.copy_ and len(args) > 2 and args[2])
        if to_device:
            self.count("copy", what=str(op))
        if not (to_device and behind and getattr(source, "pinned", False)):
            self.count("wait", what=str(op))
        return to_device

    def _require_one_device(self, func: Any, op: Any, args: Any, tensors: list[torch.Tensor]) -> None:
        """Raises RuntimeError where CUDA does; what it copies or waits for unasked is counted."""
        if op in INDEXED and isinstance(args[0], Device):
            for index in (index for index in args[1] if index is not None):
                if not isinstance(index, Device):
                    self.count("copy", what="index of the CPU")
                    self.count("wait", what="index of the CPU")
                if index.dtype in (torch.bool, torch.uint8):
                    self.count("wait", what="mask as index")
            tensors = [args[0], *args[2:3]]
        strange = [tensor for tensor in tensors if not isinstance(tensor, Device)]
        if not strange or len(strange) == len(tensors):
            return
        scalars = torch.Tag.pointwise in func.tags or op in INDEXED or op in (aten.where, aten.fill_)
        written = func._schema.is_mutable and args[0] is strange[0]
        if written or not scalars or any(tensor.dim() for tensor in strange):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({func})"
            )
        if op is aten.where:  # a pointwise kernel takes a number of the CPU as its argument; where copies it
            self.count("copy", what="number of the CPU")
            self.count("wait", what="number of the CPU")

    def _count_kernels(self, func: Any, op: Any, args: Any, found: Any) -> None:
        if op in WAITS:
            self.count("wait", what=str(op))
        is_view = any(
            out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns
        )
        if op not in NO_KERNEL and op not in COPIES and not is_view:
            kernels = KERNELS.get(op, 1)
            self.count("launch", kernels)
            self.seconds[self._phases[-1]] += max(kernels * LEAST, _seconds(op, args, found))


def _seconds(op: Any, args: Any, found: Any) -> float:
    """The larger of what an operation computes and what it moves, of gathers the rows alone."""
    tensors = [leaf for leaf in tree_leaves((args, found)) if isinstance(leaf, torch.Tensor)]
    if op in INDEXED or op is aten.index_select:
        tensors = 2 * tensors[1:]
    moved = sum(min(t.numel() * t.itemsize, t.untyped_storage().nbytes()) for t in tensors)
    flops = 2 * found.numel() * args[PRODUCTS[op]].shape[-1] if op in PRODUCTS else 0
    return float(max(flops / FLOPS, moved / BYTES))


def _dispatched(gpu: Gpu, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return gpu.run(func, args, kwargs or {})


# Not in the class: PyTorch wraps what stands there, and imports its compiler for that, which takes seconds.
Gpu.__torch_dispatch__ = _dispatched


def _line() -> str:
    """The innermost line of the project that is being executed."""
    frame = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if (
            file.is_relative_to(ROOT)
            and not file.is_relative_to(ROOT / "tests" / "gpu")
            and ".venv" not in file.parts
        ):
            return f"{file.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
