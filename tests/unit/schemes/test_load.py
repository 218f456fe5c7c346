from pathlib import Path

import pytest

from quantsam.errors import InputError, SchemeError
from quantsam.schemes.line import uniform_scheme, with_observer
from quantsam.schemes.load import load_scheme, parse_scheme, scheme_names
from quantsam.schemes.scheme import LAYER_KINDS, Rule, Selector, Target
from quantsam.schemes.target import make_target


def usual(weight="int8", activation="int8"):
    return {
        "weight": Target(weight),
        "activation": Target(activation),
    }


FLOAT = {"weight": None, "activation": None}
DEPTHWISE = Rule(Selector(kind=("mbc_depthwise", "mbc_project")), FLOAT)
BOTTLENECK = Rule(Selector(kind=("mbc_expand", "mbc_depthwise", "mbc_project")), FLOAT)
NECK = Rule(Selector(stage=("neck",)), FLOAT)
ALL = Rule(Selector(), usual())
LIBRARY = {
    "fp32": (),
    "int8": (ALL,),
    "mix-dwsc": (ALL, DEPTHWISE),
    "mix-mbc-neck": (ALL, BOTTLENECK, NECK),
    "mix-dwsc-neck": (ALL, DEPTHWISE, NECK),
    "w4a8": (Rule(Selector(), usual("int4", "int8")),),
    "w8a16": (Rule(Selector(), usual("int8", "int16")),),
}


