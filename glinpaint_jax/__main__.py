"""python -m glinpaint_jax COMMAND [--flags]; COMMAND --help tells more.

Commands:
  complete      fills holes in photographs: --checkpoint P --image I --mask M --output O
  evaluate      scores a checkpoint: --config C --checkpoint P [--limit N] [--json F] [--baselines]
  import-torch  reads weights of MMagic's: FILE.pth --output DIR
  serve         a page in the browser: --checkpoint P [--port 7860]
  export        writes weights for others: P --format FORMAT --output FILE
  verify        compares checkpoints with their checksums: DIR
P is a workdir, one of its steps, or a .pth file.
Training: python -m glinpaint_jax.main --config configs/places.py
"""

import runpy
import sys

COMMANDS = ("complete", "evaluate", "import-torch", "export", "serve", "verify")


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help", "help"):
        print(__doc__.strip())
    elif command in COMMANDS:
        del sys.argv[1]
        module = f"glinpaint_jax.commands.{command.replace('-', '_')}"
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.exit(f"error: no command {command!r}; `python -m glinpaint_jax --help` lists them")


if __name__ == "__main__":
    main()
