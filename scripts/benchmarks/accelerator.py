"""Measures one GPU or TPU and trains on it; writes a report. Started by accelerator.sh.

Each part runs in its own process, for a limited time; if one fails, the next one goes on. Results
are written as they come, so that an interruption loses nothing. The folder gets at most 8 files of
at most 16 MB: report.md, results.json, log.txt, trace.json.gz (for ui.perfetto.dev), samples.png,
curves.png, generator.safetensors.
"""

import argparse
import collections
import contextlib
import importlib.metadata
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerator_page import page

from glinpaint_jax.files import write_atomically

# Part -> the largest share of the time that it gets. Training gets the rest.
SHARES = {
    "device": 0.05,
    "parity": 0.14,
    "jax_steps": 0.24,
    "torch_steps": 0.14,
    "profile": 0.06,
    "input_rate": 0.05,
    "completion": 0.06,
}
SHORTEST = 60  # seconds that each of them gets in any case
SAVING = 60  # seconds kept for the end of training: saving and exporting
TICK = 5  # seconds between looks at the training run
MOST_BYTES = 16 * 10**6
FAST = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}  # nothing else runs at the same time

Results = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=float, default=25, help="for everything [%(default)s]")
    add("--train", type=Path, metavar="DIR", help="photographs [those of scikit-image]")
    add("--output", type=Path, metavar="DIR", default=Path("runs/accelerator"), help="a new folder")
    add("--wheels", type=Path, metavar="DIR", help="packages to use if they are not installed")
    add("--rehearse", action="store_true", help="tries everything on a CPU, with tiny sizes")
    arguments = parser.parse_args()
    output = arguments.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        parser.error(f"--output={output} exists and is not empty; choose another folder")
    for name in ("train", "wheels"):
        folder = getattr(arguments, name)
        if folder and not folder.is_dir():
            parser.error(f"--{name}={folder}: no such folder")
    output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="accelerator_") as scratch:
        return Session(arguments, Path(scratch)).run()


