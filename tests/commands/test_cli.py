"""Flags, configs and errors, in this process."""

import types
import warnings

import pytest

from glinpaint_jax import __version__, processes
from glinpaint_jax.commands import cli, export
from glinpaint_jax.config import settings
from glinpaint_jax.errors import UserError
from glinpaint_jax.interop.export import FORMATS
from tests.helpers.programs import ROOT, run_here

DEMO = "--config=configs/demo.py"
PARSER = cli.ArgumentParser("program", "What it does.")
cli.add_config_arguments(PARSER, "config file")


def load(*arguments, saved=None):
    return cli.load_config(PARSER.parse_args(list(arguments)), saved)


def test_flags_change_fields_of_the_config_file():
    config = load(
        DEMO,
        "--config.num_steps=2400",
        "--config.optimizer.learning_rate",
        "1e-3",
        "--config.data.source",
        "folder:/a b",
        "--config.data.horizontal_flip=false",
        "--config.losses.random_real_window",
        "--config.mask.fill=0,127.5,255",
        "--config.seed=1",
        "--config.seed=2",
    )
    assert (config.num_steps, config.optimizer.learning_rate) == (2400, 1e-3)
    assert config.data.source == "folder:/a b"
    assert (config.data.horizontal_flip, config.losses.random_real_window) == (False, True)
    assert config.mask.fill == (0, 127.5, 255)
    assert config.seed == 2
    config = load(DEMO, "--config.init_from=", "--config.mask.irregular.lines=2,3")
    assert (config.init_from, config.mask.irregular.lines) == ("", (2, 3))
    assert config.image_size == 32  # of the file
    for text in ("100000", "100_000", "1e5", "1E+5", "100000.0"):
        assert load(DEMO, f"--config.num_steps={text}").num_steps == 100_000


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.num_steps=inf", "num_steps is 'inf', must be of type int, 1 to 2147483647"),
        ("--config.num_steps=1.5", r"num_steps is 1\.5, must be of type int"),
        ("--config.num_steps=True", "num_steps is True, must be of type int"),
        ("--config.num_steps={[]: 1}", "must be of type int"),
        ("--config.ema_decay=", "ema_decay is '', must be of type float"),
        ("--config.data.horizontal_flip=maybe", "is 'maybe', must be of type bool"),
        ("--config.mask.fill=red", r"fill is 'red', must be 3 numbers such as 127\.5,"),
        ("--config.num_steps", "expected one argument"),
        ("--config.num_step=3", "unknown flag --config.num_step; did you mean --config.num_steps"),
        ("--config.model=3", "unknown flag --config.model"),
        ("-config.num_steps=3", "unknown flag -config.num_steps; did you mean --config.num_steps"),
        ("--confg=configs/demo.py", "unknown flag --confg; did you mean --config?"),
        ("surplus", "unexpected argument 'surplus'"),
    ],
)
def test_bad_arguments_are_rejected(argument, expected):
    with pytest.raises(UserError, match=expected):
        load(DEMO, argument)


def test_a_saved_config_is_used_without_a_config_file(small_config):
    changed = load("--config.num_steps=77", saved=small_config)
    assert (changed.num_steps, small_config.num_steps) == (77, 10)
    assert load(saved=small_config) == small_config
    assert load(DEMO, saved=small_config).num_steps == 2300
    with pytest.raises(UserError, match="no config; pass --config"):
        load()


NO_CONFIG = " must define get_config() -> glinpaint_jax.config.Config, as our demo does"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"get_config = 3", NO_CONFIG),
        (b"def get_config(): return {}", NO_CONFIG),
        (b"x = 1\ndef f(:\n", ", line 2: SyntaxError: invalid syntax"),
        ("x = 1\n".encode("utf-16"), ", line 1: "),
        (b"\nx = 'caf\xe9'\n", ", line 2: SyntaxError: (unicode error) 'utf-8' codec"),
        (b"x = 1\n\n1 / 0\n", ", line 3: ZeroDivisionError: division by zero"),
        (b"def get_config():\n    raise ValueError('a\\nb')", ", line 2: ValueError: a b"),
        (b"def get_config(size): pass", ", line 1: TypeError: get_config() missing 1 required"),
    ],
)
def test_a_broken_config_file_is_named_with_the_line(content, expected, tmp_path):
    path = tmp_path / "config.py"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(f"--config={path}")
    assert str(error.value).startswith(f"{path}{expected}")
    assert "\n" not in str(error.value)


def test_our_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("--config=demo") == load(f"--config={ROOT}/configs/demo.py")
    for spec in ("place", tmp_path, "x" * 300):
        with pytest.raises(UserError, match=rf"no config file '{spec}'; pass a .* one of .*places"):
            load(f"--config={spec}")
    text = (ROOT / "configs" / "demo.py").read_text().replace("num_steps=2300", "num_steps=7")
    (tmp_path / "demo").write_text(text)
    assert load("--config=demo").num_steps == 7  # the file


def test_own_configs_start_from_ours(tmp_path):
    own = "from glinpaint_jax.configs import demo\ndef get_config():\n    c = demo.get_config()\n"
    (tmp_path / "mine.py").write_text(own + "    c.seed = 7\n    return c\n")
    expected = load("--config=demo")
    expected.seed = 7
    assert load(f"--config={tmp_path}/mine.py") == expected


def test_help_describes_every_field():
    text = " ".join(PARSER.format_help().split())
    for path, setting in settings():
        assert f"--config.{path} {type(setting.default).__name__.upper()}" in text.replace("[", "")
        assert f" {setting.metadata['meaning']}" in text
    assert "channels of the first convolution, even; 2 to 1024 [64]" in text
    assert "what convolutions compute in; one of float32, bfloat16 [float32]" in text


def test_the_export_command_lists_all_formats():
    assert tuple(name for name in FORMATS if "-" not in name) == export.FORMATS


ERRORS = [
    (UserError("bad size"), 1, "error: bad size\n"),
    (KeyboardInterrupt(), 130, "interrupted; rerun\n"),
    (ZeroDivisionError("oops"), 1, "ZeroDivisionError: oops\n"),
]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("error", "status", "last"), ERRORS, ids=repr)
def test_errors_end_the_program(error, status, last, joined, capsys, monkeypatch):
    """One of several processes ends at once: a normal exit would wait for the others."""

    class EndedNow(SystemExit):
        pass

    def end_now(code):
        raise EndedNow(code)

    def fail(_):
        raise error

    command = types.ModuleType("command", "What it does.")
    command.main, command.add_arguments = fail, lambda _: None
    command.INTERRUPTED = "interrupted; rerun"
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: joined)
    monkeypatch.setattr(processes, "exit_now", end_now)
    with pytest.raises(SystemExit) as end:
        cli.run(command, "program", [])
    assert (end.type is EndedNow, end.value.code) == (joined, status)
    text = capsys.readouterr().err
    assert text.endswith(last)
    assert text == last or "Traceback" in text


def test_the_version_is_printed():
    assert run_here("--version").stdout == f"glinpaint_jax {__version__}\n"
