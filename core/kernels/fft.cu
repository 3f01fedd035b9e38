#include <cufft.h>

#include <map>
#include <mutex>
#include <tuple>

#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/planes.h"
#include "tessera/core/cuda/strided.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fft_cuda.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/view.h"

namespace tessera::kernels {
namespace {

void check_fft(cufftResult status) {
  check(status == CUFFT_SUCCESS, "fft: cuFFT reports error {}", static_cast<int>(status));
}

enum class Transform { complex, to_bins, from_bins };

cufftType type_of(Transform transform, bool wide) {
  switch (transform) {
    case Transform::complex:
      return wide ? CUFFT_Z2Z : CUFFT_C2C;
    case Transform::to_bins:
      return wide ? CUFFT_D2Z : CUFFT_R2C;
    default:
      return wide ? CUFFT_Z2D : CUFFT_C2R;
  }
}

struct Plan {
  cufftHandle handle = 0;
  size_t work = 0;  // bytes
};

Plan make_plan(Device device, cufftType type, int64_t n, int64_t rows) {
  check(!cuda::is_capturing(device),
        "fft: {} rows of length {} while a graph is recorded, but their plan is not made yet; run "
        "the function once before",
        rows, n);
  cuda::use(device);
  Plan plan;
  check_fft(cufftCreate(&plan.handle));
  check_fft(cufftSetAutoAllocation(plan.handle, 0));
  long long length = n;
  check_fft(cufftMakePlanMany64(plan.handle, 1, &length, nullptr, 1, 0, nullptr, 1, 0, type, rows,
                                &plan.work));
  return plan;
}

// Runs the transform of `rows` rows, x → y. Plans are kept, one per size, number of rows and type;
// their work area lives for the call. C2R may destroy x.
void transform(Transform kind, const Tensor& x, const Tensor& y, int64_t n, int64_t rows,
               int direction) {
  static std::mutex mutex;
  static auto& plans = *new std::map<std::tuple<int, int, int64_t, int64_t>, Plan>;
  const Device device = x.device();
  const bool wide = x.dtype() == DType::f64;
  const cufftType type = type_of(kind, wide);
  std::lock_guard lock(mutex);
  auto [entry, fresh] = plans.try_emplace({device.index, static_cast<int>(type), n, rows});
  if (fresh) {
    try {
      entry->second = make_plan(device, type, n, rows);
    } catch (...) {
      plans.erase(entry);
      throw;
    }
  }
  const Plan& plan = entry->second;
  const Tensor work = empty({static_cast<int64_t>(plan.work) + 1}, {DType::u8, device});
  cuda::use(device);
  check_fft(cufftSetStream(plan.handle, cuda::stream(device)));
  check_fft(cufftSetWorkArea(plan.handle, work.raw_data()));
  void* from = x.raw_data();
  void* to = y.raw_data();
  switch (type) {
    case CUFFT_C2C:
      return check_fft(cufftExecC2C(plan.handle, static_cast<cufftComplex*>(from),
                                    static_cast<cufftComplex*>(to), direction));
    case CUFFT_Z2Z:
      return check_fft(cufftExecZ2Z(plan.handle, static_cast<cufftDoubleComplex*>(from),
                                    static_cast<cufftDoubleComplex*>(to), direction));
    case CUFFT_R2C:
      return check_fft(
          cufftExecR2C(plan.handle, static_cast<cufftReal*>(from), static_cast<cufftComplex*>(to)));
    case CUFFT_D2Z:
      return check_fft(cufftExecD2Z(plan.handle, static_cast<cufftDoubleReal*>(from),
                                    static_cast<cufftDoubleComplex*>(to)));
    case CUFFT_C2R:
      return check_fft(
          cufftExecC2R(plan.handle, static_cast<cufftComplex*>(from), static_cast<cufftReal*>(to)));
    default:
      return check_fft(cufftExecZ2D(plan.handle, static_cast<cufftDoubleComplex*>(from),
                                    static_cast<cufftDoubleReal*>(to)));
  }
}

// to = scale · from for the bins of rows; the ends of a real row's bins (n its length, 0 for
// complex rows) have their own scale and no imaginary part.
template <class To, class From>
__global__ void scale_kernel(To* to, const From* from, int64_t rows, unsigned bins, int64_t n,
                             double ends, double middle) {
  using C = cuda::Compute<To>;
  const unsigned k = cuda::plane_element();
  if (k >= bins) return;
  const bool end = n > 0 && (k == 0 || 2 * static_cast<int64_t>(k) == n);
  const C scale = static_cast<C>(end ? ends : middle);
  for (int64_t r = cuda::first_plane(); r < rows; r += cuda::plane_step()) {
    const int64_t at = 2 * (r * bins + k);
    const C re = convert<C>(from[at]), im = convert<C>(from[at + 1]);
    to[at] = convert<To>(scale * re);
    to[at + 1] = convert<To>(end ? C(0) : scale * im);
  }
}

void scale_bins(const Tensor& to, const Tensor& from, int64_t rows, int64_t bins, int64_t n,
                double ends, double middle) {
  const cuda::PlaneGrid shape = cuda::plane_grid("fft", rows, bins);
  const auto run = [&]<class To, class From>(To, From) {
    cuda::launch("fft", to.device(), scale_kernel<To, From>, shape.grid, shape.block, 0,
                 cuda::data<To>(to), cuda::data<From>(from), rows, static_cast<unsigned>(bins), n,
                 ends, middle);
  };
  cuda::visit_floating("fft", to.dtype(), [&]<class To>() {
    if constexpr (sizeof(To) == 4) {
      cuda::visit_floating("fft", from.dtype(), [&]<class From>() {
        if constexpr (sizeof(From) <= 4) run(To{}, From{});
      });
    } else {
      run(To{}, cuda::Compute<To>{});
    }
  });
}

DType wide_dtype(const Tensor& x) {
  return x.dtype() == DType::f64 ? DType::f64 : DType::f32;
}

// What cuFFT can read: f32 or f64 that begins where complex numbers may.
Tensor readable(const Tensor& x) {
  const Tensor wide = cast(x, wide_dtype(x));
  return reinterpret_cast<uintptr_t>(wide.raw_data()) % 16 == 0 ? wide : clone(wide);
}
Tensor writable(const Tensor& x) {
  return x.dtype() == wide_dtype(x) ? x : empty(x.shape(), {DType::f32, x.device()});
}

template <class T>
__global__ void complex_mul_kernel(cuda::Strided<3> s, cuda::Compute<T> sign) {
  using C = cuda::Compute<T>;
  T* y = static_cast<T*>(s.data[0]);
  const T* a = static_cast<const T*>(s.data[1]);
  const T* b = static_cast<const T*>(s.data[2]);
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = cuda::thread_index(); i < s.count; i += step) {
    int64_t at[3];
    s.offsets(static_cast<unsigned>(i), at);
    const C ar = convert<C>(a[at[1]]), ai = convert<C>(a[at[1] + 1]);
    const C br = convert<C>(b[at[2]]), bi = sign * convert<C>(b[at[2] + 1]);
    y[at[0]] = convert<T>(ar * br - ai * bi);
    y[at[0] + 1] = convert<T>(ai * br + ar * bi);
  }
}

}  // namespace

