"""Activations of an image on the page: maps, histograms, captions."""

import base64
import dataclasses
import io
import re
from html import unescape

import numpy as np
import pytest
from PIL import Image

from quantsam.errors import StoreError
from quantsam.report.activations import activation_views
from quantsam.report.content import ModelResults
from quantsam.report.page import make_report
from quantsam.report.theme import FP32, QUANTIZED
from quantsam.results.activation_record import CodedMap, PairedBins

from .conftest import make_activations, make_channel, make_compared

HOSTILE = "</svg></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"


def pixels(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def views(*records):
    return list(activation_views(ModelResults("nano", "ab", activations=list(records))))


def only_channel(channel):
    ((site,),) = (view.sites for view in views(make_activations([make_compared(channels=(channel,))])))
    return site.channels[0]


def test_a_record_is_headed_by_model_scheme_placement_and_picture():
    sites = [make_compared("a:0:0/input", 30.0), make_compared("b:0:0/act", 5.0, channels=(make_channel(),))]
    sites.append(make_compared("c:0:0/act", -2.0, format=None, channels=(make_channel(1), make_channel(3))))
    (view,) = views(make_activations(sites, settings={"weights": True, "activations": False, "site": "?:*"}))
    assert view.title == "nano, int8 (W only), thesis, dog.jpg: sites ?:*"
    titles = [site.title for site in view.sites]
    assert titles == ["c:0:0/act (mbc_depthwise), float: SQNR -2.0 dB", "b:0:0/act (mbc_depthwise), int8: SQNR 5.0 dB"]
    assert [len(site.channels) for site in view.sites] == [2, 1]
    assert [row.cells[0] for row in view.table.rows] == ["c:0:0/act", "b:0:0/act", "a:0:0/input"]
    assert view.table.rows[1].cells[3:] == ("8 x 1 x 2", "4", "1", "5.0", "7 (12.0), 2")
    assert views(make_activations([make_compared()]))[0].title == "nano, int8, thesis, dog.jpg"


def test_one_tensor_is_listed_once():
    (view,) = views(make_activations([make_compared("a:0:0/act"), make_compared("a:0:1/input")]))
    assert [row.cells[0] for row in view.table.rows] == ["a:0:0/act = a:0:1/input"]


def test_maps_share_one_scale_and_the_difference_is_red_above_zero_and_blue_below():
    values = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 2.0]])
    change = np.array([[0.0, 1.0, -0.5], [0.5, -1.0, 0.0]])
    maps = {"fp32": CodedMap.of(values, 0.0, 4.0), "difference": CodedMap.of(change, -128 / 127, 1.0)}
    fp32, quantized, difference = (pixels(shown.uri) for shown in only_channel(make_channel(**maps)).maps)
    assert np.abs(fp32[..., 0] - 255 * values / 4).max() <= 0.5
    assert np.abs(quantized[..., 0] - 255 * (values + change) / 4).max() <= 1.5
    assert (fp32[..., 3] == 255).all()
    assert (difference[change > 0][:, :3] == QUANTIZED).all()
    assert (difference[change < 0][:, :3] == FP32).all()
    assert np.abs(difference[..., 3] - 255 * np.abs(change)).max() <= 1.5
    assert (difference[change == 0][:, 3] == 0).all()


def test_who_cannot_see_a_map_is_told_what_it_shows():
    channel = only_channel(make_channel())
    assert [shown.title for shown in channel.maps] == ["FP32", "quantized", "difference"]
    name = "channel 7 of stage1:0:0/input"
    assert [shown.alt for shown in channel.maps] == [
        f"{name} in FP32, 0 to 4",
        f"{name} quantized, on the same scale",
        f"{name}, quantized less FP32, at most 1 either way",
    ]
    assert channel.histogram.alt == f"Histograms of {name} in FP32 and quantized, 0 to 4"
    assert channel.caption == "stage1:0:0/input, int8, channel 7: 0 to 4, SQNR 12.0 dB"
    assert only_channel(make_channel(sqnr_db=None)).caption.endswith(": 0 to 4, nothing but noise")


