"""Chains in a network's graph: BatchNorm with what stands before and after it, so that one pass can do them all."""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bnrecal.quantization.intercept import ConvInterceptor

RELU, RELU6 = (0.0, math.inf), (0.0, 6.0)
_CLAMPS: dict[Any, tuple[float, float]] = {
    nn.ReLU: RELU,
    nn.ReLU6: RELU6,
    F.relu: RELU,
    F.relu_: RELU,
    torch.relu: RELU,
    torch.relu_: RELU,
    "relu": RELU,
    "relu_": RELU,
    F.relu6: RELU6,
}
_ADDITIONS = (operator.add, torch.add, "add")
_ADDITIONS_IN_PLACE = (operator.iadd, "add_")


@dataclass(frozen=True)
class Chain:
    """Nodes of a graph that stand next to each other, of which each but the last is read by the next alone.

    Attributes:
        nodes: a convolution or not, BatchNorm, an addition or not, a clamp or not, max-pooling or not.
        conv: the convolution, None where another layer or other readers stand between.
        norm: the BatchNorm.
        source: what the first node reads.
        residual: what is added.
        lowest, highest: of the clamp; infinite without.
        pool: the max-pooling, None where there is none, or where a quantized convolution or an addition begins.
    """

    nodes: tuple[fx.Node, ...]
    conv: nn.Conv2d | None
    norm: nn.BatchNorm2d
    source: fx.Node
    residual: fx.Node | None
    lowest: float
    highest: float
    pool: nn.MaxPool2d | None = None


def find_chains(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> list[Chain]:
    """Return every chain of a graph, in its order.

    Args:
        modules: of the network that was traced, by name.
    """
    nodes = list(graph.nodes)
    chains = (_chain_at(nodes, place, modules) for place in range(len(nodes)))
    return [chain for chain in chains if chain is not None]


def _chain_at(nodes: list[fx.Node], place: int, modules: Mapping[str, nn.Module]) -> Chain | None:
    """Return the chain of the BatchNorm at a place; None where none stands there, or one that cannot be fused."""
    norm = _module_called(nodes[place], modules)
    if not isinstance(norm, nn.BatchNorm2d) or not is_usual_norm(norm):
        return None
    first = last = place
    source = nodes[place].args[0]
    assert isinstance(source, fx.Node)
    conv = _module_called(source, modules)
    if source is nodes[place - 1] and len(source.users) == 1 and isinstance(conv, nn.Conv2d) and is_usual_conv(conv):
        first = place - 1
        source = source.args[0]
        assert isinstance(source, fx.Node)
    else:
        conv = None
    residual = None
    after = _only_reader(nodes, last)
    if after is not None:
        residual = _residual(after, nodes[last])
        if residual is not None:
            last += 1
            after = _only_reader(nodes, last)
    clamp = None if after is None else _clamp(after, nodes[last], modules)
    if clamp is not None:
        last += 1
    lowest, highest = clamp or (-math.inf, math.inf)
    pool = None
    if residual is None and (conv is None or "forward" not in vars(conv)):
        after = _only_reader(nodes, last)
        pool = None if after is None else _pool(after, modules)
    if pool is not None:
        last += 1
    return Chain(tuple(nodes[first : last + 1]), conv, norm, source, residual, lowest, highest, pool)


def is_usual_norm(norm: nn.BatchNorm2d) -> bool:
    """Return whether a layer is torch's own BatchNorm in eval mode, all float32, with running statistics."""
    tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    plain = type(norm) is nn.BatchNorm2d and "forward" not in vars(norm) and not norm.training
    if not plain or norm.running_mean is None or norm.running_var is None:
        return False
    return all(tensor is None or tensor.dtype == torch.float32 for tensor in tensors)


def is_usual_conv(conv: nn.Conv2d) -> bool:
    """Return whether a module returns what its one `conv2d` call gives, fresh memory that nobody else holds."""
    own = type(conv).forward is nn.Conv2d.forward and type(conv)._conv_forward is nn.Conv2d._conv_forward
    forward = vars(conv).get("forward")
    return own and (forward is None or isinstance(forward, ConvInterceptor))


def _module_called(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """Return the module that a node calls with one value; None for other nodes."""
    if node.op != "call_module" or node.kwargs or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
        return None
    return modules[str(node.target)]


def _only_reader(nodes: list[fx.Node], place: int) -> fx.Node | None:
    """Return the next node if it alone reads this one."""
    if place + 1 == len(nodes) or list(nodes[place].users) != [nodes[place + 1]]:
        return None
    return nodes[place + 1]


def _residual(node: fx.Node, before: fx.Node) -> fx.Node | None:
    """Return what a node adds to the value of the node before it; None if it does something else."""
    in_place = node.target in _ADDITIONS_IN_PLACE
    if not (in_place or node.target in _ADDITIONS) or node.kwargs or len(node.args) != 2:
        return None
    first, second = node.args
    if first is second or (in_place and first is not before):  # `other += x` changes what others may read
        return None
    other = second if first is before else first
    return other if isinstance(other, fx.Node) else None


def _clamp(node: fx.Node, before: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[float, float] | None:
    """Return the bounds of a ReLU or ReLU6 of the value of the node before it; None if it does something else."""
    what: Any = node.target
    if node.op == "call_module":
        module = modules[str(node.target)]
        what = None if "forward" in vars(module) else type(module)
    options = [*node.args[1:], *node.kwargs.values()]  # inplace
    if not node.args or node.args[0] is not before or not all(isinstance(option, bool) for option in options):
        return None
    return _CLAMPS.get(what)


def _pool(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.MaxPool2d | None:
    """Return the max-pooling that a node is, without gaps in its windows or windows cut off; None for others."""
    pool = _module_called(node, modules)
    if type(pool) is not nn.MaxPool2d or "forward" in vars(pool):
        return None
    return pool if pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices else None


class Tracer(fx.Tracer):
    """Takes convolutions and BatchNorm of any class as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm)
        return isinstance(m, kinds) or super().is_leaf_module(m, module_qualified_name)


class Untraceable(Exception):
    """A network's forward is no fixed graph; the message says why."""


def trace(network: nn.Module) -> fx.Graph:
    """Return the graph of a network in the mode it is in; the network is as before.

    Raises:
        Untraceable: if its forward depends on more than the images, or does more than to compute from them.
    """
    for name, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise Untraceable(f"hooks on {name or 'the network'}")
        if module._compiled_call_impl is not None:
            raise Untraceable(f"{name or 'the network'} is compiled")
    attributes = {module: dict(vars(module)) for module in network.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        graph = Tracer().trace(network)
    except Exception as error:  # whatever the network's own code raises when it gets a stand-in for images
        raise Untraceable(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
    finally:
        changed = _restore(attributes, buffers)
    if changed:
        raise Untraceable("its forward changes its own attributes or buffers")
    return graph


def _restore(attributes: dict[nn.Module, dict[str, Any]], buffers: list[tuple[Tensor, Tensor]]) -> bool:
    """Give modules the attributes and buffers that they had; return whether any had changed."""
    changed = False
    for module, before in attributes.items():
        now = vars(module)
        if now.keys() != before.keys() or any(now[name] is not value for name, value in before.items()):
            changed = True
            now.clear()
            now.update(before)
    for buffer, value in buffers:
        if not torch.equal(buffer, value):
            changed = True
            buffer.copy_(value)
    return changed
