"""Stand in for the `conv2d` call that a convolution module makes, whatever else its own `forward` does.

Subclasses of `nn.Conv2d` pad ("same" convolutions), reshape or rescale around the actual product. Replacing the
module would lose that, and would miss modules that are shared, kept in plain lists or called by name. So the
module stays where it is: its instance attribute `forward` becomes a `ConvInterceptor`, which runs the class's own
`forward` and hands the one `conv2d` call inside it to a handler.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.float_conv import conv2d
from bnrecal.nbsmt.geometry import Geometry, Pair, as_pair

Handler = Callable[["ConvCall"], Tensor]


@runtime_checkable
class Describes(Protocol):
    """A handler that has something to say in the `print` of a network."""

    def describe(self) -> str: ...


OTHER_CONVOLUTIONS = {
    torch.conv1d: "conv1d",
    torch.conv3d: "conv3d",
    torch.conv_transpose1d: "conv_transpose1d",
    torch.conv_transpose2d: "conv_transpose2d",
    torch.conv_transpose3d: "conv_transpose3d",
}


@dataclass(frozen=True)
class ConvCall:
    """The arguments of one `conv2d` call, with numeric symmetric padding.

    Attributes:
        x: float32 (N, C, H, W).
        weight: float32 (O, C/groups, kh, kw).
        bias: float32 (O,) or None.
        end: what follows the convolution and is to be answered with it; of a handler that knows how.
        checked: whether x is known to be finite, or what the handler's own quantizer makes of finite activations: uint8
            levels, or int8 if they are signed.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    end: ConvEnd | None = None
    checked: bool = False

    def run(self) -> Tensor:
        """Return the float32 convolution as the module asked for it, the same on any number of cores."""
        return conv2d(self.x, self.weight, self.bias, **vars(self.geometry))


