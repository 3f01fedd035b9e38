#include "tessera/core/kernels/strided.h"

namespace tessera::kernels {

StridedLoop::StridedLoop(const Shape& shape, std::span<const Tensor* const> operands)
    : operands_(static_cast<int64_t>(operands.size())) {
  check(operands_ <= kMaxOperands, "strided loop: {} operands, at most {}", operands_,
        kMaxOperands);
  std::array<Strides, kMaxOperands> full;
  for (size_t i = 0; i < operands.size(); ++i) {
    const Tensor& t = *operands[i];
    full[i] = Shape::filled(shape.rank(), 0);
    const int64_t lead = shape.rank() - t.rank();
    for (int64_t d = 0; d < t.rank(); ++d) {
      if (t.shape()[d] != 1) full[i][lead + d] = t.strides()[d];
    }
  }
  for (int64_t d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    bool merge = !shape_.empty();
    for (size_t i = 0; merge && i < operands.size(); ++i) {
      merge = strides_[i].back() == full[i][d] * shape[d];
    }
    if (merge) {
      shape_.back() *= shape[d];
      for (size_t i = 0; i < operands.size(); ++i) strides_[i].back() = full[i][d];
    } else {
      shape_.push_back(shape[d]);
      for (size_t i = 0; i < operands.size(); ++i) strides_[i].push_back(full[i][d]);
    }
  }
  for (int64_t d = 0; d + 1 < shape_.rank(); ++d) rows_ *= shape_[d];
}

void StridedLoop::row_offsets(int64_t row, int64_t* offsets) const {
  for (int64_t i = 0; i < operands_; ++i) offsets[i] = 0;
  for (int64_t d = shape_.rank() - 2; d >= 0; --d) {
    const int64_t index = row % shape_[d];
    row /= shape_[d];
    for (int64_t i = 0; i < operands_; ++i) {
      offsets[i] += index * strides_[static_cast<size_t>(i)][d];
    }
  }
}

}  // namespace tessera::kernels
