"""Waits for a child that does not end, until Ctrl-C."""

import sys
import time

import broody

if __name__ == "__main__":
    child = broody.get_context(sys.argv[1]).Process(target=time.sleep, args=(600,), daemon=True)
    child.start()
    try:
        print("ready", flush=True)
        child.join()
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)
