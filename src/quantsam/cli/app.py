"""`quantsam app`: a local page to try schemes on your own images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quantsam.cli.options import need_extra

if TYPE_CHECKING:
    from quantsam.app.catalogue import Catalogue
    from quantsam.schemes.scheme import Scheme


@click.command(name="app")
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("nano", "nano-hard"),
    help="l0, l1, l2, xl0, xl1, nano, nano-outlier or nano-hard; may be repeated. [nano, nano-hard]",
)
@click.option("--weights", type=click.Path(), help="A .pt or .safetensors file; needs exactly one --model.")
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    default=("int8", "mix-dwsc", "mix-mbc-neck"),
    help="A name, a TOML file, or a line like int8@stage3:2:2; may be repeated. [int8, mix-dwsc, mix-mbc-neck]",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="pytorch (simulates), onnxruntime, openvino or tensorrt; may be repeated. [first three, if installed]",
)
@click.option("--calibration", help="Calibration images for all models. [nano: scenes]")
@click.option("--device", default="cpu", show_default=True, help="Device on which PyTorch computes.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port to listen on; 0: any free port.",
)
@click.option(
    "--max-mb",
    type=click.FloatRange(0, 1000, min_open=True),
    default=20,
    show_default=True,
    help="Largest image file, in MB.",
)
@click.option(
    "--max-pixels", type=click.IntRange(1), default=24_000_000, show_default=True, help="Largest image, in pixels."
)
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    weights: str | None,
    schemes: tuple[str, ...],
    engines: tuple[str, ...],
    calibration: str | None,
    device: str,
    host: str,
    port: int,
    max_mb: float,
    max_pixels: int,
) -> None:
    """Open a local page: drop an image, drag a box, and see FP32's masks beside those of quantized models.

    Everything stays on this machine, and the page needs no network. Press Ctrl-C to stop it.
    """
    if weights is not None and len(models) != 1:
        raise click.UsageError(f"--weights are of one --model, got {len(models)}: name it with --model")
    need_extra("app", "starlette", "uvicorn")
    from quantsam.app.limits import Limits
    from quantsam.app.listen import allowed_hosts, is_loopback, open_socket, serve, url
    from quantsam.app.server import Page

    with open_socket(host, port) as listener:  # before the models: a port that is taken is the more likely problem
        catalogue = _catalogue(models, weights, schemes, engines, calibration, device)
        limits = Limits(upload_bytes=int(max_mb * 1e6), pixels=max_pixels)
        debug = bool((ctx.obj or {}).get("debug"))
        page = Page(catalogue, limits, debug=debug)
        if not is_loopback(listener):
            click.echo(
                f"quantsam: warning: on {host} everyone who can reach this machine can use the page: "
                "there is no password",
                err=True,
            )
        hosts, any_address = allowed_hosts(host, listener)
        try:
            line = f"quantsam app at {url(host, listener)} (Ctrl-C ends it)"
            serve(
                page.app(hosts, any_address=any_address),
                listener,
                on_start=lambda: click.echo(line),
                on_stop=page.worker.stopping.set,
                debug=debug,
            )
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
        finally:
            page.worker.stop()


def _catalogue(
    models: tuple[str, ...],
    weights: str | None,
    schemes: tuple[str, ...],
    engines: tuple[str, ...],
    calibration: str | None,
    device: str,
) -> Catalogue:
    from quantsam.app.catalogue import Catalogue
    from quantsam.models.variants import get_variant
    from quantsam.runs.run import open_calibration, open_model
    from quantsam.runs.sources import CalibrationSource, ModelSource
    from quantsam.runtime.engines import PYTORCH, check_engine, installed_engines

    engines = tuple(dict.fromkeys(engines)) or (PYTORCH, *installed_engines())
    for engine in engines:
        check_engine(engine)
    declared = _schemes(schemes)
    names = tuple(dict.fromkeys(get_variant(model).name for model in models))
    sources = {name: open_calibration(CalibrationSource(spec=calibration), name) for name in names} if declared else {}
    loaded = {name: open_model(ModelSource(name=name, weights=weights, device=device)) for name in names}
    catalogue = Catalogue(loaded, declared, engines, sources)
    catalogue.check()
    return catalogue


def _schemes(sources: tuple[str, ...]) -> dict[str, Scheme]:
    """Return schemes by name, except schemes without rules: they are FP32, which is always shown."""
    from quantsam.schemes.load import load_scheme

    found: dict[str, Scheme] = {}
    for source in dict.fromkeys(sources):
        scheme = load_scheme(source)
        if scheme.rules and found.setdefault(scheme.name, scheme) is not scheme:
            raise click.UsageError(f"two schemes have the name {scheme.name!r}: give them different ones")
    return found
