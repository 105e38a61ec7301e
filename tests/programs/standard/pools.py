"""The ways in which programs use multiprocessing.Pool, with each start method."""

import functools
import multiprocessing
import multiprocessing.pool
import os
import sys

STATE = {}


def prepare(key, counter):
    STATE[key] = counter


def count(number):
    with STATE["counter"].get_lock():
        STATE["counter"].value += number
    return number


def square(number):
    return number * number


def power(base, exponent=2):
    return base**exponent


def refuse(number):
    if number == 3:
        raise LookupError("there is no 3")
    return number


def who(_):
    process = multiprocessing.current_process()
    return process.daemon, type(process).__name__, os.getpid() != os.getppid()


def times(matrix, number):
    return [[number * cell for cell in row] for row in matrix]


class Model:
    def __init__(self, weight):
        self.weight = weight

    def predict(self, number):
        return self.weight * number

    def __call__(self, number):
        return -number


def main(method):
    context = multiprocessing.get_context(method)
    with context.Pool(3) as pool:
        print(pool.map(square, range(30)), pool.map(square, [], 5))
        print(pool.starmap(power, [(2, 3), (3,), (4, 0)]))
        print(list(pool.imap(square, range(10), 4)), sorted(pool.imap_unordered(square, range(10))))
        print(pool.apply(power, (2,), {"exponent": 10}))
        print(pool.map(Model(3).predict, range(5)), pool.map(Model(1), range(3)), pool.map(functools.partial(power, 3), range(4)))
        print(pool.map(str.upper, ["a", "b"]), pool.map(len, ["aa", "bbb"]))
        print(set(pool.map(who, range(10))))
        results, errors = [], []
        waiting = [pool.apply_async(refuse, (number,), callback=results.append, error_callback=errors.append) for number in range(5)]
        for result in waiting:
            result.wait()
        print([result.successful() for result in waiting], sorted(results), errors)
        mapped = pool.map_async(square, range(5), callback=results.append)
        print(mapped.get(60), mapped.ready(), results[-1])
        try:
            pool.map(refuse, range(10), chunksize=1)
        except LookupError as error:
            print(repr(error), type(error.__cause__).__name__)
        iterator = pool.imap(refuse, range(6))
        told = []
        while True:
            try:
                told.append(next(iterator))
            except StopIteration:
                break
            except LookupError as error:
                told.append(str(error))
        print(told)
        big = [[float(row * cell) for cell in range(300)] for row in range(300)]
        print(sum(map(sum, pool.apply(times, (big, 2)))))
    for use in (lambda: pool.map(square, [1]), lambda: pool.apply_async(square, (1,))):
        try:
            use()
        except ValueError as error:
            print(error)
    counter = context.Value("i", 0)
    pool = context.Pool(2, prepare, ("counter", counter), maxtasksperchild=2)
    # Flushed: the standard module's pool may fork a worker that writes what is buffered once more.
    print(sum(pool.map(count, range(12), chunksize=1)), counter.value, flush=True)
    pool.close()
    pool.join()
    with multiprocessing.pool.ThreadPool(2) as threads:
        print(threads.map(square, range(5)))


if __name__ == "__main__":
    main(sys.argv[1])
