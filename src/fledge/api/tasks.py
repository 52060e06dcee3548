"""The hub's names for what models are asked to do here."""

SIMILARITY_TASK = "sentence-similarity"
TASKS = ("feature-extraction", SIMILARITY_TASK)
"""Every model does all of them; the first is the one it is listed under."""
