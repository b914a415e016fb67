"""Evaluation of networks that begin alike: what several of them compute of a batch is computed once.

Two layers give the same if they are layers of the same type with the same attributes, the same parameters, equal
buffers, and the same inputs. So choices of threads that differ late in a network share everything before, the
recalibrated BatchNorm statistics included, which are equal until the first layer that differs.
"""

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, fx, nn

from bnrecal.nbsmt.float_conv import forward
from bnrecal.quantization.fused import Ended, FusedNetwork
from bnrecal.quantization.intercept import ConvInterceptor

log = logging.getLogger("bnrecal")
K = TypeVar("K")
KEPT_BYTES = 256_000_000  # of all results that are kept for a later network; what does not fit is computed again
_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, type(None))


@dataclass(frozen=True)
class _Kept:
    """A node's result, and for a fused chain what its readers ask of it besides.

    Attributes:
        version: of the tensor then; another one says that it was written to since.
    """

    value: Tensor
    version: int
    finite: bool
    made: Tensor | None

    @property
    def bytes(self) -> int:
        return self.value.nbytes + (0 if self.made is None else self.made.nbytes)


class SharedNetworks:
    """Traced networks on a processor, evaluated one after another on each batch.

    Args:
        networks: in eval mode, from `fuse`; they compute without random numbers, and buffers are read now.
    """

    def __init__(self, networks: Sequence[fx.GraphModule]) -> None:
        numbers: dict[Hashable, int] = {}
        passes = [_Pass(network, numbers) for network in networks]
        # Networks that begin alike come one after another, so that little is kept, and not for long.
        self.order = sorted(range(len(passes)), key=lambda place: passes[place].sequence)
        self.passes = passes
        self.takers = self._count_takers()

    def __call__(self, images: Tensor) -> Iterator[tuple[int, Any]]:
        """Yield each network's place and its logits, networks that begin alike next to each other."""
        kept = _Results(self.takers)
        for place in self.order:
            yield place, forward(partial(self.passes[place].run_on, results=kept), images)

    def _count_takers(self) -> Counter[int]:
        """Return how many networks take a node's result from another one, by the node's number."""
        takers: Counter[int] = Counter()
        made: set[int] = set()
        for place in self.order:
            own = self.passes[place]
            needed, taken = own.needed(made)
            takers.update(own.numbers[node] for node in taken)
            made |= {own.numbers[node] for node in needed}
        return takers


class _Results:
    """Results of one batch that later networks take.

    Args:
        takers: how many take each, by the node's number.
    """

    def __init__(self, takers: Counter[int]) -> None:
        self.left = Counter(takers)
        self.kept: dict[int, _Kept] = {}
        self.bytes = 0

    def keep(self, number: int, result: _Kept) -> None:
        """Keep a result if anybody takes it and there is room."""
        if self.left[number] and number not in self.kept and self.bytes + result.bytes <= KEPT_BYTES:
            self.kept[number] = result
            self.bytes += result.bytes

    def usable(self) -> set[int]:
        """Return the numbers of what is kept and was not written to since."""
        return {number for number, result in self.kept.items() if result.value._version == result.version}

    def take(self, number: int) -> _Kept:
        """Return a result, and keep it no longer than there are takers."""
        result = self.kept[number]
        self.left[number] -= 1
        if self.left[number] == 0:
            del self.kept[number]
            self.bytes -= result.bytes
        return result


