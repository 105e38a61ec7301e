"""Waits for a pool in one of several ways, until Ctrl-C."""

import sys
import time

import broody


def sleep(_):
    time.sleep(600)


def main(method, how):
    with broody.get_context(method).Pool(2) as pool:
        pool.map(abs, range(10))
        try:
            print(*(worker.pid for worker in pool._pool), flush=True)
            if how == "map":
                pool.map(sleep, range(4), 1)
            elif how == "chunks":
                pool.map(sleep, range(4), 2)
            elif how == "get":
                pool.apply_async(sleep, (1,)).get()
            else:
                list(pool.imap(sleep, range(4)))
        except KeyboardInterrupt:
            print("KeyboardInterrupt", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
