#include "tessera/autograd/ops/norm_rows_cuda.h"
#include "tessera/autograd/ops/plane_norm_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/strided.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/view.h"

namespace tessera::detail {
namespace {

using cuda::Compute;

constexpr unsigned kThreads = 256;
// A block takes about so many values of a unit, so that few large units fill the device too.
constexpr int64_t kPart = 16384;
constexpr int64_t kMostParts = 1024;

// How blocks share the units: block b takes values [part · chunk, + chunk) of unit b / parts.
struct Walk {
  PlaneUnits units;
  int64_t values, parts, chunk;
  bool narrow;  // the values of a unit are counted in 31 bits
  cuda::Divider per_plane;

  Walk(const PlaneUnits& u, int64_t vector) : units(u), values(u.planes * u.plane) {
    const int64_t wanted = std::min((values + kPart - 1) / kPart, kMostParts);
    chunk = ((values + wanted - 1) / wanted + vector - 1) / vector * vector;
    parts = (values + chunk - 1) / chunk;
    narrow = values < int64_t{1} << 31;
    if (narrow) per_plane = cuda::Divider(static_cast<unsigned>(u.plane));
  }

  __device__ int64_t plane_of(int64_t value) const {
    return narrow ? per_plane.divide(static_cast<unsigned>(value)) : value / units.plane;
  }
  __device__ int64_t channel(int64_t unit, int64_t i) const {
    return units.grouped ? unit * units.unit_step % units.channels + i : unit;
  }
};

// The part of a unit that belongs to this block.
struct Part {
  int64_t unit, begin, end;

  __device__ explicit Part(const Walk& walk) {
    unit = blockIdx.x / walk.parts;
    begin = blockIdx.x % walk.parts * walk.chunk;
    end = min(walk.values, begin + walk.chunk);
  }
};

// fn(offset of the first element, plane) for every vector of V elements of the part.
template <int V, class Fn>
__device__ void for_each_vector(const Walk& walk, const Part& part, const Fn& fn) {
  const int64_t plane = walk.units.plane;
  for (int64_t at = part.begin + int64_t{threadIdx.x} * V; at < part.end;
       at += int64_t{blockDim.x} * V) {
    const int64_t i = walk.plane_of(at);
    fn((part.unit * walk.units.unit_step + i * walk.units.plane_step) * plane + (at - i * plane),
       i);
  }
}

// The mean of every part, and the sum of squares about it.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(Walk walk, const T* x, Compute<T>* moments) {
  using C = Compute<T>;
  __shared__ C scratch[cuda::kWarp];
  const Part part(walk);
  C mean = 0, squares = 0;
  for_each_vector<V>(walk, part, [&](int64_t at, int64_t) {
    const auto v = cuda::load<V>(x + at);
#pragma unroll
    for (int e = 0; e < V; ++e) mean += convert<C>(v[e]);
  });
  mean =
      cuda::block_reduce(mean, cuda::Sum{}, C(0), scratch) / static_cast<C>(part.end - part.begin);
  for_each_vector<V>(walk, part, [&](int64_t at, int64_t) {
    const auto v = cuda::load<V>(x + at);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const C d = convert<C>(v[e]) - mean;
      squares += d * d;
    }
  });
  squares = cuda::block_reduce(squares, cuda::Sum{}, C(0), scratch);
  if (threadIdx.x == 0) {
    moments[2 * int64_t{blockIdx.x}] = mean;
    moments[2 * int64_t{blockIdx.x} + 1] = squares;
  }
}

