"""In every process of a run: notes when a file of the standard module is opened, which must not happen.

Interpreters that tests start with the option -I or -E, which would have them pass over the folders where broody is, start without it.

Puts another executor in the place of the standard one as well, if the run is to be over that.
"""

import os
import sys

_STANDARD = os.path.join(os.path.dirname(os.__file__), "multiprocessing") + os.sep
_LOG = os.environ.get("CONFORMANCE_WATCH")
_EXECUTOR = os.environ.get("CONFORMANCE_EXECUTOR")


def _watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(_STANDARD):
        with open(_LOG, "a") as log:
            log.write(f"{os.getpid()} {arguments[0]}\n")
    elif event == "subprocess.Popen" and arguments[1][0] == sys.executable:
        # The list that the command is started with.
        arguments[1][:] = [word for word in arguments[1] if word not in ("-I", "-E")]


if _LOG:
    sys.addaudithook(_watch)

if _EXECUTOR:
    import concurrent.futures.process
    import importlib

    _kind = importlib.import_module(_EXECUTOR).ProcessPoolExecutor
    concurrent.futures.ProcessPoolExecutor = concurrent.futures.process.ProcessPoolExecutor = _kind
