"""Strict settings: 8 CPU devices, checked shapes; rank promotion and warnings are errors."""

import os
import signal
import tempfile

import jax
import pytest
from absl import flags
from jaxtyping import install_import_hook

# One compilation cache for all test processes and the programs they start. Code is compiled without
# optimizations: tests compile a lot and compute little.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="glinpaint_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if jax.__version_info__ < (0, 11):  # saves a third of the compile time; later XLA has no choice
        flags_of_user = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags_of_user} --xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook("glinpaint_jax", "beartype.beartype")  # before importing the package

from glinpaint_jax.config import Config
from glinpaint_jax.parallel import make_mesh
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.programs import SMALL, Started, shared_run
from tests.helpers.steps import make_state

# Tests in the background ignore Ctrl-C, under nohup SIGHUP; so would the programs they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
flags.FLAGS.mark_as_parsed()  # grain's workers require it


SLOWEST = (
    *("test_reliability.py", "test_many_hosts.py", "test_export.py", "test_step.py"),
    *("test_browser.py", "test_colab_notebook.py", "test_step_parity.py"),
)


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="run the long variants of some tests")


def pytest_collection_modifyitems(items):
    """The slowest files start first, so that parallel processes finish at about the same time."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(scope="session")
def soak(request) -> bool:
    return request.config.getoption("--soak")


@pytest.fixture
def small_config() -> Config:
    return make_small_config()


@pytest.fixture(scope="session")
def mesh8() -> jax.sharding.Mesh:
    assert len(jax.devices()) == 8
    return make_mesh()


@pytest.fixture(scope="session")
def mesh1() -> jax.sharding.Mesh:
    return make_mesh(jax.devices()[:1])


@pytest.fixture(autouse=True)
def no_program_outlives_its_test():
    yield
    while Started.all:
        started = Started.all.pop()
        started.process.kill()
        started.result()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The workdir of a SMALL run and what it wrote to stderr."""
    return shared_run("finished", tmp_path_factory, "glinpaint_jax.main", *SMALL)


@pytest.fixture(scope="session")
def step_config():
    """A config with every loss enabled, and another rate for each network."""
    config = make_small_config(ema_decay=0.9)
    config.optimizer.learning_rate = 4e-3
    config.optimizer.discriminator_learning_rate = 1e-3
    config.losses.l1_valid = 0.5
    config.losses.mse_hole = 0.3
    config.losses.tv = 0.1
    config.losses.disc_shift = 0.1
    config.losses.random_real_window = True
    return config


@pytest.fixture(scope="session")
def initial_state(step_config, mesh8):
    """Copies on the host, because steps donate their inputs."""
    return jax.device_get(make_state(step_config, mesh8))


@pytest.fixture(scope="session")
def steps(step_config, mesh8):
    return make_steps(step_config, mesh8)
