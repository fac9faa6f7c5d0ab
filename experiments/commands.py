"""What all commands share: how they are typed, and what they answer, done, refused or interrupted.

Of the standard library alone, so that `analysis` may read it too.
"""

import errno
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit on a file's size is reached",
}

P = ParamSpec("P")


def command(*refused: type[Exception]) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Make a `main` that returns its exit code answer for its errors too: those in `refused` are one sentence and 2.

    So is what the disk or standard output refuses, and 130 is the code after Ctrl-C; a reader that has gone, as behind
    `| head`, is no error. An OSError stands in `refused` where a library may raise one that does not say its file.
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                code = main(*args, **kwargs)
                sys.stdout.flush()
                return code
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                return 130
            except BrokenPipeError:
                drop_output()
                return 1
            except refused as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            except OSError as error:
                if error.errno is None:  # a library's own, none of the system
                    raise
                if error.filename is None:
                    drop_output()
                what, where = FULL.get(error.errno, error.strerror), error.filename or "standard output"
                print(f"error: {what} ({where})", file=sys.stderr)
                return 2

        return run

    return decorate


def typed(module: str, *words: object) -> str:
    """The line that a person types to run a module, quoted for a shell."""
    return shlex.join(["python", "-m", module, *map(str, words)])


def drop_output() -> None:
    """Forget what standard output did not take: it would fail again at the end of the process."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave(code: int) -> None:
    """Exit at once: no wrapper turns the code into its own, and no library's exit handler waits for a server."""
    sys.stdout.flush()
    with suppress(OSError):  # a terminal that has gone must not keep the process
        sys.stderr.flush()
    os._exit(code)
