"""Starts a daemon that ignores SIGTERM, and returns."""

import signal
import sys
import time

import broody


def deaf(event):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    event.set()
    time.sleep(600)


if __name__ == "__main__":
    ctx = broody.get_context(sys.argv[1])
    event = ctx.Event()
    child = ctx.Process(target=deaf, args=(event,), daemon=True)
    child.start()
    event.wait()
    print(child.pid, flush=True)