void fft_cuda(const Tensor& x, const Tensor& y, int64_t n, bool inverse, double scale) {
  if (x.numel() == 0) return;
  const int64_t rows = x.numel() / (2 * n);
  const Tensor result = n == 1 ? readable(x) : writable(y);
  if (n > 1) {
    transform(Transform::complex, readable(x), result, n, rows,
              inverse ? CUFFT_INVERSE : CUFFT_FORWARD);
  }
  if (!result.is_same(y) || scale != 1) scale_bins(y, result, rows, n, 0, scale, scale);
}

void rfft_cuda(const Tensor& x, const Tensor& y, int64_t n, double ends, double middle) {
  if (x.numel() == 0) return;
  const int64_t rows = x.numel() / n;
  const Tensor result = writable(y);
  if (n == 1) {
    fill(result, 0);
    copy(views::select(views::select(result, -1, 0), -1, 0), views::select(x, -1, 0));
  } else {
    transform(Transform::to_bins, readable(x), result, n, rows, CUFFT_FORWARD);
  }
  scale_bins(y, result, rows, n / 2 + 1, n, ends, middle);
}

void irfft_cuda(const Tensor& y, const Tensor& x, int64_t n, double ends, double middle) {
  if (x.numel() == 0) return;
  const int64_t rows = x.numel() / n;
  const Tensor bins = empty(y.shape(), {wide_dtype(y), y.device()});
  scale_bins(bins, y, rows, n / 2 + 1, n, ends, middle);
  if (n == 1) {
    copy(views::select(x, -1, 0), views::select(views::select(bins, -1, 0), -1, 0));
    return;
  }
  const Tensor result = writable(x);
  transform(Transform::from_bins, bins, result, n, rows, CUFFT_INVERSE);
  if (!result.is_same(x)) copy(x, result);
}

void complex_mul_cuda(const Tensor& y, const Tensor& a, const Tensor& b, bool conjugate_b) {
  const Tensor* operands[] = {&y, &a, &b};
  cuda::visit_floating("complex_mul", y.dtype(), [&]<class T>() {
    cuda::for_each_launch<3>(y.shape(), operands, 1, [&](const cuda::Strided<3>& s) {
      cuda::launch("complex_mul", y.device(), complex_mul_kernel<T>, cuda::blocks_for(s.count, 256),
                   256, 0, s, cuda::Compute<T>(conjugate_b ? -1 : 1));
    });
  });
}

}  // namespace tessera::kernels
