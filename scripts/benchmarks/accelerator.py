"""Measures one GPU or TPU and trains on it; writes a report. Started by accelerator.sh.

Each part runs in its own process, for a limited time; if one fails, the next one goes on. Results
are written as they come, so that an interruption loses nothing; only what training saves in its
last two minutes is exported when it ends. The folder gets at most 8 files of at most 16 MB:
report.md, results.json, log.txt, trace.json.gz (for ui.perfetto.dev), samples.png, curves.png,
generator.safetensors.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
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
    "products": 0.05,
    "jax_steps": 0.23,
    "torch_steps": 0.14,
    "profile": 0.06,
    "input_rate": 0.05,
    "completion": 0.06,
}
SHORTEST = 60  # seconds that each of them gets in any case
SAVING = 60  # seconds between SIGTERM and SIGKILL, in which training saves
EXPORTING = 60  # seconds that an export gets
TICK = 5  # seconds between two looks at a running part
GENERATOR = "generator.safetensors"
MOST_BYTES = 16 * 10**6
FAST = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}  # nothing else runs at the same time
CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=float, default=25, help="for everything [%(default)s]")
    add("--train", type=Path, metavar="DIR", help="photographs [those of scikit-image]")
    add("--output", type=Path, metavar="DIR", default=Path("runs/accelerator"), help="a new folder")
    add("--wheels", type=Path, metavar="DIR", help="wheels of more packages")
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
        self.exported = 0  # the newest checkpoint whose export was tried
        self.seconds = 60 * arguments.minutes
        self.deadline = time.monotonic() + self.seconds
        self.flags = ["--rehearse"] if arguments.rehearse else []
        if arguments.train:
            self.flags += ["--train", str(arguments.train.absolute())]
        self.environment = os.environ | FAST | {"JAX_COMPILATION_CACHE_DIR": f"{scratch}/cache"}
        if arguments.rehearse:
            self.environment |= CPU | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compile quickly
        if arguments.wheels:
            packages = install(arguments.wheels, scratch / "packages")
            self.environment["PYTHONPATH"] += f":{packages}"
        self.results: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%d %H:%M"),
            "rehearsal": arguments.rehearse,
            "parts": {},
            "training": [],
        }

    def run(self) -> int:
        """Runs all parts; returns the status to exit with."""
        try:
            for name, share in SHARES.items():
                self.run_part(name, max(share * self.seconds, SHORTEST))
                if name == "device" and self.results["parts"][name]["status"] != "finished":
                    return 1
            end = min(SAVING + EXPORTING, self.seconds / 4)
            self.run_part("train", max(self.deadline - time.monotonic() - end, 0))
            self.export()
        except KeyboardInterrupt:
            say("interrupted")
            return 1
        finally:
            say(f"wrote {self.output}/report.md")
        return 0

    def run_part(self, name: str, seconds: float, **environment: str) -> None:
        """Runs a part for at most `seconds`; records its rows and how it ended."""
        say(f"{name}, at most {seconds / 60:.1f} minutes")
        part = self.results["parts"][name] = {"status": "not finished", "seconds": 0, "rows": []}
        self.write()

        def collect() -> None:
            part["seconds"] = round(time.monotonic() - started)
            part["rows"] = read_rows(self.scratch / f"{name}.jsonl")
            self.collect_files()
            self.write()

        def tick() -> None:
            collect()
            left = started + seconds - time.monotonic()
            if name == "train" and left > EXPORTING + SAVING:  # else its SIGTERM could be late
                self.export()

        script = Path(__file__).with_name("accelerator_parts.py")
        places = [self.scratch, self.output.absolute() / "results.json"]
        command = [sys.executable, str(script), name, *map(str, places), *self.flags]
        started, log = time.monotonic(), self.output / "log.txt"
        try:
            part["status"] = run(command, seconds, self.environment | environment, log, tick)
        finally:
            collect()
        if part["status"] != "finished":
            say(f"  {part['status']}")

    def collect_files(self) -> None:
        """Copies what the parts have written so far."""
        folder = self.scratch / "run"
        for sample in sorted(folder.glob("samples/step_*.png"))[-1:]:
            copy_if_small(sample, self.output / "samples.png")
        for path in (folder / "curves.png", self.scratch / "trace.json.gz"):
            copy_if_small(path, self.output / path.name)
        copy_if_small(self.scratch / GENERATOR, self.output / GENERATOR)
        self.results["training"] = read_rows(folder / "metrics.jsonl")

    def export(self) -> None:
        """Exports the newest checkpoint, if it is new."""
        saved = self.scratch.glob("run/checkpoints/[0-9]*/manifest.sha256")
        newest = max((int(path.parent.name) for path in saved), default=0)
        if newest > self.exported:
            self.exported = newest
            left = self.deadline - time.monotonic()
            self.run_part("export", max(min(EXPORTING, left), 0), **CPU)

    def write(self) -> None:
        write_atomically(self.output / "results.json", json.dumps(self.results, indent=1).encode())
        write_atomically(self.output / "report.md", page(self.results).encode())


def run(
    command: list[str],
    seconds: float,
    environment: dict[str, str],
    log: Path,
    on_tick: Callable[[], Any],
) -> str:
    """Runs a command, with its output in `log`; returns how it ended.

    After `seconds` it gets SIGTERM; SAVING seconds later, it and what it started are killed.
    """
    deadline, stopped = time.monotonic() + seconds, False
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
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
            on_tick()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if stopped:
        return f"stopped after {seconds / 60:.1f} minutes"
    if process.returncode:
        lines = log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"failed with status {process.returncode}: {last}"
    return "finished"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file of JSON objects, which need not exist yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def copy_if_small(path: Path, target: Path) -> None:
    if path.is_file() and path.stat().st_size <= MOST_BYTES:
        write_atomically(target, path.read_bytes())


def install(wheels: Path, target: Path) -> Path:
    """Installs all wheels of a folder to `target`; returns it."""
    options = ["--quiet", "--no-index", "--no-deps", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, *map(str, wheels.glob("*.whl"))]
    if subprocess.run(command).returncode:
        sys.exit(f"error: pip could not install the wheels in {wheels}; see above")
    return target


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
