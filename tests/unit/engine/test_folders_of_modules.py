"""Folders of modules other than a transformer: whole or not, and what their fingerprint covers."""

from pathlib import Path

from fledge.engine import folders
from tests.static_folders import PACKAGE, save_module, save_modules, save_words, write
from tests.unit.engine.test_static_words import save_words_model


def test_words_are_a_whole_model_without_a_tokenizer_json(tmp_path: Path) -> None:
    folder = save_words_model(tmp_path, ["mean"])
    assert folders.what_is_missing(folder) is None
    first = folders.fingerprint(folder)
    (folder / "whitespacetokenizer_config.json").write_text("{}")
    assert folders.fingerprint(folder) != first
    (folder / "whitespacetokenizer_config.json").unlink()
    assert folders.what_is_missing(folder) == "it has no tokenizer"


def test_a_bag_of_words_is_whole_without_weights(tmp_path: Path) -> None:
    save_modules(tmp_path, "BoW")
    write(tmp_path / "config.json", {"vocab": ["apple"]})
    assert folders.what_is_missing(tmp_path) is None


def test_the_fingerprint_covers_the_modules_of_a_router_behind_others(tmp_path: Path) -> None:
    save_words(tmp_path, 9)
    save_modules(tmp_path, "Transformer", "Pooling", "Router")
    write(tmp_path / "2_Router" / "router_config.json", {"types": {"a_0_Dense": PACKAGE}})
    dense = tmp_path / "2_Router" / "a_0_Dense"
    save_module(dense, {"in_features": 4})
    first = folders.fingerprint(tmp_path)
    save_module(dense, {"in_features": 5})
    assert folders.fingerprint(tmp_path) != first
