from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.errors import FileFormatError
from fledge.files.formats import open_source
from fledge.files.rows import Row


def read(path: Path, data: bytes | str, column: str | None = None) -> list[Row]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(open_source(path, column).rows())


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert read(tmp_path / name, b"") == []


def test_a_text_file_has_a_row_for_each_line_the_empty_ones_too(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "one\n\nthree") == ["one", "", "three"]


def test_line_ends_of_windows_and_a_byte_order_mark_are_not_text(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n") == ["one", "two"]


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "a\u2028b\x0cc\x85d\n") == ["a\u2028b\x0cc\x85d"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_invalid_utf8_is_named_by_line_and_byte(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileFormatError, match=r"line 2, byte 3 \(byte 9 of the file\): 0xff"):
        read(tmp_path / name, b'"txt"\nab\xff\n')


def test_the_byte_order_mark_is_counted_when_a_byte_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"line 1, byte 5 \(byte 5 of the file\): 0xfe"):
        read(tmp_path / "a.txt", b"\xef\xbb\xbfa\xfe\n")


def test_a_line_without_end_is_an_error_not_all_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.files.lines.MAX_LINE_BYTES", 10)

    with pytest.raises(FileFormatError, match="line 2: longer than 10 bytes"):
        read(tmp_path / "a.txt", "short\n" + "x" * 11)


def test_a_text_file_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no columns"):
        read(tmp_path / "a.txt", "one\n", column="text")


def test_json_lines_are_objects_or_strings(tmp_path: Path) -> None:
    data = '{"id": 1, "text": "a"}\n"b"\n\n{"id": 2}\n{"text": null}\n'

    assert read(tmp_path / "a.jsonl", data) == ["a", "b", None, None, None]


def test_the_only_column_of_strings_is_taken(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", '{"id": 1, "body": "a"}\n') == ["a"]


def test_columns_are_learnt_from_more_than_the_first_object(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", '{"id": 1}\n{"id": 2, "body": "a"}\n') == [None, "a"]


def test_several_columns_of_strings_are_listed(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"several columns.*--column.*title, body"):
        read(tmp_path / "a.jsonl", '{"title": "a", "body": "b"}\n')


def test_no_column_of_strings_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"no column holds text.*id"):
        read(tmp_path / "a.jsonl", '{"id": 1}\n')


@pytest.mark.parametrize(("name", "data"), [("a.jsonl", '{"text": "a"}\n'), ("a.csv", "text\na\n")])
def test_a_column_that_is_not_there_is_an_error_that_lists_the_columns(
    tmp_path: Path, name: str, data: str
) -> None:
    with pytest.raises(FileFormatError, match="no column 'txt'; its columns: text"):
        read(tmp_path / name, data, column="txt")


def test_json_that_is_no_json_is_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 2: not JSON"):
        read(tmp_path / "a.jsonl", '"a"\n{"text": \n')


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 5}', "line 2: column 'text' holds a number, not a text"),
        ('{"text": ["a"]}', "line 2: column 'text' holds an array"),
        ("7", "line 2: .* a number, not a text"),
    ],
)
def test_json_that_is_no_text_is_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read(tmp_path / "a.jsonl", '{"text": "a"}\n' + line)


def test_an_object_after_many_strings_needs_a_column(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"line 101: an object.*--column"):
        read(tmp_path / "a.jsonl", '"a"\n' * 100 + '{"text": "b"}\n')


def test_csv_fields_may_be_quoted_and_hold_commas_and_line_breaks(tmp_path: Path) -> None:
    data = 'id,text\r\n1,"a, ""b""\nc"\r\n2,d\r\n'

    assert read(tmp_path / "a.csv", data) == ['a, "b"\nc', "d"]


def test_csv_fields_may_be_longer_than_the_usual_limit(tmp_path: Path) -> None:
    long = "x" * 300_000

    assert read(tmp_path / "a.csv", f"text\n{long}\n") == [long]


def test_csv_records_too_short_and_empty_have_no_text(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "id,text\n1\n\n2,\n3,c\n") == [None, None, "", "c"]


def test_csv_records_too_long_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 2: 3 fields, where the header has 2"):
        read(tmp_path / "a.csv", "id,text\n1,a,b\n")


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ";")])
def test_csv_may_be_separated_by_tabs_or_semicolons(
    tmp_path: Path, name: str, separator: str
) -> None:
    assert read(tmp_path / name, f"id{separator}text\n1{separator}a, b\n") == ["a, b"]


def test_an_open_quote_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="not CSV"):
        read(tmp_path / "a.csv", 'text\n"a\nb\n')


def test_the_only_column_of_a_csv_needs_no_name(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "sentence\na\n") == ["a"]


def test_a_csv_of_several_columns_needs_one(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"--column.*title, body"):
        read(tmp_path / "a.csv", "title,body\na,b\n")


def test_parquet_gives_its_column_of_strings(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2, 3], "body": pa.array(["a", None, ""]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")

    assert list(open_source(tmp_path / "a.parquet").rows()) == ["a", None, ""]


def test_a_parquet_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), tmp_path / "a.parquet")

    with pytest.raises(FileFormatError, match=r"'id' holds int64, not text.*body"):
        open_source(tmp_path / "a.parquet", "id")


def test_a_file_that_only_says_it_is_parquet_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="is not a Parquet file"):
        read(tmp_path / "a.parquet", b"PAR1 and nothing else")


def test_endings_that_are_not_known_are_an_error_that_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"'.xlsx'; readable: .txt, .jsonl"):
        read(tmp_path / "a.xlsx", b"")


def test_a_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        open_source(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.parquet"])
def test_the_fraction_read_goes_from_nothing_to_all(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / name)
    else:
        (tmp_path / name).write_text("a\nb\n")
    source = open_source(tmp_path / name)
    list(source.rows())

    assert source.fraction == 1.0