// Every block puts the moments of its unit's parts together (Chan et al. 1979), then normalises its
// own part.
template <class T, class W, int V>
__global__ void __launch_bounds__(kThreads)
    normalize_kernel(Walk walk, double eps, const T* x, const Compute<T>* moments, const W* weight,
                     const W* bias, T* y, Compute<T>* means, Compute<T>* variances) {
  using C = Compute<T>;
  __shared__ double scratch[cuda::kWarp];
  const Part part(walk);
  const auto n = static_cast<double>(walk.values);
  const C* own = moments + 2 * part.unit * walk.parts;
  const auto size_of_part = [&](int64_t i) {
    return static_cast<double>(min(walk.chunk, walk.values - i * walk.chunk));
  };
  double total = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < walk.parts; i += blockDim.x) {
    total += size_of_part(i) * static_cast<double>(own[2 * i]);
  }
  const double mean = cuda::block_reduce(total, cuda::Sum{}, 0.0, scratch) / n;
  for (int64_t i = threadIdx.x; i < walk.parts; i += blockDim.x) {
    const double d = static_cast<double>(own[2 * i]) - mean;
    squares += static_cast<double>(own[2 * i + 1]) + size_of_part(i) * d * d;
  }
  const double variance = cuda::block_reduce(squares, cuda::Sum{}, 0.0, scratch) / n;
  const C center = static_cast<C>(mean);
  const C scale = static_cast<C>(1 / sqrt(variance + eps));
  if (threadIdx.x == 0 && part.begin == 0) {
    means[part.unit] = center;
    variances[part.unit] = static_cast<C>(variance);
  }
  for_each_vector<V>(walk, part, [&](int64_t at, int64_t i) {
    const int64_t c = walk.channel(part.unit, i);
    const C factor = weight == nullptr ? scale : scale * convert<C>(weight[c]);
    const C shift = bias == nullptr ? C(0) : convert<C>(bias[c]);
    const auto v = cuda::load<V>(x + at);
    cuda::Vector<T, V> result;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      result[e] = convert<T>((convert<C>(v[e]) - center) * factor + shift);
    }
    cuda::store(y + at, result);
  });
}

template <class C>
__device__ C inverse_deviation(C variance, double eps) {
  return static_cast<C>(1 / sqrt(static_cast<double>(variance) + eps));
}

// sums (B, 2, C): Σ g x̂ and Σ g of every plane; a block per plane.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    plane_sums_kernel(PlaneUnits units, int64_t count, double eps, const T* x, const T* grad,
                      const Compute<T>* means, const Compute<T>* variances, Compute<T>* sums) {
  using C = Compute<T>;
  __shared__ C scratch[cuda::kWarp];
  for (int64_t at = blockIdx.x; at < count; at += gridDim.x) {
    const int64_t sample = at / units.channels, channel = at % units.channels;
    const int64_t unit = units.grouped ? at / units.planes : channel;
    const C mean = means[unit];
    const C scale = inverse_deviation(variances[unit], eps);
    const T* plane_x = x + at * units.plane;
    const T* plane_g = grad + at * units.plane;
    C total = 0, product = 0;
    for (int64_t k = int64_t{threadIdx.x} * V; k < units.plane; k += int64_t{blockDim.x} * V) {
      const auto v = cuda::load<V>(plane_x + k);
      const auto g = cuda::load<V>(plane_g + k);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        total += convert<C>(g[e]);
        product += convert<C>(g[e]) * ((convert<C>(v[e]) - mean) * scale);
      }
    }
    total = cuda::block_reduce(total, cuda::Sum{}, C(0), scratch);
    product = cuda::block_reduce(product, cuda::Sum{}, C(0), scratch);
    if (threadIdx.x == 0) {
      sums[sample * 2 * units.channels + channel] = product;
      sums[(sample * 2 + 1) * units.channels + channel] = total;
    }
  }
}

// gx = s (w g − mean(w g) − x̂ mean(w g x̂)) over the unit.
template <class T, class W, int V>
__global__ void __launch_bounds__(kThreads)
    plane_grad_kernel(Walk walk, double eps, const T* x, const T* grad, const W* weight,
                      const Compute<T>* means, const Compute<T>* variances, const Compute<T>* sums,
                      T* gx) {
  using C = Compute<T>;
  __shared__ double scratch[cuda::kWarp];
  const Part part(walk);
  const PlaneUnits& u = walk.units;
  double c1 = 0, c2 = 0;
  for (int64_t i = threadIdx.x; i < u.planes; i += blockDim.x) {
    const int64_t channel = walk.channel(part.unit, i);
    const int64_t sample = (part.unit * u.unit_step + i * u.plane_step) / u.channels;
    const double w = weight == nullptr ? 1.0 : convert<double>(weight[channel]);
    c2 += w * static_cast<double>(sums[sample * 2 * u.channels + channel]);
    c1 += w * static_cast<double>(sums[(sample * 2 + 1) * u.channels + channel]);
  }
  const auto n = static_cast<double>(walk.values);
  c1 = cuda::block_reduce(c1, cuda::Sum{}, 0.0, scratch) / n;
  c2 = cuda::block_reduce(c2, cuda::Sum{}, 0.0, scratch) / n;
  const C mean = means[part.unit];
  const C scale = inverse_deviation(variances[part.unit], eps);
  const C shift = static_cast<C>(c1) * scale;
  const C slope = static_cast<C>(c2) * scale * scale;
  for_each_vector<V>(walk, part, [&](int64_t at, int64_t i) {
    const C w = weight == nullptr ? scale : scale * convert<C>(weight[walk.channel(part.unit, i)]);
    const auto v = cuda::load<V>(x + at);
    const auto g = cuda::load<V>(grad + at);
    cuda::Vector<T, V> result;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      result[e] = convert<T>(w * convert<C>(g[e]) - shift - (convert<C>(v[e]) - mean) * slope);
    }
    cuda::store(gx + at, result);
  });
}

