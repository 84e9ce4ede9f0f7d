"""python -m glinpaint_jax COMMAND [--flags]; COMMAND --help tells more.

Commands:
  evaluate   scores a checkpoint: --config C --checkpoint DIR [--limit N] [--json F] [--baselines]
Training: python -m glinpaint_jax.main --config configs/places.py
"""

import sys


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command == "evaluate":
        from glinpaint_jax.commands import evaluate as program
    elif command in ("-h", "--help", "help"):
        print(__doc__.strip())
        return
    else:
        sys.exit(f"error: no command {command!r}; `python -m glinpaint_jax --help` lists them")
    del sys.argv[1]
    program.run()


if __name__ == "__main__":
    main()