class _Pass(fx.Interpreter):
    """A network's pass that begins where results of others end.

    Args:
        numbers: of all that the networks before compute, by what determines it; this one's are added.

    Attributes:
        numbers: of each node; equal ones give equal results.
    """

    def __init__(self, network: fx.GraphModule, numbers: dict[Hashable, int]) -> None:
        super().__init__(network)
        self.extra_traceback = False  # errors are the user's to read
        self.nodes = list(network.graph.nodes)
        self.numbers: dict[fx.Node, int] = {}
        for node in self.nodes:
            self.numbers[node] = numbers.setdefault(self._key(node), len(numbers))
        self.sequence = [self.numbers[node] for node in self.nodes]
        self.results = _Results(Counter())

    def needed(self, made: set[int]) -> tuple[list[fx.Node], list[fx.Node]]:
        """Return the nodes that have to run, and those whose results they take, where some numbers are made already."""
        wanted = {node for node in self.nodes if node.op in ("placeholder", "output")}
        running = []
        taken = []
        for node in reversed(self.nodes):
            if node not in wanted:
                continue
            if self.numbers[node] in made and node.op not in ("placeholder", "output"):
                taken.append(node)
                continue
            running.append(node)
            wanted.update(node.all_input_nodes)
        return running, taken

    def run_on(self, images: Tensor, results: _Results) -> Any:
        """Return the logits; take from `results` what is there, and keep there what others take."""
        running, taken = self.needed(results.usable())
        known: dict[fx.Node, Any] = dict.fromkeys(set(self.nodes).difference(running))  # which run leaves out
        for node in taken:
            result = results.take(self.numbers[node])
            known[node] = result.value
            ended = self._ended(node)
            if ended is not None:
                ended.result.finite = result.finite
                ended.result.made = result.made
                ended.result.taken = 0
        self.results = results
        try:
            return self.run(images, initial_env=known)
        finally:
            self.results = _Results(Counter())
            self.env: dict[fx.Node, Any] = {}
            self._forget_levels()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and keep its result if another network takes it."""
        value = super().run_node(n)
        computed = n.op in ("call_module", "call_function", "call_method")
        if computed and isinstance(value, Tensor) and not value.is_inference():  # writes to those are not counted
            ended = self._ended(n)
            finite, made = (False, None) if ended is None else (ended.result.finite, ended.result.made)
            self.results.keep(self.numbers[n], _Kept(value, value._version, finite, made))
        return value

    def _forget_levels(self) -> None:
        """Free levels whose takers did not run."""
        for module in self.submodules.values():
            if isinstance(module, Ended):
                module.result.made = None

    def _ended(self, node: fx.Node) -> Ended | None:
        module = self.submodules.get(str(node.target)) if node.op == "call_module" else None
        return module if isinstance(module, Ended) else None

    def _key(self, node: fx.Node) -> Hashable:
        """Return what determines a node's result, given the numbers of the nodes before."""
        arguments = _frozen((node.args, node.kwargs), self.numbers)
        if node.op == "call_module":
            return (node.op, module_key(self.submodules[str(node.target)]), arguments)
        if node.op == "get_attr":
            return (node.op, _frozen(self.fetch_attr(str(node.target))))
        what = node.target if node.op in ("call_function", "call_method") else ""
        return (node.op, what, arguments)


def module_key(module: nn.Module) -> Hashable:
    """Return what determines a module's result, given its input: equal for copies that share their parameters.

    Whatever is not known to be a plain value is known by its identity, so that keys differ rather than agree wrongly.
    Keys hold while the modules live and stay as they are.
    """
    if isinstance(module, Ended):
        end = module.end
        parts = (None if part is None else module_key(part) for part in (module.conv, module.norm, module.pool))
        return (Ended, *parts, end.lowest, end.highest, end.levels, end.beside)
    return (type(module), _frozen(vars(module)))


def _frozen(value: object, numbers: Mapping[fx.Node, int] = MappingProxyType({})) -> Hashable:
    """Return a hashable value that is equal for what computes alike.

    Args:
        numbers: that nodes within the value are known by.
    """
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if isinstance(value, fx.Node):
        return (fx.Node, numbers[value])
    if isinstance(value, nn.Parameter):
        return (nn.Parameter, id(value))
    if isinstance(value, Tensor):
        return (Tensor, value.dtype, value.shape, value.stride(), value.detach().contiguous().numpy().tobytes())
    if isinstance(value, nn.Module):
        return module_key(value)
    if isinstance(value, ConvInterceptor):
        return (ConvInterceptor, value.strict, id(value.handler))
    if isinstance(value, Mapping):
        return (dict, tuple((key, _frozen(part, numbers)) for key, part in value.items() if key != "extra_repr"))
    if isinstance(value, list | tuple):
        return (type(value), tuple(_frozen(part, numbers) for part in value))
    if isinstance(value, slice):
        return (slice, _frozen((value.start, value.stop, value.step), numbers))
    if isinstance(value, set | frozenset) and not value:
        return (type(value),)
    return (object, id(value))


class EvaluatedNetworks(Generic[K]):
    """Networks in evaluation: each as `FusedNetwork` has it, and from the third batch on what begins alike once.

    On the second batch the shared passes are compared with each network's own, as `FusedNetwork` compares its form
    (which networks that draw random numbers never pass).

    Args:
        networks: in eval mode, on one device; they stay as they are meanwhile.
    """

    def __init__(self, networks: Mapping[K, nn.Module]) -> None:
        self.names = list(networks)
        self.each = [FusedNetwork(network) for network in networks.values()]
        self.shared: SharedNetworks | None = None
        self.batches = 0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Iterator[tuple[K, Any]]:
        """Yield each network's name and its logits, in any order."""
        self.batches += 1
        if self.shared is not None:
            for place, logits in self.shared(images):
                yield self.names[place], logits
            return
        own = []
        for name, network in zip(self.names, self.each, strict=True):
            own.append(forward(network, images))
            yield name, own[-1]
        if self.batches == 2 and images.device.type == "cpu":
            self.shared = self._compared(images, own)

    def _compared(self, images: Tensor, own: Sequence[Any]) -> SharedNetworks | None:
        """Return the shared passes if networks have something in common, and their logits by these are their own."""
        fused = [network.fused for network in self.each if isinstance(network.fused, fx.GraphModule)]
        if len(fused) < max(2, len(self.each)):
            return None
        shared = SharedNetworks(fused)
        if not shared.takers:
            return None
        if all(torch.equal(logits, own[place]) for place, logits in shared(images)):
            return shared
        log.warning("evaluation goes on network by network: what networks have in common gives other logits")
        return None
