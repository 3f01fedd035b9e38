#include "tessera/autograd/pointwise.h"

#include "tessera/autograd/ops/cast.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/strided.h"

namespace tessera::detail {
namespace {

// An operand as the block loop sees it: a dense block of T, straight from memory when it lies so,
// else converted into a scratch block.
template <class T>
struct Operand {
  const Tensor* tensor;
  int64_t step;
  bool direct;

  const T* load(int64_t offset, int64_t n, T* scratch) const {
    if (direct) return static_cast<const T*>(tensor->raw_data()) + offset;
    visit_dtype(tensor->dtype(), [&]<class From>() {
      const From* from = static_cast<const From*>(tensor->raw_data()) + offset;
      if (step == 0) {
        std::fill(scratch, scratch + n, convert<T>(*from));
      } else if (step == 1) {
        for (int64_t i = 0; i < n; ++i) scratch[i] = convert<T>(from[i]);
      } else {
        for (int64_t i = 0; i < n; ++i) scratch[i] = convert<T>(from[i * step]);
      }
    });
    return scratch;
  }
};

template <class T>
void store(const Tensor& out, int64_t offset, const T* block, int64_t n) {
  visit_dtype(out.dtype(), [&]<class To>() {
    To* to = static_cast<To*>(out.raw_data()) + offset;
    for (int64_t i = 0; i < n; ++i) to[i] = convert<To>(block[i]);
  });
}

template <class T>
void run_blocks(const PointwiseKernel& kernel, BlockFn<T> block, const Tensor& out,
                std::span<const Tensor> inputs) {
  std::array<const Tensor*, kernels::kMaxOperands> operands{&out};
  for (size_t i = 0; i < inputs.size(); ++i) operands[i + 1] = &inputs[i];
  const kernels::StridedLoop loop(out.shape(), {operands.data(), inputs.size() + 1});
  std::array<Operand<T>, kernels::kMaxOperands> in;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t step = loop.row_stride(static_cast<int64_t>(i) + 1);
    in[i] = {&inputs[i], step, step == 1 && inputs[i].dtype() == dtype_of<T>()};
  }
  const bool direct_out = out.dtype() == dtype_of<T>();
  loop.for_each_piece(kGrain, [&](const int64_t* offsets, int64_t count) {
    alignas(64) T scratch[kernels::kMaxOperands][kBlock];
    std::array<const T*, kernels::kMaxOperands> blocks{};
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t n = std::min(kBlock, count - begin);
      for (size_t i = 0; i < inputs.size(); ++i) {
        blocks[i] = in[i].load(offsets[i + 1] + begin * in[i].step, n, scratch[i + 1]);
      }
      if (direct_out) {
        block(kernel.functor, blocks.data(), static_cast<T*>(out.raw_data()) + offsets[0] + begin,
              n);
      } else {
        block(kernel.functor, blocks.data(), scratch[0], n);
        store(out, offsets[0] + begin, scratch[0], n);
      }
    }
  });
}

void run_on_cuda(const PointwiseKernel& kernel, bool integral, const Tensor& out,
                 std::span<const Tensor> inputs) {
  const DType dtype = out.dtype() == DType::boolean ? inputs[0].dtype() : out.dtype();
  const bool wide = std::any_of(inputs.begin(), inputs.end(),
                                [](const Tensor& x) { return x.dtype() == DType::f64; });
  const DeviceFn run = integral ? kernel.device_i64 : wide ? kernel.device_f64 : kernel.device_f32;
  check(run != nullptr,
        "{}: no CUDA kernel for {}; second derivatives and functors outside of the library run on "
        "the CPU",
        kernel.name, dtype);
  std::array<const Tensor*, kernels::kMaxOperands> operands{};
  for (size_t i = 0; i < inputs.size(); ++i) operands[i] = &inputs[i];
  run(kernel.functor, kernel.name, out, operands.data());
}

}  // namespace

Tensor run_pointwise(const PointwiseKernel& kernel, std::span<const Tensor> inputs) {
  check(inputs.size() < static_cast<size_t>(kernels::kMaxOperands), "{}: {} inputs, at most {}",
        kernel.name, inputs.size(), kernels::kMaxOperands - 1);
  Shape shape;
  DType dtype = inputs[0].dtype();
  for (const Tensor& x : inputs) {
    check(x.device() == inputs[0].device(), "{}: inputs on different devices: {} and {}",
          kernel.name, inputs[0].device(), x.device());
    shape = broadcast_shapes(shape, x.shape(), kernel.name);
    dtype = promote(dtype, x.dtype());
  }
  const bool integral = is_integral(dtype) && kernel.i64 != nullptr;
  if (is_integral(dtype) && !integral) dtype = DType::f32;
  const Tensor out = empty(shape, {kernel.predicate ? DType::boolean : dtype, inputs[0].device()});
  if (out.device().is_cuda()) {
    run_on_cuda(kernel, integral, out, inputs);
  } else if (integral) {
    run_blocks<int64_t>(kernel, kernel.i64, out, inputs);
  } else if (dtype == DType::f64 || kernel.f32 == nullptr) {
    run_blocks<double>(kernel, kernel.f64, out, inputs);
  } else {
    run_blocks<float>(kernel, kernel.f32, out, inputs);
  }
  return out;
}

Tensor fit_gradient(const Tensor& grad, const Tensor& input) {
  return cast(sum_to(grad, input.shape()), input.dtype());
}

}  // namespace tessera::detail
