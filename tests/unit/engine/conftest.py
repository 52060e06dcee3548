"""How the property tests of this folder run: quickly, and on a machine that others use as well."""

from hypothesis import settings

settings.register_profile("engine", max_examples=40, deadline=None)
settings.load_profile("engine")
