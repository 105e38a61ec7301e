"""In every process of a run: notes when a file of the standard module is opened, which must not happen."""

import os
import sys

_STANDARD = os.path.join(os.path.dirname(os.__file__), "multiprocessing") + os.sep
_LOG = os.environ.get("CONFORMANCE_WATCH")


def _watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(_STANDARD):
        with open(_LOG, "a") as log:
            log.write(f"{os.getpid()} {arguments[0]}\n")


if _LOG:
    sys.addaudithook(_watch)
