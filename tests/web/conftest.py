"""Servers started from the command line."""

import pytest

from tests.helpers.serving import serving


@pytest.fixture(scope="session")
def server(finished_run, tmp_path_factory):
    """(address, process) of a server for the small model, limited to 1 megapixel and 1 MB."""
    folder = tmp_path_factory.mktemp("server")
    limits = ("--max-megapixels=1", "--max-megabytes=1")
    with serving(finished_run[0], folder, *limits) as started:
        yield started
