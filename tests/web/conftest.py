"""A server that fills with white, and by the methods without weights."""

import pytest

from tests.helpers.completers import Whitener
from tests.helpers.serving import serving


@pytest.fixture(scope="module")
def server():
    """The address; photographs may have 1 megapixel and files 1 MB."""
    with serving({"white": Whitener()}, allowed_hosts=["proxy"]) as address:
        yield address
