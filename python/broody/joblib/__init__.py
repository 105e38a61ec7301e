"""joblib on broody's workers: `import broody.joblib; joblib.parallel_config("broody")`.

Importing this registers the backend "broody". Its workers are kept for the next call, as loky's are; unlike those, they are gone with the program however that
ends, one that dies is named in the error, and long arrays go to them through shared memory. Programs need no main guard: workers do not import the
main module, and what is defined there goes to them by value.
"""

import sys
import threading

import joblib
from joblib._parallel_backends import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from .. import get_context, reduction
from ..futures import ProcessPoolExecutor

__all__ = ["BroodyBackend"]

# How long a worker has nothing to do before it ends, in seconds.
_IDLE = 300


class _Workers(ProcessPoolExecutor):
    """Workers that do not import the main module, and have these environment variables."""

    def __init__(self, n_jobs, environment, mp_context, options):
        context = get_context(mp_context) if mp_context is None or isinstance(mp_context, str) else mp_context
        super().__init__(n_jobs, context, **{"idle_timeout": _IDLE, **options})
        self._settings.update(environment=environment, without_main=True)


# The workers of the latest calls, by what they were asked for with.
_kept = {}
_lock = threading.Lock()


def _workers(n_jobs, environment, mp_context, options):
    wanted = (n_jobs, tuple(environment.items()), mp_context, tuple(sorted(options.items())))
    with _lock:
        workers = _kept.pop(wanted, None)
        if workers is None or workers._is_shut_down or workers._broken:
            workers = _Workers(n_jobs, environment, mp_context, options)
        # The last one stays, as programs mostly ask for the same again.
        while _kept:
            _kept.popitem()[1].shutdown(wait=False)
        _kept[wanted] = workers
    return workers


# Arrays in files of the program's


class _Sending(threading.local):
    """Whether this thread hands in a batch. The pickler is the whole package's."""

    a_batch = False


_sending = _Sending()


def _map_arrays_of_files():
    """Where a program maps a file (`numpy.memmap`), workers map it, too: what they write into it is in the file, as with joblib's own backends."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and numpy.memmap not in reduction.ForkingPickler._extra_reducers:
        reduction.register(numpy.memmap, _reduce_array)
        reduction.register(numpy.ndarray, _reduce_array)


def _reduce_array(array):
    if _sending.a_batch and array.base is not None:
        from joblib._memmapping_reducer import _get_backing_memmap, _reduce_memmap_backed

        mapped = _get_backing_memmap(array)
        if isinstance(mapped, sys.modules["numpy"].memmap):
            return _reduce_memmap_backed(array, mapped)
    return array.__reduce_ex__(5)


class BroodyBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs joblib's batches on broody's workers.

    Options, by `parallel_config("broody", ...)` or `Parallel(backend="broody")`: `mp_context`, the start method ("spawn" if not given: threads of libraries in
    this process, as OpenMP's, survive no fork), and `memory_limit`, `retries` and the like as for `broody.futures.ProcessPoolExecutor`.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(self, nesting_level=None, inner_max_num_threads=None, **options):
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **options)
        self._executor = None
        self._futures = set()

    def effective_n_jobs(self, n_jobs):
        """How many workers that means: of -1, as many as CPUs may be used."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(joblib.cpu_count() + 1 + n_jobs, 1)

    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, mp_context=None, **options):
        """Makes workers ready for a call. Gives their number."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        # What only other backends have a use for.
        others = ("max_nbytes", "mmap_mode", "temp_folder", "verbose", "context")
        options = {name: value for name, value in {**self.backend_kwargs, **options}.items() if name not in others}
        mp_context = options.pop("mp_context", None) or mp_context or "spawn"
        self._executor = _workers(n_jobs, self._prepare_worker_env(n_jobs=n_jobs), mp_context, options)
        self.parallel = parallel
        return n_jobs

    def submit(self, func, callback=None):
        """Hands in a batch."""
        _map_arrays_of_files()
        _sending.a_batch = True
        try:
            future = self._executor.submit(func)
        finally:
            _sending.a_batch = False
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    # Before joblib 1.5.
    apply_async = submit

    def retrieve_result_callback(self, future):
        """What a batch gave."""
        return future.result()

    def terminate(self):
        """The call is over. The workers wait for the next one."""
        self._executor = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready=True):
        """Ends the batches of this call that are not done, also those that run."""
        for future in list(self._futures):
            future._abandon()
        if not ensure_ready:
            self._executor = None


joblib.register_parallel_backend("broody", BroodyBackend)
