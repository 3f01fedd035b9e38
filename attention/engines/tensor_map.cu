#include "tessera/attention/engines/tensor_map.h"

#include "tessera/core/cuda/runtime.h"

namespace tessera::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver is not linked: a build runs on machines without one.
Encode find_encode(std::string_view op) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  check_status(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                cudaEnableDefault, &result),
               op);
  check(result == cudaDriverEntryPointSuccess && found != nullptr,
        "{}: the CUDA driver has no tensor maps; it must be of CUDA 12.0 or newer", op);
  return reinterpret_cast<Encode>(found);
}

}  // namespace

bool fits_tensor_map(const Tensor& x) {
  constexpr int64_t kChunk = 8, kFarthest = int64_t{1} << 39;
  if (x.rank() != 4 || !is_half(x.dtype()) || x.numel() == 0) return false;
  if (reinterpret_cast<uintptr_t>(x.raw_data()) % 16 != 0) return false;
  if (x.size(3) > 1 && x.stride(3) != 1) return false;
  for (int64_t d = 0; d < 3; ++d) {
    if (x.size(d) == 1) continue;
    if (x.stride(d) % kChunk != 0 || x.stride(d) <= 0 || x.stride(d) >= kFarthest) return false;
  }
  return true;
}

CUtensorMap tensor_map(std::string_view op, const Tensor& x, int rows) {
  static const Encode encode = find_encode(op);
  const auto size = [&](int64_t d) { return static_cast<cuuint64_t>(x.size(d)); };
  const auto stride = [&](int64_t d) {  // one of a single element may be anything
    return x.size(d) == 1 ? cuuint64_t{16} : static_cast<cuuint64_t>(x.stride(d)) * 2;
  };
  const cuuint64_t sizes[4] = {size(3), size(2), size(1), size(0)};
  const cuuint64_t strides[3] = {stride(2), stride(1), stride(0)};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(rows), 1, 1};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode(
      &map,
      x.dtype() == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      4, x.raw_data(), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS,
        "{}: no tensor map for shape {} with strides {} (CUDA driver error {})", op, x.shape(),
        x.strides(), static_cast<int>(result));
  return map;
}

}  // namespace tessera::cuda
