"""Pools whose class has reducers of its own, as joblib's: what is handed in and what comes back is pickled by them."""

import subprocess
import sys

import broody.pool
import pytest
from broody.pool import MaybeEncodingError
from conftest import PATIENCE


class Place:
    """Knows which ways it went; pickles by reducers only."""

    def __init__(self, ways=(), number=0):
        self.ways, self.number = ways, number

    def __reduce__(self):
        raise TypeError("a place does not pickle")


def there(place):
    if place.number < 0:
        raise ValueError("a number below zero")
    return Place, ((*place.ways, "there"), place.number)


def back(place):
    return Place, ((*place.ways, "back"), place.number)


class Pool(broody.pool.Pool):
    def __init__(self, *arguments, forward=None, backward=None, **more):
        self._forward_reducers = {Place: there} if forward is None else forward
        self._backward_reducers = {Place: back} if backward is None else backward
        super().__init__(*arguments, **more)


def one_more(place, more=1):
    return Place(place.ways, place.number + more)


def ways(place, *_):
    return place.ways


def told(places):
    return [(place.ways, place.number) for place in places]


def remember(word):
    broody.current_process().word = word


def remembered(_):
    return broody.current_process().word


BOTH = ("there", "back")


def test_tasks_and_results_go_by_the_reducers(ctx):
    with Pool(2, remember, ("word",), context=ctx) as pool:
        assert told([pool.apply(one_more, (Place(),), {"more": 3})]) == [(BOTH, 3)]
        places = [Place(number=number) for number in range(10)]
        whole = [(BOTH, number + 1) for number in range(10)]
        for chunksize in (None, 1, 3):
            assert told(pool.map(one_more, places, chunksize)) == whole
            assert told(pool.map_async(one_more, iter(places), chunksize).get(PATIENCE)) == whole
        assert told(pool.starmap(one_more, [(place, 1) for place in places])) == whole
        assert told(pool.imap(one_more, iter(places), 4)) == whole
        assert sorted(told(pool.imap_unordered(one_more, places))) == whole
        assert pool.map(remembered, [1]) == ["word"]


def test_one_way_only(ctx):
    with Pool(1, context=ctx, backward={}) as pool:
        assert pool.apply(ways, (Place(),)) == ("there",)
        with pytest.raises(MaybeEncodingError, match="a place does not pickle"):
            pool.apply(one_more, (Place(),))
    with Pool(1, context=ctx, forward={}) as pool:
        assert told([pool.apply(Place, ((), 7))]) == [(("back",), 7)]


def test_a_reducer_that_raises_fails_its_task(ctx):
    with Pool(1, context=ctx) as pool:
        with pytest.raises(ValueError, match="below zero"):
            pool.apply_async(ways, (Place(number=-1),)).get(PATIENCE)
        assert pool.apply(ways, (Place(),)) == ("there",)


def test_workers_of_joblib_write_into_the_programs_array(tmp_path):
    pytest.importorskip("joblib")
    pytest.importorskip("numpy")
    program = tmp_path / "program.py"
    program.write_text("""
import joblib, numpy
def put(numbers, index, whole):
    numbers[index] = index + 1
    return type(whole).__name__, whole.flags.writeable
if __name__ == '__main__':
    numbers = numpy.memmap('numbers', dtype='float64', shape=4, mode='w+')
    whole = numpy.zeros(500_000)
    kinds = joblib.Parallel(n_jobs=2, backend='multiprocessing')(joblib.delayed(put)(numbers, index, whole) for index in range(4))
    print(numbers.tolist(), set(kinds))
""")
    done = subprocess.run([sys.executable, "-m", "broody", program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "[1.0, 2.0, 3.0, 4.0] {('memmap', False)}\n"), done.stderr
