// One launch over many tensors: each block takes a piece of one of them. Only .cu files include
// this.
#pragma once

#include <vector>

#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"

namespace tessera::cuda {

constexpr int64_t kPieceSize = 16384;
constexpr unsigned kPieceThreads = 256;

struct PieceRange {
  int64_t tensor = 0;
  int64_t begin = 0;
};

// A copy of host values in the device's memory; not for use in a recording.
template <class T>
Tensor on_device(const std::vector<T>& values, Device device) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  const Tensor host = empty({bytes}, {DType::u8, {}});
  if (bytes > 0) std::memcpy(host.raw_data(), values.data(), static_cast<size_t>(bytes));
  return kernels::to_device(host, device);
}

// The pieces of tensors with these numbers of elements, in order.
struct Pieces {
  Tensor ranges;
  int64_t count = 0;

  Pieces(const std::vector<int64_t>& sizes, Device device, int64_t piece = kPieceSize) {
    std::vector<PieceRange> list;
    for (size_t i = 0; i < sizes.size(); ++i) {
      for (int64_t begin = 0; begin < sizes[i]; begin += piece) {
        list.push_back({static_cast<int64_t>(i), begin});
      }
    }
    ranges = on_device(list, device);
    count = static_cast<int64_t>(list.size());
  }
  unsigned blocks() const { return static_cast<unsigned>(count); }
  const PieceRange* data() const { return static_cast<const PieceRange*>(ranges.raw_data()); }
};

}  // namespace tessera::cuda
