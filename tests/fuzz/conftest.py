"""The store of the tests of who may do what: Anna's rows and those of others."""

from tests.embedded.conftest import fleet

__all__ = ["fleet"]
