"""A child process made by forking: it begins with all that its parent has loaded, where a new Python spends a second of
processor time on it, and shares that memory.

The parent has one thread when it forks. The child keeps nothing of the parent's but what is loaded: a session, signals,
files and an environment of its own.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from fhirserver import lifeline

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK = 0.02


class Forked:
    """A running child: as much of subprocess.Popen as a supervisor needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if timeout is not None and deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(_TICK)
        return code

    def terminate(self) -> None:
        """Asks it to end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def fork(
    work: Callable[[], object], environ: Mapping[str, str], name: str, last: signal.Signals, out: int | None = None
) -> Forked:
    """Starts a child that does `work` and ends. It prints to our standard error, or its standard output to the file
    `out`; it gets `last` when we end, however we end.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    gc.freeze()  # what is there now stays: looking through it would copy it into every child
    parent = os.getpid()
    # Until the child has let go of our handlers, a signal for it would be taken for one for us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid == 0:
        _child(work, environ, name, last, out, parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Forked(pid)


def _child(
    work: Callable[[], object],
    environ: Mapping[str, str],
    name: str,
    last: signal.Signals,
    out: int | None,
    parent: int,
) -> None:
    """The life of the child; never returns, so that nothing of the parent's on the stack is done a second time."""
    code = 1
    try:
        # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which stops the others in order.
        os.setsid()
        lifeline.tie(last, parent)
        lifeline.name(f"fhir-{name}")
        _alone(out)
        os.environ.clear()  # noqa: TID251 - the child's environment is given to it; nothing is read from it here
        os.environ.update(environ)  # noqa: TID251 - the same
        for each in _SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - the edge of a process: whatever it is, say so without what it may name
        _log.exception("this is a fault of the program; it ends")
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _alone(out: int | None) -> None:
    """Lets go of the parent's files: its lock on the data folder would be held on by the child."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2 if out is None else out, 1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
