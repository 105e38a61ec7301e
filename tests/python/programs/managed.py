"""Starts a manager, tells its pid, and waits."""

import signal

from broody import get_context, managers

if __name__ == "__main__":
    import sys

    manager = managers.SyncManager(ctx=get_context(sys.argv[1]))
    manager.start()
    numbers = manager.list([1, 2])
    print(manager._process.pid, flush=True)
    signal.pause()
