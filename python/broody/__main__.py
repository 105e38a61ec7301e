"""`python -m broody script.py args...` and `python -m broody -m module args...`: runs a program with broody in the place of `multiprocessing`."""

import os
import sys

__all__ = []

USAGE = "usage: python -m broody (script.py | -m module | -c command) [argument ...]"


def main():
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        sys.exit(0 if arguments else 2)
    if arguments[0] in ("-m", "-c") and len(arguments) < 2:
        sys.exit(f"argument expected for {arguments[0]}\n{USAGE}")
    if arguments[0] not in ("-m", "-c") and not os.path.exists(arguments[0]):
        sys.exit(f"can't open file {arguments[0]!r}: there is no such file\n{USAGE}")
    from . import install

    install()
    # A new interpreter, so that the program is its main module in every respect. Its path begins with the package that stands for the standard one.
    from subprocess import _args_from_interpreter_flags

    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *_args_from_interpreter_flags(), *arguments])


if __name__ == "__main__":
    main()
