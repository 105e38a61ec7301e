"""Plays a session of the interactive interpreter from a file with `>>>` and `...`, and writes what it shows.

    python session.py FILE

The statements run in the main module, one after the other. An exception is shown by its last line, and the session goes on.
"""

import sys
import traceback
from pathlib import Path


def statements(text):
    """The statements of a session, without what it shows in between."""
    found = []
    for line in text.splitlines():
        if line[:4] in (">>>", ">>> "):
            found.append(line[4:] + "\n")
        elif line[:4] in ("...", "... ") and found:
            found[-1] += line[4:] + "\n"
    return found


def main(path):
    space = sys.modules["__main__"].__dict__
    for number, source in enumerate(statements(Path(path).read_text())):
        print(">>>", source.rstrip("\n").replace("\n", "\n... "))
        try:
            exec(compile(source, f"<session {number}>", "single"), space)
        except Exception as error:
            print(*traceback.format_exception_only(error), sep="", end="")


if __name__ == "__main__":
    main(sys.argv[1])
