#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/strided.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/copy_cuda.h"

namespace tessera::kernels {
namespace {

constexpr int kWidth = 8;  // elements per thread
constexpr unsigned kThreads = 256;

template <class To, class From>
__global__ void copy_kernel(cuda::Strided<2> s) {
  To* to = static_cast<To*>(s.data[0]);
  const From* from = static_cast<const From*>(s.data[1]);
  const unsigned step = gridDim.x * blockDim.x;
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  int64_t at[2];
  if (s.vector && s.stride[0][0] == 1 && s.stride[1][0] == 1) {
    for (uint64_t i = uint64_t{thread} * kWidth; i < s.count; i += uint64_t{step} * kWidth) {
      s.offsets(static_cast<unsigned>(i), at);
      if (i + kWidth <= s.count) {
        const auto x = cuda::load<kWidth>(from + at[1]);
        cuda::Vector<To, kWidth> y;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) y[e] = convert<To>(x[e]);
        cuda::store(to + at[0], y);
      } else {
        for (unsigned e = 0; i + e < s.count; ++e) to[at[0] + e] = convert<To>(from[at[1] + e]);
      }
    }
    return;
  }
  for (uint64_t i = thread; i < s.count; i += step) {
    s.offsets(static_cast<unsigned>(i), at);
    to[at[0]] = convert<To>(from[at[1]]);
  }
}

// A plane whose rows are dense in one operand and whose columns are in the other: through tiles in
// shared memory, so that both are walked along their rows.
constexpr int kTile = 32;
template <class To, class From>
__global__ void transpose_kernel(To* to, const From* from, int64_t rows, int64_t columns,
                                 int64_t to_row, int64_t from_column, int64_t to_batch,
                                 int64_t from_batch) {
  __shared__ From tile[kTile][kTile + 1];
  to += blockIdx.z * to_batch;
  from += blockIdx.z * from_batch;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t c = column + i, r = row + threadIdx.x;
    if (c < columns && r < rows) tile[i][threadIdx.x] = from[c * from_column + r];
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kTile; i += blockDim.y) {
    const int64_t r = row + i, c = column + threadIdx.x;
    if (c < columns && r < rows) to[r * to_row + c] = convert<To>(tile[threadIdx.x][i]);
  }
}

template <class To, class From>
bool transposed_copy(const Tensor& dst, const Tensor& src) {
  const Tensor* operands[] = {&dst, &src};
  const StridedLoop loop(dst.shape(), operands);
  const Shape& shape = loop.shape();
  const int64_t rank = shape.rank();
  if (rank < 2 || rank > 3 || loop.row_stride(0) != 1) return false;
  const Strides &to = loop.strides(0), &from = loop.strides(1);
  if (from[rank - 2] != 1 || from[rank - 1] < 8 || shape[rank - 1] < 8 || shape[rank - 2] < 8) {
    return false;
  }
  const int64_t batch = rank == 3 ? shape[0] : 1;
  const int64_t rows = shape[rank - 2], columns = shape[rank - 1];
  if (batch > 65535 || (rows + kTile - 1) / kTile > 65535) return false;
  const dim3 grid(static_cast<unsigned>((columns + kTile - 1) / kTile),
                  static_cast<unsigned>((rows + kTile - 1) / kTile), static_cast<unsigned>(batch));
  cuda::launch("copy", dst.device(), transpose_kernel<To, From>, grid, dim3(kTile, 8), 0,
               static_cast<To*>(dst.raw_data()), static_cast<const From*>(src.raw_data()), rows,
               columns, to[rank - 2], from[rank - 1], rank == 3 ? to[0] : 0,
               rank == 3 ? from[0] : 0);
  return true;
}

template <class To, class From>
void copy_on_device(const Tensor& dst, const Tensor& src) {
  if (transposed_copy<To, From>(dst, src)) return;
  const Tensor* operands[] = {&dst, &src};
  cuda::for_each_launch<2>(dst.shape(), operands, kWidth, [&](const cuda::Strided<2>& s) {
    cuda::launch("copy", dst.device(), copy_kernel<To, From>,
                 cuda::blocks_for(s.count, kThreads * (s.vector ? kWidth : 1)), kThreads, 0, s);
  });
}