def refused(call, *args):
    """The message of a refusal: always one line."""
    with pytest.raises(SchemeError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert message == message.strip()
    return message


def parse(content):
    return parse_scheme(content, "given")


def one(content):
    (rule,) = parse(f"[[rules]]\n{content}").rules
    return rule


# library


@pytest.mark.parametrize("name", LIBRARY)
def test_library_schemes_have_the_rules_of_the_thesis(name):
    scheme = load_scheme(name)
    assert scheme.name == name
    assert scheme.rules == LIBRARY[name]
    assert scheme.description.endswith(".")


def test_library_holds_these_and_no_others():
    assert scheme_names() == sorted(LIBRARY)
    assert len({load_scheme(name).digest for name in LIBRARY}) == len(LIBRARY)


@pytest.mark.parametrize(("name", "hint"), [("int88", "did you mean 'int8'?"), ("mixdwsc", "did you mean 'mix-dwsc'")])
def test_an_unknown_name_is_refused_with_a_hint(name, hint):
    message = refused(load_scheme, name)
    rule = "scheme must be a library name, a format, a .toml file or a line like 'int8@stage3:2:2'"
    assert message.startswith(f"{rule}, got {name!r}: {hint}")


@pytest.mark.parametrize("name", ["int4", "w4a16", "fp8_e4m3"])
def test_a_format_is_a_scheme_for_all_layers(name):
    assert load_scheme(name).digest == uniform_scheme(name).digest


@pytest.mark.parametrize("name", ["", "/", "..", "library/int8", "int8.tom", "zzz"])
def test_nothing_else_is_looked_for(name):
    assert f"got {name!r}: " in refused(load_scheme, name)


# files


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_file_is_read(tmp_path, as_type):
    path = tmp_path / "mine.toml"
    path.write_text('[[rules]]\nweight = "int4"\n', "utf-8")
    scheme = load_scheme(as_type(path))
    assert scheme.name == "mine"
    assert scheme.rules == (Rule(Selector(), {"weight": Target("int4")}),)


def test_a_file_whose_name_has_an_at_sign_is_a_file(tmp_path):
    path = tmp_path / "int8@neck.toml"
    assert refused(load_scheme, str(path)).endswith("must be a readable TOML file: No such file or directory")
    path.write_text("", "utf-8")
    assert load_scheme(str(path)).rules == ()


def test_a_file_without_the_ending_is_read_when_given_as_a_path(tmp_path):
    path = tmp_path / "mine"
    path.write_text('name = "other"', "utf-8")
    assert load_scheme(path).name == "other"


def test_a_missing_file(tmp_path):
    path = str(tmp_path / "none.toml")
    assert refused(load_scheme, path) == (
        f"scheme file {path!r} must be a readable TOML file: No such file or directory"
    )


def test_a_folder(tmp_path):
    (tmp_path / "a.toml").mkdir()
    assert "must be a readable TOML file: Is a directory" in refused(load_scheme, str(tmp_path / "a.toml"))


def test_a_file_that_is_not_utf_8(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "Grün"'.encode("latin-1"))
    message = refused(load_scheme, path)
    assert message.startswith(f"scheme file {str(path)!r} must be a readable TOML file: ")
    assert "utf-8" in message


def test_a_path_that_cannot_be_one():
    assert "must be a readable TOML file" in refused(load_scheme, "a\0.toml")
    assert "must be a readable TOML file: File name too long" in refused(load_scheme, "a" * 300 + ".toml")


@pytest.mark.parametrize(
    "content",
    [
        "rules = ",
        "= 3",
        "weight",
        '{"json": 1}',
        "[[rules]",
        "a = 1\na = 2",
        "x = " + "[" * 9999,
        "x = " + "9" * 9999,
        "\0",
    ],
    ids=range(9),
)
def test_a_file_that_is_not_toml(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.write_text(content, "utf-8")
    assert refused(load_scheme, path).startswith(f"scheme {path} must be valid TOML: ")


def test_errors_name_the_file_and_the_rule(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('[[rules]]\nweight = "int8"\n[[rules]]\nwieght = "int8"\n', "utf-8")
    assert refused(load_scheme, path) == f"scheme {path}, rule 2: unknown key 'wieght': did you mean 'weight'?"


@pytest.mark.parametrize("name", ["fp32", "FP32"])
def test_the_name_of_the_float_model_is_not_for_rules(tmp_path, name):
    path = tmp_path / f"{name}.toml"
    path.write_text('[[rules]]\nweight = "int8"\n', "utf-8")
    rule = "a scheme with rules must not have the name of the float model"
    assert refused(load_scheme, path) == f"scheme {path}: {rule}, got {name!r}: give it another"
    assert rule in refused(parse, f'name = "{name}"\n[[rules]]\nweight = "int8"')
    assert parse('name = "fp32"').name == "fp32"
    path.write_text('name = "mine"\n[[rules]]\nweight = "int8"\n', "utf-8")
    assert load_scheme(path).name == "mine"


# every key


def test_every_key_is_understood():
    scheme = parse(
        """
        name = "mine"
        description = "all of it"
        [[rules]]
        select = { stage = ["stage3", "neck"], block = [0, 4], layer = 2, kind = "qkv", model = ["L0", "xl1"] }
        weight = { format = "int4", observer = "omse", symmetric = false, per_channel = false, quantizer = "uniform" }
        activation = { format = "uint4", quantizer = "log2" }
        sites = { input = "float", "q.weight" = "int8", out = { format = "fp8_e4m3" } }
        """
    )
    assert (scheme.name, scheme.description) == ("mine", "all of it")
    assert scheme.rules == (
        Rule(
            Selector(("stage3", "neck"), (0, 4), (2,), ("qkv",), ("l0", "xl1")),
            {
                "weight": Target("int4", "omse", False, False, "uniform"),
                "activation": Target("uint4", quantizer="log2"),
                "input": None,
                "q.weight": Target("int8"),
                "out": Target("fp8_e4m3", quantizer="float8"),
            },
        ),
    )


def test_defaults():
    scheme = parse("")
    assert (scheme.name, scheme.rules, scheme.description) == ("given", (), "")
    assert one('weight = "int8"').select == Selector()
    assert one('weight = "int8"\nactivation = "int8"').targets == usual()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("float", None),
        ("int8", Target("int8")),
        ("fp8_e5m2", Target("fp8_e5m2", quantizer="float8")),
        ({"format": "int8", "observer": "ptf"}, Target("int8", observer="ptf")),
        ({"format": "int8", "symmetric": False}, Target("int8", symmetric=False)),
        ({"format": "uint8", "symmetric": True}, Target("uint8", symmetric=True)),
        ({"format": "int8", "per_channel": True}, Target("int8", per_channel=True)),
        ({"format": "int8", "per_channel": False}, Target("int8", per_channel=False)),
    ],
)
def test_what_is_not_said_is_left_open(value, expected):
    assert make_target(value) == expected


# what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('nmae = "x"', "scheme given: unknown key 'nmae': did you mean 'name'?"),
        ("name = 3", "scheme given: 'name' must be a string, got 3"),
        ("description = []", "scheme given: 'description' must be a string, got []"),
        ("rules = 1", "scheme given: 'rules' must be a list of [[rules]] tables, got 1"),
        (
            "[rules]\nweight = 'int8'",
            "scheme given: 'rules' must be a list of [[rules]] tables, got {'weight': 'int8'}",
        ),
        (
            "rules = ['int8']",
            "scheme given, rule 1: expected a table with keys select, weight, activation, sites, got 'int8'",
        ),
    ],
)
def test_a_wrong_top_level_is_refused(content, message):
    assert refused(parse, content) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a rule must set 'weight', 'activation' or 'sites', got none of them"),
        ("select = { stage = 'neck' }", "a rule must set 'weight', 'activation' or 'sites', got none of them"),
        ("sites = {}", "a rule must set 'weight', 'activation' or 'sites', got none of them"),
        ("activations = 'int8'", "unknown key 'activations': did you mean 'activation'?"),
        ("select = 'neck'\nweight = 'int8'", "'select' must be a table, got 'neck'"),
        ("sites = 'input'", "'sites' must be a table, got 'input'"),
        ("select = ['neck']\nweight = 'int8'", "'select' must be a table, got ['neck']"),
    ],
)
def test_a_wrong_rule_is_refused(content, message):
    assert refused(one, content) == f"scheme given, rule 1: {message}"


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("stag = 'neck'", "unknown key 'stag': did you mean 'stage'?"),
        ("stage = 3", "'stage' must be a string or a list of such, got 3"),
        ("stage = ['neck', 3]", "'stage' must be a string or a list of such, got ['neck', 3]"),
        ("block = '4'", "'block' must be an integer or a list of such, got '4'"),
        ("block = true", "'block' must be an integer or a list of such, got True"),
        ("layer = [1.0]", "'layer' must be an integer or a list of such, got [1.0]"),
        ("kind = [['qkv']]", "'kind' must be a string or a list of such, got [['qkv']]"),
        ("kind = 'mbc_projct'", "unknown kind 'mbc_projct': did you mean 'mbc_project'?"),
        ("kind = ['qkv', 'zzz']", f"unknown kind 'zzz': known are: {', '.join(sorted(LAYER_KINDS))}"),
        ("model = 'xl7'", "unknown model 'xl7': did you mean 'xl1' or 'xl0'?"),
    ],
)
def test_a_wrong_selector_is_refused(select, message):
    assert refused(one, f"select = {{ {select} }}\nweight = 'int8'") == f"scheme given, rule 1, select: {message}"


