"""Downloads pages with a few processes, which get batches of addresses without end. An ordinary program of multiprocessing, which knows nothing of broody.

    python downloader.py [SECONDS]
    python -m broody downloader.py [SECONDS]

The server is this program's own, on this machine.
"""

import http.client
import http.server
import itertools
import multiprocessing
import sys
import threading
import time

BATCH = 20


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        page = f"page {self.path}\n".encode() * 100
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args):
        pass


def download(port, batches, results):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for batch in iter(batches.get, None):
        size = 0
        for path in batch:
            connection.request("GET", path)
            size += len(connection.getresponse().read())
        results.put((len(batch), size))


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # spawn: this process has threads.
    context = multiprocessing.get_context("spawn")
    batches, results = context.Queue(maxsize=8), context.Queue()
    arguments = (server.server_port, batches, results)
    workers = [context.Process(target=download, args=arguments, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()

    pages = size = 0
    numbers = itertools.count()
    end = time.monotonic() + seconds
    under_way = 0
    while time.monotonic() < end or under_way:
        if time.monotonic() < end and under_way < 8:
            batches.put([f"/{next(numbers)}" for _ in range(BATCH)])
            under_way += 1
            continue
        count, length = results.get()
        under_way -= 1
        pages, size = pages + count, size + length
    for _ in workers:
        batches.put(None)
    for worker in workers:
        worker.join()
    print(f"{pages} pages, {size / 1e6:.1f} MB, {pages / seconds:.0f} pages/s")


if __name__ == "__main__":
    main()