void copy_bytes(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind, Device device) {
  cuda::use(device);
  check(kind == cudaMemcpyDeviceToDevice || !cuda::is_capturing(device),
        "copy: between host and {} while a graph is recorded: the copy would not be repeated",
        device);
  cuda::check_status(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, cuda::stream(device)), "copy");
  if (kind == cudaMemcpyDeviceToHost) synchronize(device);
}

template <class T>
__global__ void fill_kernel(cuda::Strided<1> s, T value) {
  T* to = static_cast<T*>(s.data[0]);
  const unsigned step = gridDim.x * blockDim.x;
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  int64_t at[1];
  for (uint64_t i = thread; i < s.count; i += step) {
    s.offsets(static_cast<unsigned>(i), at);
    to[at[0]] = value;
  }
}

template <class T>
__global__ void arange_kernel(T* x, int64_t n, double start, double step) {
  for (int64_t i = cuda::thread_index(); i < n; i += cuda::thread_count()) {
    x[i] = convert<T>(start + static_cast<double>(i) * step);
  }
}

}  // namespace

void copy_cuda(const Tensor& dst, const Tensor& src) {
  if (dst.numel() == 0) return;
  const int64_t bytes = dst.numel() * size_of(dst.dtype());
  const bool dense = dst.is_contiguous() && src.is_contiguous() && dst.dtype() == src.dtype();
  if (dst.device() == src.device()) {
    if (dense) {
      copy_bytes(dst.raw_data(), src.raw_data(), bytes, cudaMemcpyDeviceToDevice, dst.device());
      return;
    }
    visit_dtype(dst.dtype(), [&]<class To>() {
      visit_dtype(src.dtype(), [&]<class From>() { copy_on_device<To, From>(dst, src); });
    });
    return;
  }
  // Between devices only dense memory travels.
  if (!dense) {
    const Tensor sent = contiguous(cast(src, dst.dtype()));
    if (dst.is_contiguous()) {
      copy_cuda(dst, sent);
    } else {
      Tensor arrived = empty_like(dst);
      copy_cuda(arrived, sent);
      copy(dst, arrived);
    }
  } else if (src.device().is_cpu()) {
    copy_bytes(dst.raw_data(), src.raw_data(), bytes, cudaMemcpyHostToDevice, dst.device());
  } else if (dst.device().is_cpu()) {
    copy_bytes(dst.raw_data(), src.raw_data(), bytes, cudaMemcpyDeviceToHost, src.device());
  } else {
    synchronize(src.device());
    cuda::use(dst.device());
    cuda::check_status(
        cudaMemcpyPeerAsync(dst.raw_data(), dst.device().index, src.raw_data(), src.device().index,
                            static_cast<size_t>(bytes), cuda::stream(dst.device())),
        "copy");
    synchronize(dst.device());
  }
}

void fill_cuda(const Tensor& x, double value) {
  if (x.numel() == 0) return;
  visit_dtype(x.dtype(), [&]<class T>() {
    const T converted = convert<T>(value);
    const char zero[sizeof(T)] = {};
    if (x.is_contiguous() && std::memcmp(&converted, zero, sizeof(T)) == 0) {
      cuda::use(x.device());
      cuda::check_status(
          cudaMemsetAsync(x.raw_data(), 0, sizeof(T) * x.numel(), cuda::stream(x.device())),
          "fill");
      return;
    }
    const Tensor* operands[] = {&x};
    cuda::for_each_launch<1>(x.shape(), operands, 1, [&](const cuda::Strided<1>& s) {
      cuda::launch("fill", x.device(), fill_kernel<T>, cuda::blocks_for(s.count, kThreads),
                   kThreads, 0, s, converted);
    });
  });
}

void arange_cuda(const Tensor& x, double start, double step) {
  visit_dtype(x.dtype(), [&]<class T>() {
    cuda::launch("arange", x.device(), arange_kernel<T>, cuda::blocks_for(x.numel(), kThreads),
                 kThreads, 0, cuda::data<T>(x), x.numel(), start, step);
  });
}

}  // namespace tessera::kernels