@pytest.mark.parametrize("place", ["weight", "activation", "site 'input'"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("8", "must be a format such as 'int8', 'float' or a table, got 8"),
        ("true", "must be a format such as 'int8', 'float' or a table, got True"),
        ("['int8']", "must be a format such as 'int8', 'float' or a table, got ['int8']"),
        ("{}", "'format' must be given, got only nothing"),
        ("{ observer = 'ema' }", "'format' must be given, got only observer"),
        ("{ format = 8 }", "'format' must be a string, got 8"),
        ("{ format = 'int8', symetric = true }", "unknown key 'symetric': did you mean 'symmetric'?"),
        ("{ format = 'int8', symmetric = 1 }", "'symmetric' must be true or false, got 1"),
        ("{ format = 'int8', per_channel = 'no' }", "'per_channel' must be true or false, got 'no'"),
        ("{ format = 'int8', observer = 'omze' }", "unknown observer 'omze': did you mean 'omse'?"),
        ("{ format = 'int8', observer = 3 }", "'observer' must be a string, got 3"),
        ("{ format = 'int8', quantizer = 'log' }", "quantizer of format 'int8' cannot be 'log': use 'uniform'"),
        ("{ format = 'int8', quantizer = 'float8' }", "quantizer of format 'int8' cannot be 'float8': use 'uniform'"),
        (
            "{ format = 'fp8_e4m3', quantizer = 'log2' }",
            "quantizer of format 'fp8_e4m3' cannot be 'log2': use 'float8'",
        ),
        (
            "{ format = 'int8', observer = 'ptf', per_channel = false }",
            "observer 'ptf' must be per channel, got per_channel = false",
        ),
    ],
)
def test_a_wrong_specification_is_refused(place, value, message):
    key = f"sites = {{ input = {value} }}" if "site" in place else f"{place} = {value}"
    assert refused(one, key) == f"scheme given, rule 1, {place}: {message}"


