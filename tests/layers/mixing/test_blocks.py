"""Blocks: norms, residuals, and HeMix's block by the paper's name."""

from __future__ import annotations

import numpy as np

from mixrank.layers.mixing.blocks import HeteroMixerBlock, PostNormBlock, PreNormBlock
from mixrank.layers.mixing.ffn import PerTokenFFN, SharedFFN
from mixrank.layers.mixing.token_mixing import HeteroMixing, TokenMixing

X = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("float32")


def _norm(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5)


def test_a_hetero_mixer_block_is_the_post_norm_block_of_its_two_parts(check_layer):
    options = {"heads": 2, "rank": 4, "expansion": 2}
    block = HeteroMixerBlock(**options)
    block(X)
    same = PostNormBlock(mixing=HeteroMixing(heads=2, rank=4), ffn=PerTokenFFN(expansion=2))
    same(X)
    same.set_weights(block.get_weights())
    np.testing.assert_array_equal(same(X), block(X))
    parameters = 2 * 2 * 9 * 4 + 2 * 4 + 18 + 3 * (2 * 6 * 12 + 12 + 6) + 4 * 6
    check_layer(HeteroMixerBlock, options, X, parameters=parameters)


def test_norms_stand_behind_the_sum_or_before_the_part():
    parts = {"mixing": TokenMixing(), "ffn": SharedFFN(expansion=1)}
    post, pre = PostNormBlock(**parts), PreNormBlock(mixing=TokenMixing(), ffn=parts["ffn"])
    mix = TokenMixing()
    z = _norm(np.array(mix(X)) + X)
    np.testing.assert_allclose(post(X), _norm(np.array(parts["ffn"](z)) + z), atol=1e-4)
    z = X + np.array(mix(_norm(X)))
    np.testing.assert_allclose(pre(X), z + np.array(parts["ffn"](_norm(z))), atol=1e-4)
    bare = PostNormBlock(mixing=TokenMixing(), ffn=parts["ffn"], skip=False, norm=False)
    np.testing.assert_allclose(bare(X), parts["ffn"](mix(X)), atol=1e-5)
