"""joblib.Parallel with a backend: results, arrays in shared memory, errors, nested calls, a memory on disk."""

import sys
import tempfile

import joblib
import numpy


def square(number):
    return number * number


def total(array):
    return float(array.sum()), type(array).__name__


def fill(array, index):
    array[index] = index + 1


def refuse(number):
    if number == 3:
        raise LookupError("there is no 3")
    return number


def inner(number):
    return joblib.Parallel(n_jobs=2)(joblib.delayed(square)(number + more) for more in range(3))


def main(backend):
    with joblib.Parallel(n_jobs=2, backend=backend) as parallel:
        print(parallel(joblib.delayed(square)(number) for number in range(50)))
        print(parallel(joblib.delayed(len)([0] * number) for number in range(5)))
        array = numpy.arange(500_000, dtype="float64")
        print(parallel(joblib.delayed(total)(array) for _ in range(3)))
        try:
            parallel(joblib.delayed(refuse)(number) for number in range(6))
        except LookupError as error:
            print(repr(error))
    print(joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(inner)(number) for number in range(3)))
    if backend != "multiprocessing":
        print(list(joblib.Parallel(n_jobs=2, backend=backend, return_as="generator")(joblib.delayed(square)(number) for number in range(5))))
    with joblib.parallel_config(backend, n_jobs=2):
        print(joblib.Parallel()(joblib.delayed(pow)(number, 2) for number in range(4)), joblib.effective_n_jobs())
    with tempfile.TemporaryDirectory() as folder:
        # Workers write into the program's own memory.
        filled = numpy.memmap(f"{folder}/filled", dtype="int64", shape=6, mode="w+")
        joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(fill)(filled, index) for index in range(6))
        print(filled.tolist())
        cached = joblib.Memory(folder, verbose=0).cache(square)
        print(joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(cached)(number) for number in (1, 2, 1)))


if __name__ == "__main__":
    main(sys.argv[1])