@pytest.mark.parametrize("value", ["'imt8'", "{ format = 'imt8' }"])
def test_an_unknown_format_is_refused_where_it_stands(value):
    message = refused(one, f"weight = {value}")
    rule = "format must be int2..int16, uint2..uint16, fp8_e4m3 or fp8_e5m2"
    assert message.startswith(f"scheme given, rule 1, weight: {rule}, got 'imt8': did you mean ")
    assert "'int8'" in message


def test_float_is_a_word_and_not_a_format():
    assert "got 'float'" in refused(one, "weight = { format = 'float' }")


# lines


@pytest.mark.parametrize(
    ("line", "selectors"),
    [
        ("int8@stage3:4:2", [Selector(("stage3",), (4,), (2,))]),
        ("int8@L0:stage3:4:2", [Selector(("stage3",), (4,), (2,), model=("l0",))]),
        ("int8@xl1:neck:7:0", [Selector(("neck",), (7,), (0,), model=("xl1",))]),
        ("int8@nano:stage1", [Selector(("stage1",), model=("nano",))]),
        ("int8@stage3:4", [Selector(("stage3",), (4,))]),
        ("int8@stage0:0:0", [Selector(("stage0",), (0,), (0,))]),
        ("int8@stage3", [Selector(("stage3",))]),
        ("int8@neck", [Selector(("neck",))]),
        ("int8@neck,mbc_project", [Selector(("neck",)), Selector(kind=("mbc_project",))]),
        ("int8@neck, stage3:4 ,qkv", [Selector(("neck",)), Selector(("stage3",), (4,)), Selector(kind=("qkv",))]),
        ("INT8@STAGE3:4:2,QKV", [Selector(("stage3",), (4,), (2,)), Selector(kind=("qkv",))]),
        (" int8 @ neck", [Selector(("neck",))]),
    ],
)
def test_a_line_is_one_rule_an_address(line, selectors):
    scheme = load_scheme(line)
    assert scheme.name == line
    assert scheme.rules == tuple(Rule(selector, usual()) for selector in selectors)


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_a_line_may_name_a_kind(kind):
    assert load_scheme(f"int8@{kind}").rules[0].select == Selector(kind=(kind,))


@pytest.mark.parametrize(
    ("base", "targets"),
    [
        ("w4a8", usual("int4", "int8")),
        ("w8a16", usual("int8", "int16")),
        ("w2a2", usual("int2", "int2")),
        ("int4", usual("int4", "int4")),
        ("uint8", {
            "weight": Target("uint8"),
            "activation": Target("uint8"),
        }),
        ("fp8_e4m3", {
            "weight": Target("fp8_e4m3", quantizer="float8"),
            "activation": Target("fp8_e4m3", quantizer="float8"),
        }),
    ],
)  # fmt: skip
def test_what_a_line_begins_with(base, targets):
    assert load_scheme(f"{base}@neck").rules == (Rule(Selector(("neck",)), targets),)


def test_a_line_of_very_many_addresses():
    addresses = [f"stage3:{block}:{layer}" for block in range(20) for layer in range(5)]
    assert len(load_scheme("int8@" + ",".join(addresses)).rules) == 100


@pytest.mark.parametrize("base", ["", "int88", "w4a99", "w1a8", "mix-dwsc", "float", "w٣a8", "w4a8w"])
def test_a_bad_beginning_of_a_line_is_refused(base):
    message = refused(load_scheme, f"{base}@neck")
    rule = f"scheme '{base}@neck': the format must be one of quantsam's or wNaM, got {base!r}: "
    assert message.startswith(rule)


