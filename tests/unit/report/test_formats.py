import vl_convert

from quantsam.report.charts.encoder import encoder_chart
from quantsam.report.content import read_content
from quantsam.report.formats import encoder_layers
from quantsam.report.layer_tables import encoder_table
from quantsam.results.layer_formats import LayerFormat

from .conftest import make_agreement, make_distributions, make_record, make_row, make_search, make_site, make_study

ADDRESSES = ("stage0:0:0", "stage0:1:0", "stage1:0:0", "neck:0:0")


def with_layers(formats, scheme="int8", **changes):
    layers = [LayerFormat(address, "conv", w, a).to_json() for address, (w, a) in zip(ADDRESSES, formats, strict=True)]
    return make_record(scheme, placement="openvino", results={"layers": layers}, **changes)


def layers_of(store):
    return encoder_layers(read_content(store).models[0])


def test_each_scheme_gives_each_layer_a_format(store):
    store.append(with_layers([("int8", "uint8")] * 4))
    store.append(with_layers([("int4", "uint8"), (None, None), ("int8", "int16"), (None, "int8")], "mixed"))
    found = layers_of(store)
    assert [*found.kinds] == [*ADDRESSES]
    schemes = {scheme.name: [scheme.of(address) for address in ADDRESSES] for scheme in found.schemes}
    assert schemes == {
        "int8, placed as openvino": ["W8 A8"] * 4,
        "mixed, placed as openvino": ["W4 A8", "float", "W8 A16", "A8"],
    }


def test_formats_come_from_distributions_and_searches_too(store):
    store.append(make_record())  # of an older version: it does not say
    assert layers_of(store) is None
    sites = [make_site("stage0:0:0/input"), make_site("stage0:0:0/weight", role="weight")]
    store.append(make_distributions([*sites, make_site("stage1:0:0/input", format=None)], placement="thesis"))
    search = make_search()
    entries = [{**e, "formats": ["w4a8", "int8"]} for e in search.results["entries"]]
    settings = {**search.settings, "layers": ["stage0:0:0", "stage1:0:0"]}
    store.append(make_search(settings=settings, results={"entries": entries}))
    store.append(make_study([make_row("stage0:0:0", "conv", 1.0), make_row("stage1:0:0", "attention", 2.0)]))
    found = layers_of(store)
    assert found.kinds == {"stage0:0:0": "conv", "stage1:0:0": "attention"}
    assert {s.name: [s.of(a) for a in found.kinds] for s in found.schemes} == {
        "int8, placed as thesis": ["W8 A8", "float"],
        "a (found)": ["W4 A8", "A8"],
        "b (found)": ["W4 A8", "A8"],
    }


def test_the_picture_has_a_cell_a_layer_and_a_bar_for_its_mask_loss(store):
    store.append(with_layers([("int8", "uint8")] * 4))
    store.append(with_layers([(None, None)] * 4, "mixed"))
    rows = [make_row(a, "conv", 1.0, mask_loss=loss) for a, loss in zip(ADDRESSES[:3], (4.0, 1.0, 0.0), strict=True)]
    store.append(make_study(rows))
    chart = encoder_chart("n", layers_of(store))
    assert chart.marks == 4 + 3
    assert chart.choices == {"0": "int8, placed as openvino", "1": "mixed, placed as openvino"}
    shown = chart.spec["datasets"]["rows"]
    assert [(row["row"], row["left"]) for row in shown] == [(0, 0.0), (0, 1.7), (1, 0.0), (2, 0.0)]
    heights = [row["row"] + 0.42 - row["bar"] for row in shown if row["bar"] is not None]
    assert [round(h, 4) for h in heights] == [0.36, 0.09, 0.0]
    assert "alone in int8" in chart.reading
    svg = vl_convert.vegalite_to_svg(dict(chart.spec))
    assert svg.count("format: W8 A8") >= 4
    assert "format: float" not in svg
    assert "neck" in svg
    (chosen,) = [p for p in chart.spec["params"] if p["name"] == "chosen"]
    chosen["value"] = "1"
    assert "format: float" in vl_convert.vegalite_to_svg(dict(chart.spec))


def test_layers_that_an_engine_ran_in_float_are_marked(store):
    store.append(with_layers([("int8", "uint8")] * 4))
    results = {"silently_float": ["stage1:0:0/depthwise0."], "between": []}
    store.append(make_agreement(placement="openvino"))
    assert "ran it in float" not in encoder_chart("n", layers_of(store)).reading
    agreement = make_agreement(placement="openvino")
    store.append(type(agreement)(**{**agreement.to_json_dict(), "id": "ab" * 16, "results": results}))
    found = layers_of(store)
    assert found.schemes[0].ran_in_float == {"stage1:0:0"}
    chart = encoder_chart("n", found)
    assert "ran it in float" in chart.reading
    assert [row["floats"] for row in chart.spec["datasets"]["rows"]] == [[False], [False], [True], [False]]
    table = encoder_table(found)
    assert [row.cells[-1] for row in table.rows] == ["", "", "int8, placed as openvino", ""]


def test_the_table_has_formats_and_what_a_study_says(store):
    store.append(with_layers([("int8", "uint8")] * 4))
    store.append(make_study([make_row(ADDRESSES[0], "conv", 1.0, sqnr_db=12.34)]))
    table = encoder_table(layers_of(store))
    assert table.columns == ("layer", "kind", "int8, placed as openvino", ">mask loss", ">± SE", ">SQNR dB")
    assert table.rows[0].cells == ("stage0:0:0", "conv", "W8 A8", "2.00", "0.20", "12.3")
    assert table.rows[3].cells == ("neck:0:0", "conv", "W8 A8", "", "", "")
    assert "one standard error" in table.note


def test_a_study_of_stages_is_no_study_of_layers(store):
    store.append(with_layers([("int8", "uint8")] * 4))
    store.append(make_study([make_row("stage0", "mixed", 1.0)], settings={"by": "stage"}))
    found = layers_of(store)
    assert found.study is None
    assert [*found.kinds] == [*ADDRESSES]
    assert encoder_chart("n", found).marks == 4
