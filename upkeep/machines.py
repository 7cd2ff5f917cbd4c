"""Machines of a Ray cluster, pretended on one: each has an address, processes and a /tmp of its own (Linux
namespaces), so that it sees nothing of the driver's folders and can be switched off as a whole.

Everything here runs inside `pretend`: a network that vanishes with the process, without being root outside.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

NAMESPACES = (
    "unshare",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
NETWORK = "10.77.0"
PORT = 6379
ROOT = Path(__file__).resolve().parents[1]
STARTS = 400.0
"""Seconds that a machine may take until Ray answers there."""


def possible() -> bool:
    """Whether this system lets us make namespaces and a network in them."""
    command = [*NAMESPACES, "ip", "link", "add", "br0", "type", "bridge"]
    try:
        return sys.platform == "linux" and subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def pretend(module: str, words: Sequence[str]) -> NoReturn:
    """Run a module with `--inside` in a world of its own, in place of this process: what ends it ends all."""
    if not possible():
        raise SystemExit(
            "error: this system makes no namespaces (unshare, ip); Linux with user namespaces does"
        )
    os.execvp(NAMESPACES[0], [*NAMESPACES, sys.executable, "-m", module, *words, "--inside"])


def begin_network() -> None:
    for command in (
        "ip link set lo up",
        "ip link add br0 type bridge",
        f"ip addr add {NETWORK}.1/24 dev br0",
        "ip link set br0 up",
    ):
        subprocess.run(command.split(), check=True)


def child(process: int) -> int:
    """Of a process that has one child."""
    deadline = time.monotonic() + STARTS
    while time.monotonic() < deadline:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise SystemExit(f"process {process} begins no child")


class Machine:
    """folder: what it sees as /tmp. hidden: by path, a folder that it sees in its place."""

    def __init__(self, number: int, folder: Path, hidden: dict[Path, Path] | None = None) -> None:
        self.address, self.folder = f"{NETWORK}.{number}", folder
        folder.mkdir(parents=True, exist_ok=True)
        mounts = {Path("/tmp"): folder} | (hidden or {})
        script = " && ".join(
            f"mount --bind {shlex.quote(str(seen))} {shlex.quote(str(place))}"
            for place, seen in reversed(mounts.items())
        )
        inner = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        command = [*inner, "sh", "-c", f"{script} && exec sleep infinity"]
        self._outer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._init = child(self._outer.pid)
        self._plug_in(number)

    def _plug_in(self, number: int) -> None:
        ours, theirs = f"v{number}", f"w{number}"
        for command in (
            f"ip link add {ours} type veth peer name {theirs}",
            f"ip link set {theirs} netns {self._init}",
            f"ip link set {ours} master br0 up",
        ):
            subprocess.run(command.split(), check=True)
        for command in (
            "ip link set lo up",
            f"ip addr add {self.address}/24 dev {theirs}",
            f"ip link set {theirs} up",
            f"ip route add default via {NETWORK}.1",
        ):
            self.run(command.split()).wait()

    def run(
        self, command: Sequence[str], log: Path | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start a command there; what it says goes to `log`."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = {"HOME": "/tmp/home", "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        enter = ["nsenter", "--target", str(self._init), "--net", "--mount", "--pid"]
        inner = ["sh", "-c", f"cd /tmp && exec {shlex.join(command)}"]
        file = log.open("ab") if log else subprocess.DEVNULL
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("HARNESS", "XDG", "RAY"))
        }
        return subprocess.Popen([*enter, *inner], stdout=file, stderr=file, env=kept | own | variables)

    def ray(self, cpus: int, head: str = "", **variables: str) -> None:
        """Start a node of Ray: the head, or one of the cluster with that head. Waits until it has joined."""
        first = ["--head", "--port", str(PORT), "--include-dashboard", "false"]
        place = ["--address", f"{head}:{PORT}"] if head else first
        words = ["--num-cpus", str(cpus), "--object-store-memory", str(80 * 2**20)]
        log = self.folder / "ray.log"
        command = [str(Path(sys.executable).with_name("ray")), "start", *place, *words]
        started = self.run([*command, "--node-ip-address", self.address], log, **variables)
        if started.wait(STARTS) != 0:
            raise SystemExit(log.read_text())

    def processes(self, name: str) -> list[int]:
        """Those of this machine whose command line begins with `name`."""
        space = os.readlink(f"/proc/{self._init}/ns/pid")
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
                if Path(command).name.startswith(name) and os.readlink(folder / "ns" / "pid") == space:
                    found.append(int(folder.name))
            except OSError:  # it has ended
                continue
        return found

    def off(self) -> None:
        """As if its plug were pulled."""
        if self._outer.poll() is None:
            os.kill(self._init, signal.SIGKILL)
            self._outer.wait()

    def forget(self) -> None:
        self.off()
        shutil.rmtree(self.folder, ignore_errors=True)