@pytest.mark.parametrize(
    "part",
    [
        "",
        "stage",
        "stage3:",
        "stage3:4:",
        "stage3:4:2:1",
        "stage\uff13",
        "foo:stage3",
        "*",
        "3:4:2",
        "stage3:-1",
        "l0",
        "a@b",
    ],
)
@pytest.mark.parametrize("before", ["", "neck,"])
def test_a_bad_address_in_a_line_is_refused(part, before):
    line = f"int8@{before}{part}"
    message = refused(load_scheme, line)
    assert message.startswith(
        f"scheme {line!r}: what stands after '@' must be addresses like 'stage3:2:2', stages or kinds, got {part!r}: "
    )


def test_near_misses_in_a_line_are_suggested():
    assert refused(load_scheme, "int8@mbc_projekt").endswith("did you mean 'mbc_project'?")
    assert refused(load_scheme, "w4a9x@neck").endswith("did you mean 'w4a8'?")


def test_a_refused_scheme_is_a_refused_input():
    with pytest.raises(InputError) as caught:
        load_scheme("int8@nowhere")
    assert caught.value.exit_code == 2


def test_an_empty_list_selects_all():
    scheme = parse_scheme('[[rules]]\nselect = { stage = [], block = [], kind = [] }\nweight = "int8"', "given")
    assert scheme.rules[0].select == Selector()


RULE = '[[rules]]\nweight = "int8"\nactivation = "int8"\n'


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("apply = 'streams'", "scheme given, repair: 'apply' must be a list of reflect, streams, .*, got 'streams'"),
        ("apply = [1]", "scheme given, repair: 'apply' must be a list of reflect, streams, shift, "),
        ("apply = []", "scheme given, repair: repairs must be some of reflect, streams, "),
        ("apply = ['stream']", "scheme given, repair: a repair must be .*, got 'stream': did you mean 'streams'"),
        ("applied = ['streams']", "scheme given, repair: unknown key 'applied': did you mean 'apply'"),
    ],
)
def test_a_bad_repair_table_is_refused(table, message):
    with pytest.raises(SchemeError, match=message) as caught:
        parse_scheme(f"{RULE}[repair]\n{table}", "given")
    assert "\n" not in str(caught.value)


def test_repairs_need_something_to_repair():
    for rules in ("", "[[rules]]\nweight = 'int4'\n", "[[rules]]\nweight = 'int4'\nactivation = 'float'\n"):
        with pytest.raises(SchemeError, match=r"given: a scheme that is repaired must quantize activations, got none"):
            parse_scheme(f"{rules}[repair]\napply = ['streams']", "given")


def test_repairs_are_kept_in_the_order_in_which_they_are_applied():
    scheme = parse_scheme(f"{RULE}[repair]\napply = ['bias', 'streams']", "given")
    assert scheme.repairs == ("streams", "bias")


def test_an_observer_after_a_scheme_finds_the_ranges_of_all_activations(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(f"{RULE}[[rules]]\nsites = {{ input = {{ format = 'int8', per_channel = false }} }}\n")
    lines = ("int8:percentile", "w4a8:percentile", "w8a8:percentile", "int8:percentile@stage3,neck", f"{path}:omse")
    for line in lines:
        scheme = load_scheme(line)
        assert scheme.name == line
        targets = [item for rule in scheme.rules for item in rule.targets.items()]
        observers = {target.observer for key, target in targets if key != "weight"}
        assert observers == {line.partition("@")[0].rpartition(":")[2]}
        assert {target.observer for key, target in targets if key == "weight"} == {None}
    assert load_scheme("int8:percentile@stage3").rules[0].select.stage == ("stage3",)
    assert load_scheme(f"{path}:ptf").rules[1].targets["input"].per_channel is None
    bare = load_scheme("mix-dwsc")
    assert with_observer(bare, "omse").digest == load_scheme("mix-dwsc:omse").digest != bare.digest


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("int8:omsee", "the observer must be one of minmax, .*, ptf, got 'omsee': did you mean 'omse'"),
        ("fp32:omse", "scheme 'fp32:omse': an observer finds ranges of activations, got none: leave 'omse' out"),
        ("int99:omse", "scheme must be a library name, a format"),
        ("int8:", "the observer must be one of"),
    ],
)
def test_observers_that_cannot_be(line, words):
    with pytest.raises(SchemeError, match=words):
        load_scheme(line)
