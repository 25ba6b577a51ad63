from tests.core.conftest import tiny_recipe

__all__ = ["tiny_recipe"]
