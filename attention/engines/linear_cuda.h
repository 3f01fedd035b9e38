// The passes of the linear engine on CUDA. f32 and f64 run plain arithmetic in chunks of 32 tokens;
// bf16 and f16 with widths up to 128 run on tensor cores in chunks of 64, with f32 decays, sums and
// states (wider ones run as f32). The same bits on every run.
#pragma once

#include "tessera/attention/engines/linear_pass.h"

namespace tessera::linear_engine {

void choose_lengths_cuda(Pass& pass);
// `first` is dense or undefined, `result` dense: (B, H, segments, W, E).
void states_cuda(const Pass& pass, const Tensor& first, const Tensor& result);
Sums sums_cuda(const Pass& pass, const Tensor& states, bool wants_state, const Tensor& partner,
               const Tensor& chunk_states);
void decay_gradient_cuda(const Pass& pass, const Trace& of_query, const Trace& of_key,
                         const Tensor& result);

}  // namespace tessera::linear_engine
