"""A dictionary as dense tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary


@dataclass(frozen=True)
class Tables:
    """A dictionary without blocks, in float64: pre-activations are rows @ encoder.T + encoder_bias."""

    encoder: Tensor  # [F, D]
    encoder_bias: Tensor  # [F]
    decoder: Tensor  # [F, D]
    decoder_bias: Tensor  # [D]

    @classmethod
    @torch.no_grad()
    def of(cls, dictionary: Dictionary) -> Tables:
        """The tables of a dictionary, in standardised units; zeros where a block has no weights."""
        decoder = torch.cat(dictionary.decoders(), dim=1).double()
        encoder, bias = torch.zeros_like(decoder), torch.zeros(len(decoder)).to(decoder)
        for block in dictionary.blocks.values():
            encoder[block.features, block.columns] = block.encoder.double()
            bias[block.features] = block.encoder_bias.double()
        return cls(encoder, bias, decoder, dictionary.decoder_bias.double())

    def raw(
        self,
        mean: Tensor,
        scale: Tensor,
        matrix: Tensor | None = None,
        inverse: Tensor | None = None,
    ) -> Tables:
        """The same function of rows as the model gives them: those are rows here * scale + mean [D].

        With a symmetric `matrix` and its `inverse` [D, D] they are rows here * scale @ inverse + mean.
        """
        encoder, decoder = self.encoder / scale, self.decoder * scale
        bias = self.decoder_bias * scale
        if matrix is not None and inverse is not None:
            encoder, decoder, bias = encoder @ matrix, decoder @ inverse, bias @ inverse
        return Tables(encoder, self.encoder_bias - encoder @ mean, decoder, bias + mean)

    def centred_by_decoder_bias(self) -> Tables:
        """The same with the encoder fed rows from which the decoder's bias was subtracted."""
        return replace(self, encoder_bias=self.encoder_bias - self.encoder @ self.decoder_bias)

    def unit_norms(self) -> Tables:
        """The same function with decoder rows of norm 1, pre-activations grown by the old norm."""
        norm = self.decoder.norm(dim=1).clamp_min(1e-8)  # SAELens's bound
        return replace(
            self,
            encoder=self.encoder * norm[:, None],
            encoder_bias=self.encoder_bias * norm,
            decoder=self.decoder / norm[:, None],
        )

    def dictionary(self, widths: Sequence[int], rank: str) -> Dictionary:
        """A dictionary of one free block, with no threshold yet."""
        shape = Shape(tuple(widths), 0, len(self.encoder), (0,) * len(widths), "norm", rank)
        dictionary = Dictionary(shape).requires_grad_(False)
        (block,) = dictionary.blocks.values()
        block.encoder.copy_(self.encoder)
        block.encoder_bias.copy_(self.encoder_bias)
        block.weight.copy_(self.decoder)
        dictionary.decoder_bias.copy_(self.decoder_bias)
        dictionary.threshold.fill_(math.inf)
        return dictionary
