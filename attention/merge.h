// Exact combination of partial attentions over disjoint keys: local and global, dense and sparse,
// cache and new tokens, the steps of a ring.
#pragma once

#include <vector>

#include "tessera/attention/engines/engine.h"

namespace tessera {

// L = log Σ_p exp(L_p), O = Σ_p exp(L_p − L) O_p: what one softmax over all the keys would give.
// Parts of equal shapes, (…, D) with logsumexps (…) of at least one dimension; halves with an f32
// logsumexp. A part whose logsumexp is −inf has no weight, whatever its output holds; where all
// are, the result is 0 and −inf, with gradients 0. Differentiable twice, once by its kernels
// (∂O_p = w_p ∂O, ∂L_p = w_p (∂L + ⟨∂O, O_p − O⟩) with w_p = exp(L_p − L)); f32, f64, on CUDA
// bf16 and f16 too.
AttentionResult merge(const std::vector<AttentionResult>& parts);
AttentionResult merge(const AttentionResult& a, const AttentionResult& b);

}  // namespace tessera