class Session:
    """One run of the command: its results so far, its folders and its deadline."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path):
        self.output, self.scratch = arguments.output, scratch
        self.newest = 0  # the last checkpoint that was exported, or failed to be
        self.seconds = 60 * arguments.minutes
        self.deadline = time.monotonic() + self.seconds
        self.flags = ["--rehearse"] if arguments.rehearse else []
        if arguments.train:
            self.flags += ["--train", str(arguments.train.absolute())]
        self.environment = os.environ | FAST | {"JAX_COMPILATION_CACHE_DIR": f"{scratch}/cache"}
        if arguments.rehearse:
            self.environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if arguments.wheels:
            packages = install_missing(arguments.wheels, scratch / "packages")
            self.environment["PYTHONPATH"] += f":{packages}"
        self.results: Results = {
            "started": time.strftime("%Y-%m-%d %H:%M"),
            "minutes": arguments.minutes,
            "rehearsal": arguments.rehearse,
            "parts": {},
        }

    def run(self) -> int:
        """Runs all parts; returns the status to exit with."""
        try:
            for name, share in SHARES.items():
                self.run_part(name, max(share * self.seconds, SHORTEST))
                if name == "device" and self.results["parts"][name]["status"] != "finished":
                    return 1
                self.collect()
            self.train()
        except KeyboardInterrupt:
            say("interrupted")
            return 1
        finally:
            self.write()
            say(f"wrote {self.output}/report.md")
        return 0

    def train(self) -> None:
        """Trains until the deadline; saves what there is to the output again and again."""
        rest = self.deadline - time.monotonic() - min(SAVING, self.seconds / 4)
        try:
            self.run_part("train", rest, on_tick=self.collect)
        finally:
            self.collect()

    def run_part(
        self,
        name: str,
        seconds: float,
        on_tick: Callable[[], Any] = lambda: None,
        **environment: str,
    ) -> None:
        """Runs a part for at most `seconds`; records its rows and how it ended."""
        say(f"{name}, at most {max(seconds, 0) / 60:.1f} minutes")
        part = self.results["parts"][name] = {"status": "running", "seconds": 0, "rows": []}
        self.write()

        def on_line(line: str) -> None:
            with contextlib.suppress(ValueError):
                if isinstance(row := json.loads(line), dict):
                    part["rows"].append(row)
                    self.write()

        script = Path(__file__).with_name("accelerator_parts.py")
        places = [self.scratch, self.output.absolute() / "results.json"]
        command = [sys.executable, str(script), name, *map(str, places), *self.flags]
        environment, log = self.environment | environment, self.output / "log.txt"
        started, status = time.monotonic(), "interrupted"
        try:
            status = run(command, seconds, environment, log, on_line, on_tick)
        finally:
            part |= {"status": status, "seconds": round(time.monotonic() - started)}
            self.write()
        if status != "finished":
            say(f"  {status}")

    def collect(self) -> None:
        """Copies what the parts have written so far; exports a new checkpoint."""
        run_folder = self.scratch / "run"
        samples = sorted(run_folder.glob("samples/step_*.png"))[-1:]
        for path in (*samples, run_folder / "curves.png", self.scratch / "trace.json.gz"):
            copy_if_small(path, self.output / ("samples.png" if path in samples else path.name))
        training = self.results.setdefault("training", {})
        with contextlib.suppress(OSError, ValueError):  # not there yet, or being written
            lines = (run_folder / "metrics.jsonl").read_text().split("\n")[:-1]
            training["records"] = [json.loads(line) for line in lines]
        saved = [path.parent for path in run_folder.glob("checkpoints/*/manifest.sha256")]
        newest = max((int(path.name) for path in saved if path.name.isdigit()), default=0)
        if newest > self.newest:
            self.newest = newest
            self.run_part("export", 120, JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
            for row in self.results["parts"]["export"]["rows"]:
                training["exported"] = row["step"]
                exported = self.scratch / "generator.safetensors"
                copy_if_small(exported, self.output / exported.name)
        self.write()

    def write(self) -> None:
        write_atomically(self.output / "results.json", json.dumps(self.results, indent=1).encode())
        write_atomically(self.output / "report.md", page(self.results).encode())


def run(
    command: list[str],
    seconds: float,
    environment: dict[str, str],
    log: Path,
    on_line: Callable[[str], Any],
    on_tick: Callable[[], Any] = lambda: None,
) -> str:
    """Runs a command and passes on each line of its output; returns how it ended.

    Everything is appended to `log`. After `seconds` the command gets SIGTERM; SAVING seconds later,
    it and all processes it started are killed.
    """
    deadline = time.monotonic() + seconds
    lines, last = queue.SimpleQueue(), collections.deque(maxlen=1)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    readers = [
        threading.Thread(target=read_lines, args=(process.stdout, log, lines.put)),
        threading.Thread(target=read_lines, args=(process.stderr, log, last.append)),
    ]
    for reader in readers:
        reader.start()
    stopped = False
    try:
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0 and stopped:
                break
            if left <= 0:
                process.terminate()
                stopped, deadline = True, time.monotonic() + SAVING
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(TICK, max(left, 0.1)))
            take(lines, on_line)
            on_tick()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for reader in readers:
            reader.join()
        take(lines, on_line)
    if stopped:
        return f"stopped after {seconds / 60:.1f} minutes"
    if process.returncode:
        return f"failed: {last[0].strip() if last else f'status {process.returncode}'}"
    return "finished"


def read_lines(stream: Any, log: Path, sink: Callable[[str], Any]) -> None:
    """Copies the lines of a process's output to `log`, and those that are not empty to `sink`."""
    with stream, log.open("a") as file:
        for line in stream:
            file.write(line)
            file.flush()
            if line.strip():
                sink(line)


def take(lines: queue.SimpleQueue[str], on_line: Callable[[str], Any]) -> None:
    while not lines.empty():
        on_line(lines.get())


def copy_if_small(path: Path, target: Path) -> None:
    if path.is_file() and path.stat().st_size <= MOST_BYTES:
        write_atomically(target, path.read_bytes())


def install_missing(wheels: Path, target: Path) -> Path:
    """Unpacks the packages in `wheels` that are not installed to `target`; returns it."""
    installed = {plain(d.metadata["Name"] or "") for d in importlib.metadata.distributions()}
    names = {plain(path.name.split("-")[0]) for path in wheels.glob("*.whl")}
    missing = sorted(names - installed)
    if missing:
        options = ["--quiet", "--no-index", "--no-deps", "--target", str(target)]
        pip = [sys.executable, "-m", "pip", "install", *options, "--find-links", str(wheels)]
        if subprocess.run([*pip, *missing]).returncode:
            sys.exit(
                f"error: pip cannot install {', '.join(missing)} from {wheels}; the wheels must be "
                f"for Python {sys.version_info.major}.{sys.version_info.minor} and this machine"
            )
    return target


def plain(name: str) -> str:
    """A distribution's name as in the names of wheels."""
    return re.sub(r"[-_.]+", "_", name).lower()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
