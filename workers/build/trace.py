"""Any module cut into a row of layers: its computation is traced, and split where its blocks begin."""

from __future__ import annotations

import logging
import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, Node

from dni.errors import PartitionError
from dni.named_tensors import Value

#: Layers that compute something else in evaluation, which a trace does not know.
_MODES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.modules.batchnorm._BatchNorm)


class TracedPart(nn.Module):
    """One part of a traced module: takes and returns the tensors that it or a later part needs.

    Args:
        part: the computation, of the sizes it was traced with.
        takes: names of its arguments, in order.
        gives: names of its results.
        entering: names of the tensors that come in; of a single one, its name.
        leaving: names of the tensors that go on; a single one goes on as a tensor.
    """

    def __init__(
        self, part: nn.Module, takes: list[str], gives: list[str], entering: list[str], leaving: list[str]
    ) -> None:
        super().__init__()
        self.part, self.takes, self.gives, self.entering, self.leaving = part, takes, gives, entering, leaving

    def forward(self, x: Value) -> Value:
        known: dict[str, Tensor] = {self.entering[0]: x} if isinstance(x, Tensor) else dict(x)
        found = self.part(*[known[name] for name in self.takes])
        known.update(zip(self.gives, found if isinstance(found, tuple | list) else (found,), strict=True))
        leaving = {name: known[name] for name in self.leaving}
        return leaving[self.leaving[0]] if len(leaving) == 1 else leaving


def trace(module: nn.Module, example: Tensor) -> nn.Sequential:
    """Return the module as a row of `TracedPart`s, one for each of its blocks, by `torch.distributed.pipelining`.

    A block is a child of the module, or a child of its longest list of modules. Sizes are those of `example` from then
    on. Raises PartitionError for a module that cannot be traced, or that computes something else in evaluation.
    """
    _refuse_modes(module)
    names = block_names(module)
    graph, parts = _split(module, example, names)
    _tie(module, parts.values())
    return nn.Sequential(OrderedDict(_rows(graph, parts, names)))


def block_names(module: nn.Module) -> list[str]:
    """Return the dotted names of the blocks before which a module can be cut, in the order of their definition."""
    lists = [(name, each) for name, each in module.named_modules() if isinstance(each, nn.ModuleList | nn.Sequential)]
    if not lists:
        return [name for name, _ in module.named_children()]
    name, longest = max(lists, key=lambda pair: len(pair[1]))
    return [f"{name}.{each}" if name else each for each, _ in longest.named_children()]


def _refuse_modes(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, _MODES) and getattr(layer, "p", True):
            raise PartitionError(
                f"{name} ({type(layer).__name__}) computes something else in evaluation, which a traced model cannot: "
                "set its probability to 0, or give the model as an ordered list of parts"
            )


def _split(module: nn.Module, example: Tensor, names: list[str]) -> tuple[Graph, dict[str, nn.Module]]:
    from torch.distributed.pipelining import SplitPoint, pipeline  # slow to import

    logging.getLogger("torch.distributed.pipelining").setLevel(logging.ERROR)
    try:
        pipe = pipeline(module, mb_args=(example,), split_spec=dict.fromkeys(names, SplitPoint.BEGINNING))
    except Exception as error:  # whatever the tracer and the module raise
        first = " ".join(str(error).split())[:300]
        raise PartitionError(
            f"{type(module).__name__} cannot be traced ({type(error).__name__}: {first}): give it as an ordered list "
            "of parts"
        ) from error
    return pipe.split_gm.graph, dict(pipe.split_gm.named_children())


def _tie(module: nn.Module, parts: Iterable[nn.Module]) -> None:
    """Make one parameter of those that are one in the module: the tracer gives each of their users its own."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    first = {name: tied[0] for tied in names.values() for name in tied if len(tied) > 1}
    shared: dict[str, nn.Parameter] = {}
    for part in parts:
        for name, parameter in [*part.named_parameters(remove_duplicate=False)]:
            if name in first:
                holder, _, own = name.rpartition(".")
                setattr(part.get_submodule(holder), own, shared.setdefault(first[name], parameter))


def _rows(graph: Graph, parts: dict[str, nn.Module], names: list[str]) -> Iterator[tuple[str, TracedPart]]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    wanted = [_names_of(node.args) for node in calls] + [_answer(graph)]
    entering = [node.name for node in graph.nodes if node.op == "placeholder"]
    for place, node in enumerate(calls):
        gives = _results(node)
        later = {name for each in wanted[place + 1 :] for name in each}
        leaving = [name for name in dict.fromkeys([*entering, *gives]) if name in later]
        part = TracedPart(parts[str(node.target)], wanted[place], gives, entering, leaving)
        yield _part_name(place, len(calls), names), part
        entering = leaving


def _part_name(place: int, count: int, names: list[str]) -> str:
    """Return the name of the block that begins a part; what comes before the first block is `start`."""
    starts = ["start"] * (count - len(names)) + names
    return starts[place].replace(".", "_")


def _names_of(arguments: Any) -> list[str]:
    if not all(isinstance(each, Node) for each in arguments):
        raise PartitionError(
            f"the traced parts exchange {arguments}, where only tensors can cross: give an ordered list of parts"
        )
    return [each.name for each in arguments]


def _answer(graph: Graph) -> list[str]:
    (output,) = (node for node in graph.nodes if node.op == "output")
    found = output.args[0]
    found = list(found) if isinstance(found, tuple | list) else [found]
    if len(found) != 1 or not isinstance(found[0], Node):
        raise PartitionError("a traced model must return one tensor, its scores: wrap it in a module that does")
    return [found[0].name]


def _results(call: Node) -> list[str]:
    """Return the names of what a part returns: one tensor, or a tuple of which each is fetched."""
    fetched: dict[Any, str] = {user.args[1]: user.name for user in call.users if user.target is operator.getitem}
    if not fetched:
        return [call.name]
    return [fetched.get(n, f"{call.name}_{n}") for n in range(max(fetched) + 1)]


def is_traced(module: nn.Module) -> bool:
    """Return whether some of its sizes are fixed."""
    return any(isinstance(layer, TracedPart) for layer in module.modules())
