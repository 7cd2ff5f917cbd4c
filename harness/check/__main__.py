"""The process in which the checks of `harness check` run: a plug-in may end it or hang in it."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from harness.check import fresh_process, judged, plugin_checks
from harness.child import parent
from harness.errors import HarnessError


def main() -> None:
    """One text in: what to check. Texts out: one as soon as this process stands, the names of all checks or
    an error, then verdict by verdict."""
    way = parent()
    way.send_bytes(b"{}")
    name, options, files, data_dir = json.loads(way.recv_bytes())
    torch.set_num_threads(1)
    with fresh_process() as elsewhere:
        try:
            folder = Path(data_dir) if data_dir else None
            checks = plugin_checks(name, options, [Path(file) for file in files], folder, elsewhere)
        except (HarnessError, OSError) as error:
            way.send_bytes(json.dumps({"error": str(error)}).encode())
            return
        way.send_bytes(json.dumps({"checks": list(checks)}).encode())
        for verdict in judged(checks):
            way.send_bytes(json.dumps(asdict(verdict)).encode())


if __name__ == "__main__":
    main()
