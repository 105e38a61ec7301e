"""Starts a child that shall survive, and returns."""

import sys
import time

import broody

if __name__ == "__main__":
    child = broody.get_context(sys.argv[1]).Process(target=time.sleep, args=(600,), orphan="keep")
    child.start()
    print(child.pid, flush=True)
