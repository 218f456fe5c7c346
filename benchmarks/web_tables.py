"""Tables of a page beside the desktop."""

from __future__ import annotations

from collections.abc import Callable

from common import load, machine, markdown


def same() -> str:
    """Return how far the page's masks and embeddings are from ONNX Runtime's."""
    document = load("web")
    rows = [
        [
            scheme,
            f"{found['masks']}",
            f"{found['identical']}",
            f"{100 * found['mean_iou']:.3f}",
            f"{100 * found['least_iou']:.2f}",
            f"{found['embedding_off']:.1e}",
        ]
        for scheme, found in document["masks"].items()
    ]
    codes, versions = document["codes"], document["versions"]
    header = [document["model"], "masks", "same in every pixel", "mean IoU, %", "least IoU, %", "embedding: most off"]
    caption = (
        f"Annotated boxes of {document['masks']['int8']['images']} scenes. int8: of {codes['codes']:,} codes behind "
        f"{codes['sites']} roundings of 3 images {codes['differing']:,} differ. {versions['web']}; onnxruntime "
        f"{versions['onnxruntime']}. {machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


def size() -> str:
    """Return what a browser downloads."""
    document = load("web")
    found = document["download"]
    total = {key: sum(each[key] for each in found.values()) for key in ("bytes", "gzip")}
    order = {"runtime": "ONNX Runtime Web", "encoder": "encoder, int8", "decoder": "decoder, float32", "page": "page"}
    named = [(title, found[name]) for name, title in order.items()] + [("all", total)]
    rows = [[title, *(f"{each[key] / 1e6:.2f}" for key in ("bytes", "gzip"))] for title, each in named]
    return f"{markdown([document['model'], 'MB', 'MB compressed'], rows)}\n\ngzip; a server that compresses sends that."


def times() -> str:
    """Return milliseconds of encoder and decoder, in the page and on the desktop."""
    document = load("web")
    found = document["times"]
    ways = [(engine, threads) for engine in ("web", "onnxruntime") for threads in (1, 2)]
    rows = [
        [what, *(f"{found[f'{what}, {engine}, {threads}']['low']:.0f}" for engine, threads in ways)]
        for what in ("encoder fp32", "encoder int8", "decoder")
    ]
    header = ["ms", *(f"{engine}, {threads} thread{'s' if threads > 1 else ''}" for engine, threads in ways)]
    caption = (
        f"{document['model']}, what a tenth of {document['rounds']} rounds in turn stays below; the decoder answers "
        f"one box. {document['versions']['web']}. {machine(document)}."
    )
    return f"{markdown(header, rows)}\n\n{caption}"


WEB_TABLES: dict[str, Callable[[], str]] = {"web-same": same, "web-size": size, "web-times": times}
