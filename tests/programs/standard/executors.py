"""concurrent.futures.ProcessPoolExecutor, with each start method."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import sys

STATE = []


def prepare(word):
    STATE.append(word)


def square(number):
    return number * number


def remembered(_):
    return STATE


def refuse(number):
    raise ValueError(f"{number} is refused") from KeyError(number)


def ask_again(number):
    """A task of a pool has a pool."""
    with concurrent.futures.ProcessPoolExecutor(1) as executor:
        return executor.submit(square, number).result()


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not to be pickled")


async def gather(executor):
    loop = asyncio.get_running_loop()
    return await asyncio.gather(*(loop.run_in_executor(executor, square, number) for number in range(5)))


def main(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, context, prepare, ("ready",)) as executor:
        print(list(executor.map(square, range(20), chunksize=3)))
        print(list(executor.map(pow, range(5), range(5))))
        futures = {executor.submit(square, number): number for number in range(10)}
        print(sorted((futures[future], future.result()) for future in concurrent.futures.as_completed(futures)))
        print(list(executor.map(remembered, range(2))))
        done, waiting = concurrent.futures.wait([executor.submit(square, 3), executor.submit(refuse, 4)])
        print(sorted(str(future.exception()) for future in done), len(waiting))
        error = executor.submit(refuse, 5).exception()
        print(repr(error), type(error.__cause__).__name__, "KeyError: 5" in str(error.__cause__))
        print(repr(executor.submit(print, Unpicklable()).exception()))
        called = []
        future = executor.submit(square, 6)
        future.add_done_callback(lambda future: called.append(future.result()))
        concurrent.futures.wait([future])
        print(future.done(), future.cancel(), future.running(), called)
        print(executor.submit(ask_again, 7).result())
        print(asyncio.run(gather(executor)))
    try:
        executor.submit(square, 1)
    except RuntimeError as error:
        print(error)
    broken = concurrent.futures.ProcessPoolExecutor(1, context)
    print(type(broken.submit(os._exit, 3).exception()).__name__)
    broken.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
