#include "tessera/core/kernels/gemm.h"

#include <cblas.h>

#include <atomic>

#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/kernels/gemm_cuda.h"
#include "tessera/core/kernels/strided.h"
#include "tessera/core/view.h"

namespace tessera::kernels {
namespace {

std::atomic<int64_t> flops{0};
std::atomic<bool> allow_tf32{false};

// One matrix operand: row-major with leading dimension `ld`, or the transpose of such a one.
struct Operand {
  Tensor tensor;
  bool transposed = false;
  int64_t ld = 1;
};

bool fits(int64_t inner_stride, int64_t outer_stride, int64_t inner, int64_t outer) {
  return (inner_stride == 1 || inner == 1) && (outer_stride >= inner || outer == 1);
}

Operand operand(const Tensor& x) {
  const int64_t rows = x.size(-2);
  const int64_t columns = x.size(-1);
  if (fits(x.stride(-1), x.stride(-2), columns, rows)) {
    return {x, false, std::max<int64_t>({1, columns, rows > 1 ? x.stride(-2) : 1})};
  }
  if (fits(x.stride(-2), x.stride(-1), rows, columns)) {
    return {x, true, std::max<int64_t>({1, rows, columns > 1 ? x.stride(-1) : 1})};
  }
  return {contiguous(x), false, std::max<int64_t>(1, columns)};
}

struct Sizes {
  int64_t m, n, k;
};

void call(const Operand& a, const Operand& b, const float* pa, const float* pb, float* pc,
          int64_t ldc, Sizes s, double alpha, double beta) {
  cblas_sgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans,
              b.transposed ? CblasTrans : CblasNoTrans, static_cast<blasint>(s.m),
              static_cast<blasint>(s.n), static_cast<blasint>(s.k), static_cast<float>(alpha), pa,
              static_cast<blasint>(a.ld), pb, static_cast<blasint>(b.ld), static_cast<float>(beta),
              pc, static_cast<blasint>(ldc));
}

void call(const Operand& a, const Operand& b, const double* pa, const double* pb, double* pc,
          int64_t ldc, Sizes s, double alpha, double beta) {
  cblas_dgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans,
              b.transposed ? CblasTrans : CblasNoTrans, static_cast<blasint>(s.m),
              static_cast<blasint>(s.n), static_cast<blasint>(s.k), alpha, pa,
              static_cast<blasint>(a.ld), pb, static_cast<blasint>(b.ld), beta, pc,
              static_cast<blasint>(ldc));
}

// How one product is cut: along its longer side, into blocks that depend on the sizes alone.
struct Blocks {
  bool rows = true;
  int64_t size = 1;
  int64_t count = 1;
};

Blocks blocks_of(Sizes s) {
  const int64_t side = std::max(s.m, s.n);
  int64_t size = side;
  if (s.m * s.n * s.k > 64 * 64 * 64) {
    size = std::clamp<int64_t>((side / 4 + 15) / 16 * 16, 32, kRowsPerBlock);
  }
  size = std::max<int64_t>(1, size);
  return {s.m >= s.n, size, (side + size - 1) / size};
}

template <class T>
void run(const Tensor& c, const Operand& a, const Operand& b, Sizes s, double alpha, double beta) {
  const int64_t ldc = std::max<int64_t>(s.n, s.m > 1 ? c.stride(-2) : 1);
  Shape batch = c.shape();
  batch.pop_back();
  batch.pop_back();
  // Offsets of the matrices of one batch entry: a loop over the batch dimensions alone.
  const Tensor heads[] = {views::select(views::select(c, -1, 0), -1, 0),
                          views::select(views::select(a.tensor, -1, 0), -1, 0),
                          views::select(views::select(b.tensor, -1, 0), -1, 0)};
  const Tensor* operands[] = {&heads[0], &heads[1], &heads[2]};
  const StridedLoop loop(batch, operands);
  const int64_t count = batch.numel();
  const int64_t row = loop.row_size();
  const Blocks cut = count >= 8 ? Blocks{true, s.m, 1} : blocks_of(s);
  T* pc = c.data<T>();
  const T* pa = a.tensor.data<T>();
  const T* pb = b.tensor.data<T>();
  parallel_for(count * cut.count, count * s.m * s.n * std::max<int64_t>(1, s.k / 4),
               [&](int64_t t) {
                 const int64_t entry = t / cut.count;
                 std::array<int64_t, kMaxOperands> at{};
                 loop.row_offsets(entry / row, at.data());
                 for (int64_t i = 0; i < 3; ++i)
                   at[static_cast<size_t>(i)] += entry % row * loop.row_stride(i);
                 const int64_t begin = t % cut.count * cut.size;
                 Sizes piece = s;
                 if (cut.rows) {
                   piece.m = std::min(cut.size, s.m - begin);
                   at[0] += begin * ldc;
                   at[1] += begin * (a.transposed ? 1 : a.ld);
                 } else {
                   piece.n = std::min(cut.size, s.n - begin);
                   at[0] += begin;
                   at[2] += begin * (b.transposed ? b.ld : 1);
                 }
                 call(a, b, pa + at[1], pb + at[2], pc + at[0], ldc, piece, alpha, beta);
               });
}

}  // namespace

void gemm(const Tensor& c, const Tensor& a, const Tensor& b, double alpha, double beta) {
  check(a.rank() >= 2 && b.rank() >= 2 && c.rank() >= 2, "gemm: wants matrices, got {} x {} -> {}",
        a.shape(), b.shape(), c.shape());
  const Sizes s{c.size(-2), c.size(-1), a.size(-1)};
  check(a.size(-2) == s.m && b.size(-1) == s.n && b.size(-2) == s.k,
        "gemm: sizes do not fit: {} x {} -> {}", a.shape(), b.shape(), c.shape());
  const bool widens = c.device().is_cuda() && is_half(a.dtype()) && c.dtype() == DType::f32;
  check(a.dtype() == b.dtype() && (a.dtype() == c.dtype() || widens),
        "gemm: dtypes differ: {} x {} -> {}", a.dtype(), b.dtype(), c.dtype());
  check(c.stride(-1) == 1 || s.n <= 1, "gemm: the result must have unit stride, has {}",
        c.strides());
  if (c.numel() == 0) return;
  if (s.k == 0) {
    if (beta == 0) fill(c, 0);
    return;
  }
  flops += 2 * c.numel() * s.k;
  if constexpr (kCuda) {
    if (c.device().is_cuda()) return gemm_cuda(c, a, b, alpha, beta);
  }
  visit_floating("gemm", c.dtype(),
                 [&]<class T>() { run<T>(c, operand(a), operand(b), s, alpha, beta); });
}

void set_tf32(bool on) {
  allow_tf32 = on;
}
bool tf32() {
  return allow_tf32;
}

int64_t gemm_flops() {
  return flops;
}

}  // namespace tessera::kernels
