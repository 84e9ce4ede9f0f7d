"""glinpaint COMMAND [--flags]        or: python -m glinpaint_jax COMMAND [--flags]

Commands:
  train         train a model: --config FILE [--workdir DIR]
  evaluate      score checkpoints, methods or any program's results: --checkpoint PATH
  complete      fill holes in photographs: [--checkpoint PATH] --image I --mask M --output O
  serve         complete photographs in the browser: [--checkpoint PATH]
  prepare       write images as shards for fast training: SOURCE --output DIR --shards N
  export        write weights for other tools: PATH --format FORMAT --output FILE

PATH is a workdir, a weight file or the name of one. --config takes a file or the name of one of our
configs, such as places. COMMAND --help lists all flags, and says what PATH may be.
--version prints the version.
"""

import importlib
import sys
from pathlib import Path

import glinpaint_jax
from glinpaint_jax.commands import cli

COMMANDS = {
    "train": "main",
    "evaluate": "commands.evaluate",
    "complete": "commands.complete",
    "serve": "commands.serve",
    "prepare": "commands.prepare",
    "export": "commands.export",
}


def main() -> None:
    program = "glinpaint" if Path(sys.argv[0]).stem == "glinpaint" else "python -m glinpaint_jax"
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "help"):
        print(__doc__.strip())
    elif command == "--version":
        print(f"glinpaint_jax {glinpaint_jax.__version__}")
    elif command in COMMANDS:
        module = importlib.import_module(f"glinpaint_jax.{COMMANDS[command]}")
        cli.run(module, f"{program} {command}", arguments)
    else:
        sys.exit(f"error: unknown command {command!r}; `{program} --help` lists all commands")


if __name__ == "__main__":
    main()
