// Score functors that are ready made. Tables are differentiable; they are read in the dtype of the
// queries (halves: f32). "position" is that of AttentionOptions.
#pragma once

#include "tessera/attention/engines/score.h"

namespace tessera {

// cap · tanh(s / cap) (Gemma Team 2024).
Score softcap(double cap);

// s − slope_h · |query position − key position|, slopes (H) (Press et al. 2022, "ALiBi").
Score alibi(const Tensor& slopes);

// s + table[h, key position − query position + left], table (H|1, W); offsets outside the table
// add nothing. The bias of windows and of Music Transformer's and Swin's kind in one dimension.
Score offset_bias(const Tensor& table, int64_t left);

// The same, but offsets outside the table share its first and last entry.
Score clamped_bias(const Tensor& table, int64_t left);

// s + table[h, |query position − key position|], table (H|1, W); longer distances share the last.
Score distance_bias(const Tensor& table);

// s + table[bucket(distance), h], table (4 ≤ buckets ≤ 256, H): half of the buckets (of each
// direction when bidirectional) for exact distances, the rest logarithmic up to max_distance
// (Raffel et al. 2020).
Score bucket_bias(const Tensor& table, int64_t max_distance, bool bidirectional);

// s + table[b, h, i, j] by indices, table broadcastable to (B, H, N, M): (B, 1, 1, M) is a bias of
// keys. A table with both N and M is quadratic, and so is its gradient.
Score bias(const Tensor& table);

// log(max(s, 0)²), −inf for s ≤ 0, so that exp(score) = relu(s)²: with output O and logsumexp L of
// the engine, exp(L) · O is Σ_j relu(s_j)² v_j (Ma et al. 2022, "Mega").
Score relu_squared();
// The same of s + table[…], the entry being that of clamped_bias.
Score relu_squared(const Tensor& table, int64_t left);

// `score` where query and key have the same position, else s: with a large negative one a token
// sees itself only where it sees nobody else (Kitaev et al. 2020, "Reformer").
Score self_score(double score = -5e4);

}  // namespace tessera
