"""In every process of a run: notes when a file of the standard module is opened, which must not happen.

Puts another executor in the place of the standard one as well, if the run is to be over that."""

import os
import sys

_STANDARD = os.path.join(os.path.dirname(os.__file__), "multiprocessing") + os.sep
_LOG = os.environ.get("CONFORMANCE_WATCH")
_EXECUTOR = os.environ.get("CONFORMANCE_EXECUTOR")


def _watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(_STANDARD):
        with open(_LOG, "a") as log:
            log.write(f"{os.getpid()} {arguments[0]}\n")


if _LOG:
    sys.addaudithook(_watch)

if _EXECUTOR:
    import concurrent.futures.process
    import importlib

    _kind = importlib.import_module(_EXECUTOR).ProcessPoolExecutor
    concurrent.futures.ProcessPoolExecutor = concurrent.futures.process.ProcessPoolExecutor = _kind
