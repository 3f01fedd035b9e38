// What kernels of optimizers read of the parameters. Only .cu files include this.
#pragma once

#include <array>

#include "tessera/core/cuda/pinned.h"
#include "tessera/train/optimizer_cuda.h"
#include "tessera/train/pieces.h"

namespace tessera {

struct ParameterTable::Entry {
  float* weights = nullptr;
  void* value = nullptr;  // the rounded copy, if there is one
  const void* grad = nullptr;
  float* slot[2] = {};
  int64_t count = 0;
  DType value_type = DType::f32;
  DType grad_type = DType::f32;
  bool decay = false;

  bool operator==(const Entry&) const = default;
};

inline __device__ int64_t end_of(const ParameterTable::Entry& e, int64_t begin) {
  return min(e.count, begin + cuda::kPieceSize);
}

// fn<G>() with the element type of a gradient.
template <class Fn>
__device__ void visit_gradient(DType dtype, const Fn& fn) {
  if (dtype == DType::f32) {
    fn(float{});
  } else if (dtype == DType::bf16) {
    fn(bfloat16{});
  } else {
    fn(float16{});
  }
}

inline __device__ void store_value(const ParameterTable::Entry& e, int64_t i, float w) {
  if (e.value_type == DType::bf16) {
    static_cast<bfloat16*>(e.value)[i] = bfloat16(w);
  } else {
    static_cast<float16*>(e.value)[i] = float16(w);
  }
}

struct ParameterTable::Impl {
  Device device;
  cuda::Pieces pieces;
  std::vector<Entry> entries;  // without gradients
  std::vector<Entry> sent;     // what lies in `own`
  Tensor own;                  // entries on the device for steps that are not recorded
  Tensor current;
  Tensor sums;  // one f64 per piece
  std::array<std::unique_ptr<cuda::PinnedSlot>, 4> ring;
  size_t next = 0;
  std::vector<std::unique_ptr<cuda::PinnedMemory>> recorded;  // graphs read them at each replay
  TensorList kept;                                            // gradients that had to be copied

  Impl(const std::vector<Parameter>& parameters, Device where)
      : device(where), pieces(sizes_of(parameters), where) {}

  static std::vector<int64_t> sizes_of(const std::vector<Parameter>& parameters) {
    std::vector<int64_t> sizes;
    for (const Parameter& p : parameters) sizes.push_back(p.value.numel());
    return sizes;
  }

  size_t bytes() const { return entries.size() * sizeof(Entry); }
  const Entry* data() const { return static_cast<const Entry*>(current.raw_data()); }
};

}  // namespace tessera
