"""A lip reader that writes characters (Luo et al. 2020, "Pseudo-Convolutional Policy Gradient for Sequence-to-Sequence Lip-Reading", 2003.03983).

A convolution over time and space, a ResNet-18 a frame, GRU layers in both directions, and a GRU decoder with attention. The paper's own code is not
public; layers, widths and names are those of the first author's baselines for LRW and GRID. Where we differ from them: dropout acts in training
alone; frames behind a clip's end are no part of the memory, nor of the encoder's states (the baselines read them as black frames), though batch
norms see them; RGB, not BGR, which loading a file accounts for.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxvision.errors import ModelError
from jaxvision.models.registry import Variant
from jaxvision.models.resnet import ResNet
from jaxvision.models.rules import Rule, from_torch, to_torch
from jaxvision.nn.clip import ClipConv
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.pool import max_pool
from jaxvision.nn.recurrent import GRU
from jaxvision.nn.seq2seq import AttentionDecoder, Memory, Written


class Encoder(nn.Module):
    """GRU layers whose two directions are summed."""

    inputs: int
    hidden: int
    layers: int
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], shown: Bool[Array, "b t"], train: bool) -> tuple[Float[Array, "b t h"], Float[Array, "n b h"]]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        gru = GRU(self.inputs, self.hidden, self.layers, bidirectional=True, dropout=self.dropout, **dtypes, name="gru")
        states, finals = gru(x, shown, train=train)
        return states[..., : self.hidden] + states[..., self.hidden :], finals


class LipReader(nn.Module):
    """Clips to texts.

    Attributes:
      num_classes: symbols of the vocabulary.
      image_size: (frames, height, width).
      text_length: steps of `__call__` without a text.
      hidden, layers: of encoder and decoder. embed: width of a symbol's embedding.
      front: (frames, rows, columns) of the first convolution.
      depths, widths: of the ResNet of basic blocks; the first convolution has widths[0] channels.
      frame_dropout, encoder_dropout, dropout: of frames' features, between the encoder's layers, and in the decoder.
      norm_groups: see `BatchNorm.groups`. remat: recompute each residual block in the backward pass.
    """

    num_classes: int = 30
    image_size: tuple[int, int, int] = (29, 50, 100)
    text_length: int = 14
    hidden: int = 1024
    layers: int = 3
    embed: int = 256
    front: tuple[int, int, int] = (5, 7, 7)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    frame_dropout: float = 0.5
    encoder_dropout: float = 0.5
    dropout: float = 0.2
    norm_groups: int = 1
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.num_classes < 2:
            raise ModelError(f"a lip reader writes symbols of a vocabulary: num_classes={self.num_classes} should be at least 2")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.frontend3D_0 = ClipConv(self.widths[0], tuple(self.front), 2, **dtypes)
        self.frontend3D_1 = BatchNorm(groups=self.norm_groups, **dtypes)
        self.resnet18 = ResNet(
            num_classes=0, image_size=tuple(self.image_size[1:]), depths=tuple(self.depths), widths=tuple(self.widths), stem="none", zero_init=False,
            norm_groups=self.norm_groups, remat=self.remat, **dtypes,
        )  # fmt: skip
        self.frame_drop = nn.Dropout(self.frame_dropout)
        self.encoder = Encoder(self.widths[-1], self.hidden, self.layers, self.encoder_dropout, **dtypes)
        self.decoder = AttentionDecoder(self.num_classes, self.hidden, self.embed, self.layers, self.dropout, **dtypes)

    def encode(
        self, clip: Float[Array, "b t h w c"], length: Int[Array, "b"] | None = None, *, train: bool = False
    ) -> tuple[Memory, Float[Array, "n b h"]]:
        """(what the decoder attends to, its first states). `length`: frames of each clip; None: all."""
        if clip.ndim != 5:
            raise ModelError(f"a lip reader reads clips (batch, frames, height, width, channels), this input is {clip.shape}")
        b, t = clip.shape[:2]
        shown = jnp.ones((b, t), bool) if length is None else jnp.arange(t) < length[:, None]
        x = self.frontend3D_0(clip)
        x = nn.relu(self.frontend3D_1(x.reshape(b * t, *x.shape[2:]), train=train))
        features = self.resnet18(max_pool(x, 3, 2, 1), train=train)
        features = self.frame_drop(features, deterministic=not train).reshape(b, t, -1)
        states, finals = self.encoder(features, shown, train)
        # The baselines hand over the first of the final states: both directions of layer 0, then the forward one of layer 1.
        return Memory(states, shown), finals[: self.layers]

    def __call__(
        self,
        clip: Float[Array, "b t h w c"],
        length: Int[Array, "b"] | None = None,
        *,
        text: Int[Array, "b l"] | None = None,
        taught: Bool[Array, "l"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b l k"]:
        """Log-probabilities of every symbol at every step: of `text` when it is given (see `AttentionDecoder` for `taught`), else of its own."""
        memory, states = self.encode(clip, length, train=train)
        steps = self.text_length if text is None else text.shape[1]
        return self.decoder(memory, states, steps, text=text, taught=taught, train=train).log_probs

    def taught_and_free(
        self,
        clip: Float[Array, "b t h w c"],
        length: Int[Array, "b"] | None,
        text: Int[Array, "b l"],
        taught: Bool[Array, "l"],
        sample: Array | None,
        *,
        train: bool = False,
    ) -> tuple[Written, Written]:
        """(with the truth fed on where `taught`, with the decoder's own symbols, drawn by the key `sample` or the most probable), of one encoding."""
        memory, states = self.encode(clip, length, train=train)
        steps = text.shape[1]
        forced = self.decoder(memory, states, steps, text=text, taught=taught, train=train)
        return forced, self.decoder(memory, states, steps, sample=sample, train=train)

    def write(
        self, clip: Float[Array, "b t h w c"], length: Int[Array, "b"] | None, steps: int, beam: int = 1, end: int = 2
    ) -> tuple[Int[Array, "b l"], Float[Array, "b"]]:
        """(symbols, mean log-probability of those up to the end) of the best text that a beam of this width finds; 1 is the greedy choice."""
        memory, states = self.encode(clip, length)
        return self.decoder.beam(memory, states, steps, beam, end)


def _variant(hidden: int, frames: int, text_length: int, parameters: int) -> Variant:
    settings = {"hidden": hidden, "text_length": text_length}
    inputs = {"image_size": (frames, 50, 100), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "crop": 1.0, "interpolation": "bilinear"}
    return Variant(LipReader, settings, parameters=parameters, classes=30, **inputs)


VARIANTS = {
    "lipreader_lrw": _variant(1024, 29, 14, 80_284_511),
    "lipreader_lrw_512": _variant(512, 29, 14, 29_500_255),
    "lipreader_grid": _variant(1024, 75, 99, 80_284_511),
}


def _rgb(arrays, shape):
    return from_torch(arrays[0])[..., ::-1, :]


def _bgr(array):
    return (to_torch(array[..., ::-1, :]),)


CHECKPOINT = {
    "torch": (
        Rule(r"frontend3D_0/kernel", r"frontend3D.0.weight", load=_rgb, save=_bgr),
        Rule(r"(encoder|decoder)/gru/(ih|hh)_(\w+)/kernel", r"\1.gru.weight_\2_\3"),
        Rule(r"(encoder|decoder)/gru/(ih|hh)_(\w+)/bias", r"\1.gru.bias_\2_\3"),
    ),
}


def adapt_checkpoint(arrays: dict, layout: str, model: nn.Module) -> dict:
    """The baselines' files hold encoder and decoder a second time under `seq2seq.`, and a convolutional end that this task does not use."""
    return {name: array for name, array in arrays.items() if not name.startswith(("seq2seq.", "backend_conv"))}
