#include "tessera/inference/batch_sampler.h"

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"
#include "tessera/inference/sampler_cuda.h"

namespace tessera {
namespace {

Tensor seen_table(const std::vector<std::vector<int64_t>>& seen, int64_t vocabulary) {
  const auto rows = static_cast<int64_t>(seen.size());
  const Tensor table = zeros({rows, vocabulary}, {DType::u8, {}});
  for (int64_t b = 0; b < rows; ++b) {
    uint8_t* row = table.data<uint8_t>() + b * vocabulary;
    for (const int64_t id : seen[static_cast<size_t>(b)]) row[id] = 1;
  }
  return table;
}

}  // namespace

BatchSampler::BatchSampler(const SamplingOptions& options, const std::vector<uint64_t>& seeds,
                           const std::vector<std::vector<int64_t>>& seen, int64_t vocabulary,
                           Device device)
    : options_(options) {
  check(seeds.size() == seen.size(), "sampler: {} seeds for {} sequences", seeds.size(),
        seen.size());
  const auto batch = static_cast<int64_t>(seeds.size());
  state_.drawn = zeros({2, batch}, {DType::i64, device});
  if (device.is_cpu()) {
    for (size_t b = 0; b < seeds.size(); ++b) {
      samplers_.emplace_back(options, seeds[b]).see(seen[b]);
    }
    return;
  }
  const std::vector<int64_t> words(seeds.begin(), seeds.end());
  state_.seeds = kernels::to_device(from_values(words, {batch}), device);
  state_.counters = zeros({batch}, {DType::i64, device});
  if (options.repetition_penalty != 1) {
    state_.seen = kernels::to_device(seen_table(seen, vocabulary), device);
  }
}

void BatchSampler::draw(const Tensor& logits) {
  check(logits.rank() == 2 && logits.size(0) == state_.drawn.size(1) &&
            logits.device() == state_.drawn.device(),
        "sampler: wants logits of {} sequences on {}, got {} on {}", state_.drawn.size(1),
        state_.drawn.device(), logits.shape(), logits.device());
  if constexpr (kCuda) {
    if (logits.device().is_cuda()) return draw_cuda(kernels::contiguous(logits), state_, options_);
  }
  const std::vector<float> values = logits.to_vector<float>();
  const auto width = static_cast<size_t>(logits.size(1));
  std::vector<int64_t> ids(2 * samplers_.size());
  for (size_t b = 0; b < samplers_.size(); ++b) {
    const std::span<const float> row(values.data() + b * width, width);
    ids[b] = ids[samplers_.size() + b] = samplers_[b].next(row);
  }
  kernels::copy(state_.drawn, from_values(ids, state_.drawn.shape()));
}

Tensor BatchSampler::ids() const {
  return views::select(state_.drawn, 0, 0);
}

Tensor BatchSampler::drawn() const {
  return views::select(state_.drawn, 0, 1);
}

}  // namespace tessera
