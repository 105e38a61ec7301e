"""Registers an exit function, and another one in a child: exits.py METHOD (process | pool) FOLDER"""

import atexit
import os
import sys
from pathlib import Path

import broody


def note(name):
    with open(Path(sys.argv[3]) / name, "a") as file:
        file.write(str(os.getpid()))


def register(name):
    atexit.register(note, name)


if __name__ == "__main__":
    register("parent's")
    ctx = broody.get_context(sys.argv[1])
    if sys.argv[2] == "process":
        child = ctx.Process(target=register, args=("own",))
        child.start()
    else:
        child = ctx.Pool(1)
        child.apply(register, ("own",))
        child.close()
    child.join()
