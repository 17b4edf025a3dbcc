"""Commands of ours at a seventh of their price: a process that has loaded `fhirserver` forks for each, where a new one
needs nearly two seconds of processor time to load it. What is forked reads its arguments and environment as any does.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]


class Commands:
    """Starts the process that forks with the first command; that ends with its standard input, so with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def run(self, words: tuple[str, ...], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs `fhirserver` with these words and this environment, whatever comes of it."""
        with self._turn, TemporaryDirectory() as folder:
            process = self._process = self._process or self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            out, err = Path(folder, "out"), Path(folder, "err")
            asked = {"words": words, "environ": dict(environ), "out": str(out), "err": str(err)}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            return subprocess.CompletedProcess(["fhirserver", *words], code, out.read_text(), err.read_text())

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.commands"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def _serve() -> None:
    from fhirserver import app, local, supervisor  # noqa: F401 - loaded for those who are forked

    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _do(**asked)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _do(words: list[str], environ: dict[str, str], out: str, err: str) -> NoReturn:
    code = 1
    try:
        for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
            os.dup2(os.open(path, flags | (os.O_CREAT if number else 0), 0o600), number)
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = ["fhirserver", *words]
        from fhirserver.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 - what any process would print
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