def conv_modules(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Every `nn.Conv2d` (subclasses included) by its first name in the network; shared modules once."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


class ConvInterceptor:
    """Takes the place of `conv.forward`; `handler` computes the convolution itself.

    Attributes:
        strict: insist on exactly one `conv2d` call in each forward.
    """

    def __init__(self, conv: nn.Conv2d, name: str, handler: Handler, strict: bool = True) -> None:
        self.conv = conv
        self.name = name
        self.handler = handler
        self.strict = strict
        self._geometry: tuple[tuple[object, ...], Geometry] | None = None  # of the last direct call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own forward, with its `conv2d` call answered by the handler.

        Raises:
            BnrecalError: if `strict` and that forward does not make exactly one `conv2d` call on a batch of images.
        """
        calls = 0

        def answer(call: ConvCall) -> Tensor:
            nonlocal calls
            calls += 1
            return self.handler(call)

        with _Intercept(answer):
            output = type(self.conv).forward(self.conv, *args, **kwargs)
        if self.strict and calls != 1:
            raise BnrecalError(
                f"the convolution {self.name} ({type(self.conv).__name__}) makes {calls} conv2d calls in one forward, "
                f"not 1, and cannot be quantized: leave it in float32 with quant.skip=[{self.name}]"
            )
        return output

    def run_to_end(self, x: Tensor, end: ConvEnd | None, *, checked: bool) -> Tensor:
        """Return what the module returns, with what follows it: where its forward is that of `nn.Conv2d`.

        Args:
            end: what follows, None for nothing.
            checked: as in `ConvCall`.
        """
        conv = self.conv
        if x.dim() == 4 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            # what that forward would call, without the way through torch: 100 microseconds of it where caches are cold
            with torch._C.DisableTorchFunction():
                return self.handler(ConvCall(x, conv.weight, conv.bias, self.plain_geometry(), end, checked))

        def answer(call: ConvCall) -> Tensor:
            return self.handler(replace(call, end=end, checked=checked))

        with _Intercept(answer):
            output: Tensor = type(conv).forward(conv, x)
        return output

    def plain_geometry(self) -> Geometry:
        """Return the module's geometry, kept while its attributes stay what they are; its padding is numeric."""
        conv = self.conv
        attributes = (conv.stride, conv.padding, conv.dilation, conv.groups)
        if self._geometry is None or self._geometry[0] != attributes:
            pairs = (as_pair("stride", conv.stride, 1), as_pair("padding", conv.padding, 0))
            self._geometry = (attributes, Geometry(*pairs, as_pair("dilation", conv.dilation, 1), conv.groups))
        return self._geometry[1]

    def extra_repr(self) -> str:
        """Return what `print` shows in the module's brackets: its own words, and the handler's."""
        own: str = type(self.conv).extra_repr(self.conv)  # type: ignore[no-untyped-call]
        return f"{own}, {self.handler.describe()}" if isinstance(self.handler, Describes) else own


def handlers(network: nn.Module) -> dict[str, Handler]:
    """Return what `attach` attached, by the name of the convolution."""
    forwards = {name: vars(conv).get("forward") for name, conv in conv_modules(network).items()}
    return {name: forward.handler for name, forward in forwards.items() if isinstance(forward, ConvInterceptor)}


def attach(network: nn.Module, handlers: dict[str, Handler], strict: Callable[[str], bool] = lambda _: True) -> None:
    """Let each named convolution of the network be computed by its handler."""
    convs = conv_modules(network)
    for name, handler in handlers.items():
        # an instance attribute shadows the class's method for every caller, however it reached the module
        interceptor = ConvInterceptor(convs[name], name, handler, strict(name))
        vars(convs[name]).update(forward=interceptor, extra_repr=interceptor.extra_repr)


def detach(network: nn.Module) -> None:
    """Give every convolution of the network its own forward back."""
    for conv in conv_modules(network).values():
        vars(conv).pop("forward", None)
        vars(conv).pop("extra_repr", None)


@contextmanager
def attached(
    network: nn.Module, handlers: dict[str, Handler], strict: Callable[[str], bool] = lambda _: True
) -> Iterator[None]:
    """`attach` for the length of a block."""
    attach(network, handlers, strict)
    try:
        yield
    finally:
        detach(network)


@contextmanager
def no_stray_convolutions(network: nn.Module, allowed: Callable[[str], bool]) -> Iterator[None]:
    """Raise at a convolution that no `ConvInterceptor` answers, unless `allowed` says yes to its weight's name.

    An allowed one is named in a warning: figures that count convolutions leave it out.

    Raises:
        BnrecalError: naming the weight of a `conv2d` called outside any `nn.Conv2d`, or of a one- or
            three-dimensional or transposed convolution.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}

    def check(what: str, weight: Tensor) -> None:
        name = names.get(id(weight), f"of shape {tuple(weight.shape)}")
        if not allowed(name.removesuffix(".weight")):
            skip = name.removesuffix(".weight")
            raise BnrecalError(
                f"the network calls {what} with the weight {name} outside any nn.Conv2d, which cannot be "
                f"quantized: make it an nn.Conv2d, or leave it in float32 with quant.skip=[{skip}]"
            )
        warn_once(
            f"{what} with the weight {name} stays float32 and outside the figures: neither speedup nor cycles count "
            "its multiply-accumulates"
        )

    def stray(call: ConvCall) -> Tensor:
        check("conv2d", call.weight)
        return call.run()

    with _Intercept(stray, check):
        yield


class _Intercept(TorchFunctionMode):
    """Sends each `conv2d` call made under it to `answer` (one at a time, not those that `answer` makes)."""

    def __init__(self, answer: Handler, other: Callable[[str, Tensor], None] | None = None) -> None:
        super().__init__()
        self.answer = answer
        self.other = other

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d:
            with torch._C.DisableTorchFunction():  # an outer mode must not see the answer's own convolutions
                return self.answer(_parse(*args, **kwargs))
        if self.other is not None and func in OTHER_CONVOLUTIONS:
            self.other(OTHER_CONVOLUTIONS[func], args[1] if len(args) > 1 else kwargs["weight"])
        return func(*args, **kwargs)


def _parse(
    input: Tensor,  # conv2d's own name for it, which callers may use
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> ConvCall:
    if input.dim() != 4:
        shape = tuple(input.shape)
        raise BnrecalError(f"conv2d got an input of shape {shape}: only batches (N, C, H, W) can be quantized")
    unpadded = Geometry(as_pair("stride", stride, 1), (0, 0), as_pair("dilation", dilation, 1), groups)
    if padding == "valid":
        return ConvCall(input, weight, bias, unpadded)
    if padding == "same":
        return ConvCall(_pad_same(input, weight, unpadded), weight, bias, unpadded)
    return ConvCall(input, weight, bias, replace(unpadded, padding=as_pair("padding", padding, 0)))


def _pad_same(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Return the input with the border of `padding="same"`, as PyTorch has it: an odd pixel goes right and below."""
    down = geometry.dilation[0] * (weight.shape[2] - 1)
    right = geometry.dilation[1] * (weight.shape[3] - 1)
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
