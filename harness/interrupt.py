"""SIGTERM and SIGHUP end a driver as Ctrl-C does: what is recorded is safe, and workers end with it."""

import signal
import threading


def as_interrupts() -> None:
    """To be called again after a library that sets handlers of its own; a nohup stays one."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
