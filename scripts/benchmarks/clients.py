"""Many clients of the page's server at once: answers, time, memory, files left (extra `test`).

    python scripts/benchmarks/clients.py [--clients 50] [--megapixels 2] [--method smooth]

Three rounds; every client sends its own photograph (JPEG) and checks the answer. Memory is that
of the server process.
"""

import argparse
import concurrent.futures
import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import psutil

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--megapixels", type=float, default=2)
    parser.add_argument("--method", default="smooth")
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "glinpaint_jax", "serve", f"--port={port}"]
        command.append(f"--method={arguments.method}")
        server = subprocess.Popen(command, env={**os.environ, "TMPDIR": folder})
        try:
            wait_for_server(address)
            measure(address, psutil.Process(server.pid), Path(folder), arguments)
        finally:
            server.terminate()
            server.wait()


def wait_for_server(address: str) -> None:
    for _ in range(600):
        try:
            httpx.get(address)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def measure(
    address: str, server: psutil.Process, folder: Path, arguments: argparse.Namespace
) -> None:
    side = round((arguments.megapixels * 1e6) ** 0.5)
    ask(address, side, 0)  # compiles
    print("| round | answers | seconds | MB before | at most | after | files left |")
    print("|---|---|---|---|---|---|---|")
    for number in range(1, ROUNDS + 1):
        before, peak, done = server.memory_info().rss, [0], threading.Event()

        def watch(peak: list[int] = peak, done: threading.Event = done) -> None:
            while not done.wait(0.02):
                peak[0] = max(peak[0], server.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(arguments.clients) as pool:
            jobs = [pool.submit(ask, address, side, client) for client in range(arguments.clients)]
            answers = [job.result() for job in jobs]
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
        files = sum(path.is_file() for path in folder.rglob("*"))
        sizes = [f"{size / 1e6:.0f}" for size in (before, peak[0], server.memory_info().rss)]
        right = f"{sum(answers)} of {len(answers)} right"
        print(f"| {number} | {right} | {seconds:.1f} | {' | '.join(sizes)} | {files} |", flush=True)


def ask(address: str, side: int, client: int) -> bool:
    """Returns whether the client's own photograph came back, completed."""
    colour = (40 + 4 * client % 200, 90, 200 - 3 * client % 150)
    hole = np.zeros((side, side), bool)
    hole[side // 3 : side // 2, side // 3 : side // 2] = True
    photo = np.full((side, side, 3), colour, np.uint8)
    photo[hole] = 255
    files = {
        "photo": ("photo.jpg", encode(photo, "JPEG")),
        "mask": ("mask.png", encode(hole, "PNG")),
    }
    answer = httpx.post(f"{address}/complete", files=files, timeout=600)
    if answer.status_code != 200:
        print(answer.status_code, answer.text)
        return False
    with PIL.Image.open(io.BytesIO(answer.content)) as image:
        return bool(np.abs(np.array(image)[5:-5, 5:-5].astype(int) - colour).mean() < 10)


def encode(image: np.ndarray, file_format: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, file_format)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