def test_histograms_are_logarithmic_and_have_one_scale():
    drawn = only_channel(make_channel(bins=PairedBins(0.0, 1.0, (9, 0, 99, 0), (0, 9, 0, 999)))).histogram
    line = [tuple(map(float, point.split(","))) for point in drawn.line.split()]
    assert [x for x, _ in line] == [12.5, 37.5, 62.5, 87.5]
    assert [100 - y for _, y in line] == pytest.approx([0, 32, 0, 96], abs=0.01)
    corners = [tuple(map(float, point.split(","))) for point in re.findall(r"[\d.]+,[\d.]+", drawn.bars)]
    assert [x for x, _ in corners] == [0, 0, 25, 25, 50, 50, 75, 75, 100, 100]
    assert [100 - y for _, y in corners[1:-1:2]] == pytest.approx([32, 0, 64, 0], abs=0.01)
    nothing = only_channel(make_channel(bins=PairedBins(0.0, 1.0, (0,), (0,)))).histogram
    assert nothing.line == "50,100"


def test_the_page_shows_them(store):
    store.append(make_activations([make_compared(channels=(make_channel(1), make_channel(2)))], dataset="cat.jpg"))
    store.append(make_activations([make_compared(channels=(make_channel(3),))], dataset_digest="ef"))
    store.append(make_activations([make_compared()], dataset="none.jpg"))
    html = make_report(store).html
    part = html[html.index('<section class="part" id="nano--activations">') : html.index("</main>")]
    assert '<a href="#nano--activations">' not in html  # the only part needs no list of parts
    titles = re.findall(r"<details class=\"gallery\"( open)?><summary>(.*?)</summary>", part)
    assert [title for _, title in titles] == [f"nano, int8, thesis, {name}.jpg" for name in ("none", "dog", "cat")]
    assert [bool(is_open) for is_open, _ in titles] == [True, False, False]
    figures = part.split('<figure class="channel">')[1:]
    assert [re.search(r"<figcaption>.*?, channel (\d)", figure)[1] for figure in figures] == ["3", "1", "2"]
    for figure in figures:
        assert re.findall(r"<p>(.*?)</p>", figure.partition("</figure>")[0]) == [
            *("FP32", "quantized", "difference", "histogram")
        ]
        assert figure.count('<img src="data:image/png;base64,') == 3
        assert figure.count('role="img" aria-label="Histograms of channel') == 1
        assert all(re.findall(r'alt="([^"]*)"', figure))
    assert part.count("Nothing is drawn") == 1


def test_the_part_is_in_the_list_of_parts(store, fill):
    fill(store)
    html = make_report(store).html
    assert '<a href="#nano--activations">Activations of an image</a>' in html


def test_hostile_names_are_text(store):
    site = make_compared(HOSTILE, kind=HOSTILE, format=HOSTILE, channels=(make_channel(),))
    changes = {"model": HOSTILE, "scheme": HOSTILE, "placement": HOSTILE, "settings": {"site": HOSTILE}}
    store.append(make_activations([site], dataset=HOSTILE, **changes))
    html = make_report(store).html
    page = html[: html.index("<script>")]
    assert "<img src=x" not in page
    assert "<script" not in page
    assert page.count("</svg>") == 1
    assert f"channel 7 of {HOSTILE} in FP32" in unescape(page)


def test_a_damaged_map_is_a_store_error(store):
    fp32 = dataclasses.replace(make_channel().fp32, png=base64.b64encode(b"no picture").decode())
    store.append(make_activations([make_compared(channels=(make_channel(fp32=fp32),))]))
    with pytest.raises(StoreError, match=r"must be a grey PNG.*measure again"):
        make_report(store)
