import pytest

from quantsam.plans.layers import discover_layers
from quantsam.schemes.load import scheme_names


def test_layers_as_a_table(run, tiny):
    ran = run("layers", "nano")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"nano: {len(discover_layers(tiny.float_encoder))} layers")
    assert any("stage4:1:4" in line and "mbc_depthwise" in line and f"{192 * 4}x1x3x3" in line for line in lines)
    assert "weights in" not in ran.out


def test_layers_under_a_scheme_shows_what_stays_in_float(run):
    found = run("layers", "nano", "--scheme", "mix-dwsc", "--json").json
    kept = {row["kind"] for row in found["layers"] if row["weight"] == "float"}
    assert kept == {"mbc_depthwise", "mbc_project"}
    assert all(row["activation"] == "float" for row in found["layers"] if row["kind"] in kept)
    assert {row["weight"] for row in found["layers"] if row["kind"] == "attention"} == {None}
    table = run("layers", "nano", "--scheme", "mix-dwsc").out
    assert "weights in" in table
    assert f"{found['sizes']['quantized_parameters']:,} parameters quantized" in table


def test_layers_totals_are_sums_of_the_rows(run):
    found = run("layers", "nano", "--json").json
    assert found["scheme"] is None
    for name in ("parameters", "macs"):
        assert found["totals"][name] == sum(row[name] for row in found["layers"])
    assert found["totals"]["layers"] == len(found["layers"])
    assert found["sizes"]["quantized_parameters"] == 0
    assert found["sizes"]["size_bytes"] == found["sizes"]["fp32_bytes"]


def test_sizes_shrink_with_the_bits(run):
    sizes = [
        run("layers", "nano", "--scheme", scheme, "--json").json["sizes"]["size_bytes"]
        for scheme in ("fp32", "mix-dwsc", "int8", "w4a8")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("model", ["l0", "L2", "efficientvit-sam-xl1"])
def test_large_models_need_no_weights(run, model):
    assert run("layers", model, "--json").json["totals"]["layers"] > 50


def test_schemes_lists_every_scheme(run):
    found = run("schemes", "--json").json
    assert [scheme["name"] for scheme in found] == scheme_names()
    assert all(scheme["description"] and len(scheme["digest"]) == 64 for scheme in found)
    table = run("schemes").out
    assert all(f" {name} " in table for name in scheme_names())


@pytest.mark.parametrize("name", [*scheme_names(), "int8@stage3:2:2", "w4a8@neck,mbc_project"])
def test_a_scheme_shows_its_rules(run, name):
    found = run("schemes", name, "--json").json
    assert found["name"] == name
    assert run("schemes", name).out.startswith(f"{name}: ")
    for rule in found["rules"]:
        assert set(rule) == {"rule", "layers", "target", "format"}


def test_names_are_never_taken_for_markup(run, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('name = "own[red]x[/nope]"\ndescription = "[bold]d"\n[[rules]]\nweight = "int8"\n')
    ran = run("schemes", file)
    assert ran.code == 0
    assert ran.out.startswith("own[red]x[/nope]: [bold]d")


def test_a_broken_scheme_file_is_one_line(run, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('[[rules]]\nwieght = "int8"\n')
    run("schemes", file).complains(2, "own.toml", "unknown key 'wieght'", "did you mean 'weight'?")
    file.write_text("[[")
    run("layers", "nano", "--scheme", file).complains(2, "valid TOML")
    run("schemes", tmp_path / "absent.toml").complains(2, "absent.toml")


def test_cache(run, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTSAM_CACHE", str(tmp_path / "cache"))
    assert run("cache", "--json").json["plans"] == 0
    line = ("evaluate", "--data", "scenes:1", "--scheme", "int8@neck", "--calibration", "scenes:1:1", "--no-store")
    first = run(*line, "--gallery", "0")
    assert first.code == 0

    def calibrates_again(image, size):
        raise AssertionError("calibrated again")

    monkeypatch.setattr("quantsam.plans.observation.encoder_input", calibrates_again)
    assert run(*line, "--gallery", "0").out == first.out
    assert run("cache").out.startswith("kept 1 calibrated plans, ")
    assert run("cache", "--clear").out.startswith("removed 1 of 1 calibrated plans, ")
    assert run("cache", "--json").json["plans"] == 0
