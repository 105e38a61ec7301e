"""Records of processes' loggers go to one place: logging.handlers.QueueHandler and QueueListener over a queue of multiprocessing."""

import logging
import logging.handlers
import multiprocessing
import sys


def work(queue, number):
    root = logging.getLogger()
    root.handlers = [logging.handlers.QueueHandler(queue)]
    root.setLevel(logging.INFO)
    log = logging.getLogger(f"worker.{number}")
    log.info("begins with %r", {"number": number})
    log.debug("is not to be seen")
    try:
        1 // (number - 1)
    except ZeroDivisionError:
        log.exception("cannot divide")
    log.warning("ends")


def main(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(processName)s %(name)s %(levelname)s: %(message)s"))
    listener = logging.handlers.QueueListener(queue, handler, respect_handler_level=True)
    listener.start()
    codes = {}
    for number in range(3):
        process = context.Process(target=work, args=(queue, number), name=f"Worker-{number}")
        process.start()
        process.join()
        codes[process.name] = process.exitcode
    listener.stop()
    queue.close()
    queue.join_thread()
    print(codes)


if __name__ == "__main__":
    main(sys.argv[1])
