"""python -m glinpaint_jax COMMAND [--flags]; COMMAND --help tells more.

Commands:
  evaluate   scores a checkpoint: --config C --checkpoint DIR [--limit N] [--json F] [--baselines]
Training: python -m glinpaint_jax.main --config configs/places.py
"""

import runpy
import sys

COMMANDS = ("evaluate",)


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help", "help"):
        print(__doc__.strip())
    elif command in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"glinpaint_jax.commands.{command}", run_name="__main__", alter_sys=True)
    else:
        sys.exit(f"error: no command {command!r}; `python -m glinpaint_jax --help` lists them")


if __name__ == "__main__":
    main()
