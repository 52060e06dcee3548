"""How fast weights can be read: something where there are weights, nothing where there are none."""

from pathlib import Path

from fledge.engine.disk import LEAST_BYTES, measure_bytes_per_s
from tests.tiny import save_bert


def test_a_large_file_has_a_speed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(4 * LEAST_BYTES))
    speed = measure_bytes_per_s(path)
    assert speed is not None
    assert speed > 0


def test_of_a_folder_the_largest_file_that_is_read_counts(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    (folder / "an-export.onnx").write_bytes(bytes(8 * LEAST_BYTES))
    assert measure_bytes_per_s(folder) is None
    (folder / "model.safetensors").write_bytes(bytes(8 * LEAST_BYTES))
    assert measure_bytes_per_s(folder) is not None


def test_what_is_small_or_absent_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"few")
    assert measure_bytes_per_s(tmp_path / "small") is None
    assert measure_bytes_per_s(tmp_path / "absent") is None
    assert measure_bytes_per_s(tmp_path) is None
