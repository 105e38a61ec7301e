"""Log records of workers, for the loggers of the process that has the pool.

A worker's loggers put their records into a queue in shared memory; they have no other handler, and wait for nobody. A worker that is killed in the middle of
that harms nothing: the queue is whole. In the host a thread of the engine's takes the records and gives each to the logger of its name, whose level and
handlers decide.
"""

import logging
import logging.handlers
import queue
import threading

from . import _broody, process

__all__ = []

# So many records wait at most for the host, in which a handler may be slow.
_MOST = 10_000
# How long a worker waits then before a record is lost, and the host for the last ones, in seconds.
_PATIENCE = 5


class Forwarding:
    """The host's side."""

    def __init__(self, ctx):
        self._queue = ctx.Queue(_MOST)
        self._over = threading.Event()
        self.source = Source(self._queue)

    def begin(self):
        _broody.run_apart("broody-logs", self._work)

    def _work(self):
        try:
            while (record := self._queue.get()) is not None:
                try:
                    logger = logging.getLogger(record.name)
                    if logger.isEnabledFor(record.levelno):
                        logger.handle(record)
                except Exception:
                    logging.lastResort.handleError(record)
        finally:
            self._over.set()

    def end(self):
        """When all workers have ended: what there is still is told."""
        try:
            self._queue.put(None, timeout=_PATIENCE)
        except queue.Full:
            return
        self._over.wait(_PATIENCE)


class Source:
    """The worker's side: what it has to know."""

    def __init__(self, records):
        self._queue = records
        # For workers that are no forks.
        known = logging.root.manager.loggerDict.items()
        self._levels = {name: logger.level for name, logger in known if getattr(logger, "level", 0)}
        self._level = logging.root.level
        self._disabled = logging.root.manager.disable

    def begin(self):
        """In a worker: its loggers have no handlers but one."""
        logging.disable(self._disabled)
        logging.root.setLevel(self._level)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        for logger in list(logging.root.manager.loggerDict.values()):
            if isinstance(logger, logging.Logger):
                logger.handlers.clear()
                logger.propagate = True
        logging.root.handlers[:] = [_Handler(self._queue)]


class _Handler(logging.handlers.QueueHandler):
    def prepare(self, record):
        record = super().prepare(record)
        record.processName = process.current_process().name
        return record

    def enqueue(self, record):
        self.queue.put(record, timeout=_PATIENCE)