// Whether planes can be walked in 16-byte vectors.
template <class T>
bool vector_planes(const PlaneUnits& u, std::initializer_list<Tensor> tensors) {
  for (const Tensor& x : tensors) {
    if (!cuda::is_aligned(static_cast<const T*>(x.raw_data()), u.plane)) return false;
  }
  return true;
}

// fn.operator()<T, W, V>(): the elements' type, the parameters' (T or Compute<T>), the width.
template <class T, class Fn>
void visit_kernels(const Tensor& weight, const Tensor& bias, bool vector, const Fn& fn) {
  const Tensor& p = weight.defined() ? weight : bias;
  constexpr int V = cuda::kVectorSize<T>;
  if constexpr (sizeof(T) == 2) {
    if (p.defined() && p.dtype() == DType::f32) {
      return vector ? fn.template operator()<T, float, V>() : fn.template operator()<T, float, 1>();
    }
  }
  return vector ? fn.template operator()<T, T, V>() : fn.template operator()<T, T, 1>();
}

template <class T>
T* data_or_null(const Tensor& x) {
  return x.defined() ? cuda::data<T>(x) : nullptr;
}

unsigned blocks_of(std::string_view op, const Walk& walk) {
  const int64_t blocks = walk.units.count * walk.parts;
  check(blocks < int64_t{1} << 31, "{}: {} groups of values are more than a launch covers", op,
        walk.units.count);
  return static_cast<unsigned>(blocks);
}

template <class T, class W, int V>
void run(std::string_view op, const PlaneUnits& u, double eps, const Tensor& x,
         const Tensor& weight, const Tensor& bias, const Tensor& y, const Tensor& mean,
         const Tensor& variance) {
  using C = Compute<T>;
  const Walk walk(u, V);
  const unsigned blocks = blocks_of(op, walk);
  const Tensor moments = empty({int64_t{blocks}, 2}, {dtype_of<C>(), x.device()});
  cuda::launch(op, x.device(), moments_kernel<T, V>, blocks, kThreads, 0, walk, cuda::data<T>(x),
               cuda::data<C>(moments));
  cuda::launch(op, x.device(), normalize_kernel<T, W, V>, blocks, kThreads, 0, walk, eps,
               cuda::data<T>(x), cuda::data<C>(moments), data_or_null<W>(weight),
               data_or_null<W>(bias), cuda::data<T>(y), cuda::data<C>(mean),
               cuda::data<C>(variance));
}

template <class T, class W, int V>
void run_back(std::string_view op, const PlaneUnits& u, double eps, const Tensor& x,
              const Tensor& weight, const Tensor& grad, const Tensor& mean, const Tensor& variance,
              const Tensor& gx, const Tensor& sums) {
  using C = Compute<T>;
  const int64_t planes = x.numel() / u.plane;
  const int64_t quarter = (u.plane + 4 * V - 1) / (4 * V);  // four vectors per thread
  const auto threads = static_cast<unsigned>(std::clamp<int64_t>(
      (quarter + cuda::kWarp - 1) / cuda::kWarp * cuda::kWarp, cuda::kWarp, kThreads));
  cuda::launch(op, x.device(), plane_sums_kernel<T, V>,
               cuda::blocks_for(planes, 1, int64_t{1} << 20), threads, 0, u, planes, eps,
               cuda::data<T>(x), cuda::data<T>(grad), cuda::data<C>(mean), cuda::data<C>(variance),
               cuda::data<C>(sums));
  const Walk walk(u, V);
  cuda::launch(op, x.device(), plane_grad_kernel<T, W, V>, blocks_of(op, walk), kThreads, 0, walk,
               eps, cuda::data<T>(x), cuda::data<T>(grad), data_or_null<W>(weight),
               cuda::data<C>(mean), cuda::data<C>(variance), cuda::data<C>(sums),
               cuda::data<T>(gx));
}

