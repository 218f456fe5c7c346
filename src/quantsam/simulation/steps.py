"""An encoder as a chain of steps, one per layer. Encoders that differ in a few layers share the steps before these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from quantsam.models.blocks import LinearAttention
from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Attention, Block, Chain
from quantsam.models.structure import structure_of


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The tensors that one step passes to the next.

    Attributes:
        x: (N, C, H, W), the last layer's output.
        shortcut: Input of the current block, if it will be added.
        kept: Outputs of finished stages that the neck needs, with their stage.
    """

    x: Tensor
    shortcut: Tensor | None = None
    kept: tuple[tuple[int, Tensor], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step.

    Attributes:
        paths: Paths of the encoder's modules that the step runs.
        run: Maps the state before the step to the state after it.
    """

    paths: tuple[str, ...]
    run: Callable[[State], State]

    def owns(self, path: str) -> bool:
        """Return whether a module is part of the step."""
        return any(path == own or path.startswith(f"{own}.") for own in self.paths)


def encoder_steps(encoder: ImageEncoder) -> list[Step]:
    """Return the steps of an encoder. Run in order, they compute the same as the encoder, bit for bit."""
    structure, neck = structure_of(encoder), encoder.neck
    steps: list[Step] = []
    for index, blocks in enumerate(structure.stages):
        for block in blocks:
            steps += _block_steps(encoder, block)
        if index in neck.stages:
            steps[-1] = _then(steps[-1], _keep(index))
    steps.append(Step(tuple(f"neck.input_ops.{i}" for i in range(len(neck.input_ops))), _neck_inputs(encoder)))
    for block in structure.neck_middle:
        steps += _block_steps(encoder, block)
    steps.append(Step(("neck.output_ops.0", "norm"), lambda s: State(encoder.norm(neck.output_ops[0](s.x)))))
    return steps


def run_steps(steps: Iterable[Step], state: State) -> State:
    """Run steps in order."""
    for step in steps:
        state = step.run(state)
    return state


class SharedEncoders:
    """A base encoder and variants of it that differ in a few modules.

    A variant starts from the base's values where it first differs, and runs its own modules only where they differ. Its
    result is bit for bit the result of its own encoder.
    """

    def __init__(self, base: ImageEncoder, variants: Sequence[tuple[ImageEncoder, Iterable[str]]]) -> None:
        """Take encoders.

        Args:
            base: The encoder that all variants are compared with.
            variants: Encoders, each with the paths of the sites, or modules with a weight, that may differ from the
                base.
        """
        self._base = encoder_steps(base)
        self._starts: list[int] = []
        self._chains: list[list[Step]] = []
        for encoder, paths in variants:
            first, last = self._extent(paths)
            own = encoder_steps(encoder)[first : last + 1]
            self._starts.append(first)
            self._chains.append([*own, *self._base[last + 1 :]])

    def _extent(self, paths: Iterable[str]) -> tuple[int, int]:
        """Return the first and last step that may differ; with look-ups, a rounded input belongs to the step before."""
        owners = {next(i for i, step in enumerate(self._base) if step.owns(path)) for path in paths}
        if not owners:
            return len(self._base), len(self._base)
        return max(min(owners) - 1, 0), min(max(owners) + 1, len(self._base) - 1)

    def tasks(self, image: Tensor, wanted: Sequence[int]) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yield a function that computes the embedding, for the base (-1) and each wanted variant.

        The functions come in the order in which they start. Only one state of the base is alive besides those that the
        caller still holds, so calling each function as it comes takes little memory.

        Args:
            image: (1, 3, S, S), normalized.
            wanted: Numbers of the wanted variants.
        """
        state = State(image)
        for position in range(len(self._base) + 1):
            for index in wanted:
                if self._starts[index] == position:
                    yield index, _Rest(self._chains[index], state)
            if position < len(self._base):
                state = self._base[position].run(state)
        yield -1, _Rest([], state)


@dataclass(frozen=True, slots=True, eq=False)
class _Rest:
    """The remaining steps and the state they start from."""

    steps: Sequence[Step]
    state: State

    def __call__(self) -> Tensor:
        return run_steps(self.steps, self.state).x


def _block_steps(encoder: ImageEncoder, block: Block) -> Iterator[Step]:
    for part in block.parts:
        steps = list(_part_steps(encoder, part))
        if part.shortcut:
            steps[0] = _with_shortcut(encoder, part.shortcut_site, steps[0])
            steps[-1] = _then(steps[-1], _add)
        yield from steps


def _part_steps(encoder: ImageEncoder, part: Chain | Attention) -> Iterator[Step]:
    if isinstance(part, Chain):
        for conv in part.convolutions:
            yield Step((conv.path,), _apply(encoder.get_submodule(conv.path)))
        return
    attention = encoder.get_submodule(part.main)
    assert isinstance(attention, LinearAttention)
    branches = (conv.path for branch in part.branches for conv in branch)
    yield Step((part.qkv.path, *branches), lambda s: replace(s, x=attention.project(s.x)))
    yield Step((part.core,), _apply(encoder.get_submodule(part.core)))
    yield Step((part.proj.path,), _apply(encoder.get_submodule(part.proj.path)))


def _neck_inputs(encoder: ImageEncoder) -> Callable[[State], State]:
    def run(state: State) -> State:
        return State(encoder.neck.gather(dict(state.kept)))

    return run


def _apply(module: nn.Module) -> Callable[[State], State]:
    return lambda state: replace(state, x=module(state.x))


def _add(state: State) -> State:
    assert state.shortcut is not None
    return replace(state, x=state.x + state.shortcut, shortcut=None)


def _keep(index: int) -> Callable[[State], State]:
    return lambda state: replace(state, kept=(*state.kept, (index, state.x)))


def _then(step: Step, following: Callable[[State], State]) -> Step:
    return Step(step.paths, lambda state: following(step.run(state)))


def _with_shortcut(encoder: ImageEncoder, site: str, step: Step) -> Step:
    """Return a step that also keeps its input, rounded by the shortcut's site, to add it to the block's output."""
    module = encoder.get_submodule(site)
    return Step((site, *step.paths), lambda state: step.run(replace(state, shortcut=module(state.x))))
