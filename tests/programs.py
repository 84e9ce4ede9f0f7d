"""Running the programs as people do, in processes of their own."""

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Ten steps through all the phases; checkpoints after 4, 8 and 10.
SMALL = [
    "--config=configs/demo.py",
    "--config.num_steps=10",
    "--config.global_batch_size=4",
    "--config.model.width=4",
    "--config.log_every=1",
    "--config.eval_every=100",
    "--config.checkpoint_every=4",
    "--config.data.eval_images=4",
    "--config.phases.completion_end=2",
    "--config.phases.discriminator_end=5",
    "--config.optimizer.schedule=constant",
]


def command(*arguments):
    return [sys.executable, "-m", *map(str, arguments)]


def environment(**changes):
    """Two devices: enough to be parallel, quick to compile."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"} | changes


def run(*arguments, **changes):
    return execute(command(*arguments), **changes)


def execute(arguments, **changes):
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=300,
    )


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def several(count):
    """For each of `count` processes of one device what tells it of the others."""
    changes = {
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COORDINATOR_ADDRESS": free_address(),
        "JAX_NUM_PROCESSES": str(count),
    }
    return [changes | {"JAX_PROCESS_ID": str(i)} for i in range(count)]


def run_processes(count, *arguments):
    """`run` in processes that know each other."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda changes: run(*arguments, **changes), several(count)))


def start_processes(count, *arguments):
    """The same, running; the caller ends them."""
    return [
        subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for changes in several(count)
    ]


def read_jsonl(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_refused(result, *expected):
    """One line on stderr, status 1."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for text in expected:
        assert text in lines[0]
