#include <bit>
#include <mutex>
#include <unordered_map>

#include "tessera/autograd/ops/axis_map_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/planes.h"
#include "tessera/core/cuda/strided.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

template <class T>
__global__ void axis_map_kernel(const T* x, T* y, int64_t outer, int64_t in, unsigned size,
                                cuda::Divider inner, const int* first, const int* index,
                                const cuda::Compute<T>* weight) {
  using C = cuda::Compute<T>;
  const unsigned element = cuda::plane_element();
  if (element >= size) return;
  const unsigned row = inner.divide(element);
  const unsigned column = element - row * inner.divisor;
  const int begin = first[row], end = first[row + 1];
  for (int64_t o = cuda::first_plane(); o < outer; o += cuda::plane_step()) {
    const T* from = x + o * in * inner.divisor + column;
    C sum = 0;
    for (int e = begin; e < end; ++e) {
      sum += weight[e] * convert<C>(from[static_cast<int64_t>(index[e]) * inner.divisor]);
    }
    y[o * size + element] = convert<T>(sum);
  }
}

struct DeviceTable {
  AxisTable table;
  Device device;
  DType dtype;
  Tensor first, index, weight;

  bool is_for(const AxisTable& t, Device d, DType weights) const {
    return device == d && dtype == weights && table.in == t.in && table.first == t.first &&
           table.index == t.index && table.weight == t.weight;
  }
};

uint64_t hash_of(const AxisTable& t) {
  uint64_t h = static_cast<uint64_t>(t.in);
  const auto mix = [&h](uint64_t word) { h = std::rotl((h ^ word) * 0x9E3779B97F4A7C15u, 29); };
  for (const int64_t v : t.first) mix(static_cast<uint64_t>(v));
  for (const int64_t v : t.index) mix(static_cast<uint64_t>(v));
  for (const double v : t.weight) mix(std::bit_cast<uint64_t>(v));
  return h;
}

template <class To, class From>
Tensor uploaded(const std::vector<From>& values, Device device) {
  const std::vector<To> converted(values.begin(), values.end());
  return kernels::to_device(from_values<To>(converted, {static_cast<int64_t>(values.size())}),
                            device);
}

const DeviceTable& table_on(Device device, DType weights, const AxisTable& table) {
  static std::mutex mutex;
  // Never destroyed: the runtime may be gone by then.
  static auto& tables = *new std::unordered_multimap<uint64_t, DeviceTable>;
  const uint64_t hash = hash_of(table);
  std::lock_guard lock(mutex);
  const auto [begin, end] = tables.equal_range(hash);
  for (auto found = begin; found != end; ++found) {
    if (found->second.is_for(table, device, weights)) return found->second;
  }
  const Tensor weight = weights == DType::f64 ? uploaded<double>(table.weight, device)
                                              : uploaded<float>(table.weight, device);
  return tables
      .emplace(hash, DeviceTable{table, device, weights, uploaded<int32_t>(table.first, device),
                                 uploaded<int32_t>(table.index, device), weight})
      ->second;
}

}  // namespace

void axis_map_cuda(std::string_view op, const AxisTable& table, const Tensor& x, const Tensor& y,
                   int64_t outer, int64_t inner) {
  if (y.numel() == 0) return;
  const int64_t size = table.out() * inner;
  const cuda::PlaneGrid shape = cuda::plane_grid(op, outer, size);
  cuda::visit_floating(op, x.dtype(), [&]<class T>() {
    using C = cuda::Compute<T>;
    const DeviceTable& t = table_on(x.device(), dtype_of<C>(), table);
    cuda::launch(op, x.device(), axis_map_kernel<T>, shape.grid, shape.block, 0, cuda::data<T>(x),
                 cuda::data<T>(y), outer, table.in, static_cast<unsigned>(size),
                 cuda::Divider(static_cast<unsigned>(inner)), cuda::data<int32_t>(t.first),
                 cuda::data<int32_t>(t.index), cuda::data<C>(t.weight));
  });
}

}  // namespace tessera
