// The sampler on CUDA.
#pragma once

#include "tessera/inference/batch_sampler.h"

namespace tessera {

// One draw for every row of logits (B, V) into state.drawn; advances counters and notes what was
// seen.
void draw_cuda(const Tensor& logits, const SamplerState& state, const SamplingOptions& options);

}  // namespace tessera
