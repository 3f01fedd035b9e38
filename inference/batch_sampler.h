// The choices of a batch of sequences, made where the logits are.
#pragma once

#include <vector>

#include "tessera/core/tensor.h"
#include "tessera/inference/sampler.h"

namespace tessera {

// What draws leave on a device.
struct SamplerState {
  Tensor seeds;     // i64 (B)
  Tensor counters;  // i64 (B): numbers drawn so far
  Tensor seen;      // u8 (B, V): whether a sequence holds an id; undefined without a penalty
  Tensor drawn;  // i64 (2, B): the ids to go on with, and as drawn: −1 where no logit is finite
};

// Sequence b draws with the seed seeds[b], as its own Sampler would. On a CUDA device nothing waits
// and everything stays at its address, so that a draw may be part of a recorded graph; its ids are
// the CPU's unless two sums round differently.
class BatchSampler {
 public:
  // seen[b]: the ids of the text of sequence b.
  BatchSampler(const SamplingOptions& options, const std::vector<uint64_t>& seeds,
               const std::vector<std::vector<int64_t>>& seen, int64_t vocabulary, Device device);
  // From logits (B, V) of any floating dtype. On the CPU it throws when no logit is finite.
  void draw(const Tensor& logits);
  Tensor ids() const;    // i64 (B), each in the vocabulary: to go on with
  Tensor drawn() const;  // i64 (B), −1 where no logit was finite

 private:
  SamplingOptions options_;
  std::vector<Sampler> samplers_;  // on the CPU
  SamplerState state_;
};

}  // namespace tessera
