#include "tessera/data/sequences.h"

#include "tessera/core/create.h"

namespace tessera {

DataInfo SequenceDataset::info() const {
  DataInfo info;
  info.vocabulary = vocabulary_;
  info.context = context_;
  return info;
}

Batch SequenceDataset::get(Split split, std::span<const int64_t> indices, uint64_t) const {
  check_indices(indices, size(split), "sequences");
  const auto rows = static_cast<int64_t>(indices.size());
  const auto width = static_cast<size_t>(context_);
  const Tensor tokens = zeros({rows, context_}, {DType::i64, {}});
  const Tensor targets = full({rows, context_}, -1, {DType::i64, {}});
  for (int64_t row = 0; row < rows; ++row) {
    Generator random = example_generator(seed_, split, indices[static_cast<size_t>(row)]);
    write({tokens.data<int64_t>() + row * context_, width},
          {targets.data<int64_t>() + row * context_, width}, random);
  }
  return {{"tokens", tokens}, {"targets", targets}};
}

std::vector<int64_t> draw_distinct(int64_t count, int64_t low, int64_t high, Generator& random) {
  const RandomKey key{random.next(), random.next()};
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(low + permuted_index(i, high - low, key));
  return numbers;
}

}  // namespace tessera
