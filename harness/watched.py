"""A worker in a process of its own, which is ended and replaced where a trial runs too long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from harness.child import Child, Died, TooLong, parent
from harness.errors import HarnessError
from harness.result import Result, failed
from harness.worker import Context, Pack, Spent, Worker, results_from_json, results_to_json


class Watched:
    """Runs packs as a Worker does, and takes `trial_timeout` seconds for a trial at most. The clock starts
    when the process has set the problem up."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._child: Child | None = self._begun()

    def _begun(self) -> Child:
        child = Child("harness.watched")
        try:
            child.send(self.context.to_json())
            problem = json.loads(child.receive())
        except Died:
            raise HarnessError("the process died while it was set up (killed, or out of memory)") from None
        except BaseException:
            child.end()
            raise
        if problem:
            raise HarnessError(problem)
        return child

    def run(self, pack: Pack) -> list[Result]:
        """One result per trial. A pack that takes too long runs again trial by trial. Raises Died."""
        limit = self.context.trial_timeout
        child = self._child or self._begun()
        self._child = None
        try:
            child.send(pack.to_json())
            results = results_from_json(child.receive(limit * len(pack.numbers)))
            self._child = child
            return results
        except TooLong:
            if len(pack.numbers) > 1:
                return [result for single in pack.parts(1) for result in self.run(single)]
            return [failed(pack.configs[0], f"TimeoutError: ran longer than {limit:g} s")]

    def close(self) -> None:
        if self._child is not None:
            self._child.end()


@contextmanager
def working(context: Context, spent: Spent | None = None) -> Iterator[Worker | Watched]:
    """A worker in this process, which tells `spent` how far it has come; in one of its own, which does not,
    where trials have a time limit."""
    if not context.trial_timeout:
        yield Worker(context, spent)
        return
    worker = Watched(context)
    try:
        yield worker
    finally:
        worker.close()


def main() -> None:
    driver = parent()
    try:
        worker = Worker.from_json(driver.recv_bytes().decode())
    except (HarnessError, OSError) as error:
        driver.send_bytes(json.dumps(str(error)).encode())
        return
    driver.send_bytes(json.dumps("").encode())
    while True:
        pack = Pack.from_json(driver.recv_bytes().decode())
        driver.send_bytes(results_to_json(worker.run(pack)).encode())


if __name__ == "__main__":
    main()
