"""ONNX Runtime in a browser's WebAssembly: run from Python what `quantsam export --engine web` runs in its page."""

from __future__ import annotations

from quantsam.runtime.engine import BYTES, NARROW, WORDS, Engine

ENGINE = Engine(
    name="web",
    package="playwright",
    title="ONNX Runtime Web",
    placement="onnxruntime",
    weight_formats=(*BYTES, *NARROW),
    activation_formats=(*BYTES, *WORDS),
    opener="quantsam.runtime.web.session:WebSession",
    checker="quantsam.runtime.web.session:check_web",
    reader="quantsam.runtime.web.session:executed_convolutions",
    channel_activations=False,
    usual=False,
    versioner="quantsam.runtime.web.session:web_version",
)
