"""Uses an executor, and ends in one of several ways."""

import os
import sys
import time

import broody
from broody.futures import ProcessPoolExecutor


def say(word, delay=0.3):
    time.sleep(delay)
    # In one piece, whoever else writes.
    os.write(1, f"{word}\n".encode())


def fork_and_submit(executor):
    """What a fork of the host finds."""
    child = os.fork()
    if child == 0:
        try:
            executor.submit(abs, 1).result(10)
        except RuntimeError as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(child, 0)


def main(method, how):
    context = broody.get_context(method)
    executor = ProcessPoolExecutor(2, context)
    if how == "never_shut_down":
        executor.submit(say, "done").add_done_callback(lambda future: say("called", 0))
    elif how == "forgotten":
        executor.submit(say, "done")
        executor.map(say, ["mapped"])
        del executor
    elif how == "not_waited_for":
        executor.submit(say, "done")
        executor.shutdown(wait=False)
    elif how == "killed":
        executor.map(time.sleep, [600] * 10)
        print(*executor._processes, flush=True)
        time.sleep(600)
    elif how == "forked":
        print(executor.submit(abs, -3).result(), flush=True)
        fork_and_submit(executor)
        print(executor.submit(abs, -4).result(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
