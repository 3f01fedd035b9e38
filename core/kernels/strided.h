// Iteration over one or several strided tensors of the same (broadcast) shape.
//
// A StridedLoop drops dimensions of size 1, merges those that lie densely in one another for every
// operand, and puts the rest in row-major order of the first operand. The innermost dimension is
// the row; kernels work on pieces of rows.
#pragma once

#include <array>
#include <span>

#include "tessera/core/parallel.h"
#include "tessera/core/tensor.h"

namespace tessera::kernels {

constexpr int64_t kMaxOperands = 8;

class StridedLoop {
 public:
  // All operands broadcast to `shape`: sizes 1 get stride 0.
  StridedLoop(const Shape& shape, std::span<const Tensor* const> operands);

  int64_t numel() const { return rows_ * row_size(); }
  int64_t rows() const { return rows_; }
  int64_t row_size() const { return shape_.empty() ? 1 : shape_.back(); }
  const Shape& shape() const { return shape_; }  // after merging
  const Strides& strides(int64_t operand) const { return strides_[static_cast<size_t>(operand)]; }
  int64_t row_stride(int64_t operand) const {  // element stride inside a row
    return shape_.empty() ? 1 : strides_[static_cast<size_t>(operand)].back();
  }
  // Element offsets of the operands at the start of a row, relative to their first element.
  void row_offsets(int64_t row, int64_t* offsets) const;

  // fn(offsets, count) for pieces of at most `grain` elements of one row, in parallel; offsets are
  // element offsets per operand at the first element of the piece.
  template <class Fn>
  void for_each_piece(int64_t grain, const Fn& fn) const;

 private:
  int64_t operands_ = 0;
  int64_t rows_ = 1;
  Shape shape_;
  std::array<Strides, kMaxOperands> strides_;
};

template <class Fn>
void StridedLoop::for_each_piece(int64_t grain, const Fn& fn) const {
  const int64_t size = row_size();
  if (numel() == 0) return;
  const int64_t per_row = (size + grain - 1) / grain;
  const int64_t rows_per_task = std::max<int64_t>(1, grain / size);
  const int64_t row_tasks = (rows_ + rows_per_task - 1) / rows_per_task;
  parallel_for(row_tasks * per_row, numel(), [&](int64_t task) {
    std::array<int64_t, kMaxOperands> offsets{};
    const int64_t begin = (task % per_row) * grain;
    const int64_t count = std::min(grain, size - begin);
    const int64_t first = task / per_row * rows_per_task;
    const int64_t last = std::min(rows_, first + rows_per_task);
    for (int64_t row = first; row < last; ++row) {
      row_offsets(row, offsets.data());
      for (int64_t i = 0; i < operands_; ++i) offsets[i] += begin * row_stride(i);
      fn(static_cast<const int64_t*>(offsets.data()), count);
    }
  });
}

}  // namespace tessera::kernels
