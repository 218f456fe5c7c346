import csv
import json

import pytest
from pyarrow import parquet

from quantsam.errors import InputError, OutputError
from quantsam.results.export import export, export_rows, markdown_table, records_to_rows
from quantsam.results.record import Record


def make(scheme, **changes):
    values = {"model": "L0", "weights_digest": "ab", "dataset": "scenes", "dataset_digest": "cd"}
    values["environment"] = {"torch": "2.4"}
    return Record(**{**values, "scheme": scheme, "figures": {"miou": 38.625, "count": 3}, **changes})


RECORDS = [
    make("int8", times={"encoder_ms_median": 41.5}, settings={"seed": 1, "limit": 100, "skip": ["a", "b"]}),
    make(
        'odd, "name"\nwith | pipe',
        figures={"miou": 78, "count": 4, "miou_small": None},
        settings={"limit": "all"},
    ),
]


def test_rows_have_the_same_columns_and_lose_nothing():
    first, second = records_to_rows(RECORDS)
    assert list(first) == list(second)
    assert (first["scheme"], first["miou"], first["encoder_ms_median"]) == ("int8", 38.625, 41.5)
    assert (first["environment.torch"], first["settings.seed"], first["settings.skip"]) == (
        "2.4",
        1,
        '["a", "b"]',
    )
    assert (second["settings.seed"], second["miou_small"], second["encoder_ms_median"]) == (None, None, None)
    assert not {"figures", "times", "environment", "settings"} & first.keys()


def test_csv_can_be_read_back(tmp_path):
    export(RECORDS, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    expected = [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in records_to_rows(RECORDS)
    ]
    assert read == expected


def test_parquet_can_be_read_back_with_its_types(tmp_path):
    export(RECORDS, str(tmp_path / "out.parquet"))
    table = parquet.read_table(tmp_path / "out.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    wanted = {
        "miou": "double",
        "count": "int64",
        "miou_small": "double",
        "placement": "string",
        "settings.seed": "int64",
    }
    assert {name: types[name] for name in wanted} == wanted
    expected = records_to_rows(RECORDS)
    expected[0]["settings.limit"] = "100"  # a number here and a word there: the column is text
    assert table.to_pylist() == expected


def test_json_gives_equal_records_back(tmp_path):
    export(RECORDS, tmp_path / "out.JSON")
    assert [Record.from_json_dict(data) for data in json.loads((tmp_path / "out.JSON").read_text("utf-8"))] == RECORDS


def test_markdown_is_one_line_a_record_without_empty_columns(tmp_path):
    export(RECORDS, tmp_path / "out.md")
    assert (tmp_path / "out.md").read_text("utf-8").splitlines() == [
        "| model | scheme | engine | dataset | prompt | count | miou | encoder_ms_median |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: |",
        "| L0 | int8 | pytorch | scenes | box | 3 | 38.62 | 41.50 |",
        '| L0 | odd, "name" with \\| pipe | pytorch | scenes | box | 4 | 78 |  |',
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (12345.678, "12345.68"),
        (-0.01234, "-0.0123"),
        (0.0, "0.00"),
        (7, "7"),
        (True, "True"),
        ("a|b", "a\\|b"),
    ],
)
def test_cells_of_a_markdown_table(value, shown):
    assert markdown_table([{"x": value}], ["x"]).splitlines()[-1] == f"| {shown} |"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".md", ".json"])
def test_no_records_make_a_file_that_can_be_read(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    export([], path)
    if suffix == ".parquet":
        table = parquet.read_table(path)
        assert (table.num_rows, table.column_names[0]) == (0, "id")
    else:
        assert path.read_text("utf-8").startswith({".csv": "id,", ".md": "| model |", ".json": "[]"}[suffix])


@pytest.mark.parametrize("name", ["out.xlsx", "out", ".csv"])
def test_an_unknown_suffix_names_the_known(tmp_path, name):
    with pytest.raises(InputError, match=r"must end in \.csv, \.parquet, \.md, \.json, got"):
        export(RECORDS, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        export(RECORDS, tmp_path / "missing" / "out.csv")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".md", ".json"])
def test_a_failing_writer_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("old")

    def fail(self):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(Record, "to_json_dict", fail)
    monkeypatch.setattr("quantsam.results.export.records_to_rows", fail)
    with pytest.raises(RuntimeError):
        export(RECORDS, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_lists_in_a_row_become_json_text(tmp_path):
    row = {"layers": ("stage1", "neck"), "shape": [3, 8], "formats": {"neck": "int8"}, "loss": 1.5}
    assert export_rows([row], tmp_path / "r.csv") == 1
    with (tmp_path / "r.csv").open() as file:
        (found,) = csv.DictReader(file)
    assert [json.loads(found[name]) for name in row] == [["stage1", "neck"], [3, 8], {"neck": "int8"}, 1.5]