// Statistics over the batch of tiny planes would read x with strides: the channels then go first.
bool is_scattered(const PlaneUnits& u) {
  return !u.grouped && u.planes > 1 && u.channels > 1 && u.plane < 8;
}
PlaneUnits channels_first(const PlaneUnits& u) {
  return {u.count, 1, 1, u.channels, u.channels, u.planes * u.plane, false};
}
Tensor swapped(const Tensor& x, const PlaneUnits& u) {
  return views::transpose(views::reshape(x, {u.planes, u.channels, u.plane}), 0, 1);
}

}  // namespace

void plane_norm_cuda(std::string_view op, const PlaneUnits& u, double eps, const Tensor& x,
                     const Tensor& weight, const Tensor& bias, const Tensor& y, const Tensor& mean,
                     const Tensor& variance) {
  if (x.numel() == 0) {
    kernels::fill(mean, 0);
    kernels::fill(variance, 0);
    return;
  }
  if (is_scattered(u)) {
    const Tensor turned = kernels::contiguous(swapped(x, u));
    const Tensor result = empty_like(turned);
    plane_norm_cuda(op, channels_first(u), eps, turned, weight, bias, result, mean, variance);
    return kernels::copy(swapped(y, u), result);
  }
  const Tensor w = weight.defined() ? kernels::contiguous(weight) : Tensor{};
  Tensor shift = bias.defined() ? kernels::contiguous(bias) : Tensor{};
  if (w.defined() && shift.defined()) shift = kernels::cast(shift, w.dtype());
  cuda::visit_floating(op, x.dtype(), [&]<class E>() {
    visit_kernels<E>(w, shift, vector_planes<E>(u, {x, y}), [&]<class T, class W, int V>() {
      run<T, W, V>(op, u, eps, x, w, shift, y, mean, variance);
    });
  });
}

void plane_norm_backward_cuda(std::string_view op, const PlaneUnits& u, double eps, const Tensor& x,
                              const Tensor& weight, const Tensor& grad, const Tensor& mean,
                              const Tensor& variance, const Tensor& gx, const Tensor& gw,
                              const Tensor& gb) {
  if (x.numel() == 0) {
    if (gw.defined()) kernels::fill(gw, 0);
    if (gb.defined()) kernels::fill(gb, 0);
    return;
  }
  if (is_scattered(u)) {
    const Tensor turned = kernels::contiguous(swapped(x, u));
    const Tensor result = empty_like(turned);
    plane_norm_backward_cuda(op, channels_first(u), eps, turned, weight,
                             kernels::contiguous(swapped(grad, u)), mean, variance, result, gw, gb);
    return kernels::copy(swapped(gx, u), result);
  }
  const Tensor w = weight.defined() ? kernels::contiguous(weight) : Tensor{};
  const Tensor sums =
      empty({x.numel() / u.plane / u.channels, 2, u.channels}, {mean.dtype(), x.device()});
  cuda::visit_floating(op, x.dtype(), [&]<class E>() {
    visit_kernels<E>(w, {}, vector_planes<E>(u, {x, grad, gx}), [&]<class T, class W, int V>() {
      run_back<T, W, V>(op, u, eps, x, w, grad, mean, variance, gx, sums);
    });
  });
  if (gw.defined() && gb.defined() && gw.dtype() != gb.dtype()) {
    add_partials_cuda(op, sums, gw, {});
    add_partials_cuda(op, sums, {}, gb);
  } else {
    add_partials_cuda(op, sums, gw, gb);
  }
}

}  // namespace tessera::detail
