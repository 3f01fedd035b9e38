// Pointwise functions are written once, as a functor:
//
//   struct Softcap {                                  // c tanh(x / c)
//     static constexpr std::string_view name = "softcap";
//     double cap;
//     template <class T> T operator()(T x) const {
//       const auto c = constant<T>(cap);
//       return c * math::tanh(x / c);
//     }
//   };
//   Tensor softcap(const Tensor& x, double cap) { return pointwise(Softcap{cap}, x); }
//
// pointwise() runs it over any number of broadcast, strided inputs of mixed dtypes, and
// differentiates it by evaluating it on dual numbers: one pass forward, one backward per input that
// wants a gradient, no intermediate tensors. Second derivatives nest the dual numbers; third ones
// are refused. Functors compose only the primitives of core/math.h.
//
// The result has the promoted dtype of the inputs; integers become f32 unless the functor says
// `static constexpr bool integral = true` (then it also runs on int64_t). Halves compute in f32.
#pragma once

#include <array>
#include <tuple>
#include <utility>

#include "tessera/autograd/op.h"
#include "tessera/autograd/pointwise_cuda.h"
#include "tessera/core/dual.h"
#include "tessera/core/math.h"

namespace tessera {

// A parameter of a functor in the functor's compute type (the scalar type below dual numbers).
template <class T>
constexpr scalar_of_t<T> constant(double value) {
  return static_cast<scalar_of_t<T>>(value);
}

namespace detail {

// A block of at most kBlock elements: dense inputs of the compute type, dense output.
constexpr int64_t kBlock = 1024;
template <class T>
using BlockFn = void (*)(const void* functor, const T* const* in, T* out, int64_t n);

struct PointwiseKernel {
  std::string_view name;
  const void* functor = nullptr;
  BlockFn<float> f32 = nullptr;
  BlockFn<double> f64 = nullptr;
  BlockFn<int64_t> i64 = nullptr;  // null: integers are computed in f32
  DeviceFn device_f32 = nullptr;   // the same on CUDA
  DeviceFn device_f64 = nullptr;
  DeviceFn device_i64 = nullptr;
  bool predicate = false;  // the result is bool
};

// What a kernel computes from the values of its inputs.
template <class F>
struct Value {
  F f;
  template <class... T>
  TESSERA_HD auto operator()(T... x) const {
    return f(x...);
  }
};
// g · ∂f/∂x_K; the gradient g comes first among the inputs.
template <class F, size_t K>
struct Derivative {
  F f;
  template <class T, class... X>
  TESSERA_HD T operator()(T g, X... x) const {
    return at(g, std::index_sequence_for<X...>{}, x...);
  }

 private:
  template <class T, size_t... I, class... X>
  TESSERA_HD T at(T g, std::index_sequence<I...>, X... x) const {
    return g * f(Dual<T>{x, static_cast<T>(I == K ? 1 : 0)}...).deriv;
  }
};

// The device functions of a kernel; none where this file is compiled for the CPU alone.
template <class Call, class F, size_t N>
void set_device_kernels([[maybe_unused]] PointwiseKernel& kernel) {
#ifdef __CUDACC__
  kernel.device_f32 = [](const void* f, std::string_view name, const Tensor& out,
                         const Tensor* const* in) {
    run_on_device<Call, float>(Call{*static_cast<const F*>(f)}, name, out, in,
                               std::make_index_sequence<N>{});
  };
  kernel.device_f64 = [](const void* f, std::string_view name, const Tensor& out,
                         const Tensor* const* in) {
    run_on_device<Call, double>(Call{*static_cast<const F*>(f)}, name, out, in,
                                std::make_index_sequence<N>{});
  };
#endif
}

// Runs a kernel over the broadcast inputs; `shape` of the result is the broadcast shape.
Tensor run_pointwise(const PointwiseKernel& kernel, std::span<const Tensor> inputs);
// Adds up broadcast dimensions and converts, so that `grad` fits `input`; differentiable.
Tensor fit_gradient(const Tensor& grad, const Tensor& input);

template <class F>
constexpr bool is_integral_functor = requires {
  requires F::integral;
};

// Flatten inlines a functor and all that it calls: the loop vectorises only then.
template <class F, class T, size_t... I>
[[gnu::flatten]] void forward_block(const void* functor, const T* const* in, T* out, int64_t n,
                                    std::index_sequence<I...>) {
  const F f = *static_cast<const F*>(functor);
  const std::array<const T*, sizeof...(I)> x = {in[I]...};
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(f(x[I][i]...));
}

// out = g · ∂f/∂x_K; the gradient g comes first among the inputs.
template <class F, class T, size_t K, size_t... I>
[[gnu::flatten]] void backward_block(const void* functor, const T* const* in, T* out, int64_t n,
                                     std::index_sequence<I...>) {
  const F f = *static_cast<const F*>(functor);
  const T* g = in[0];
  const std::array<const T*, sizeof...(I)> x = {in[I + 1]...};
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    out[i] = g[i] * f(Dual<T>{x[I][i], static_cast<T>(I == K ? 1 : 0)}...).deriv;
  }
}

template <class F, size_t N>
PointwiseKernel forward_kernel(const F& f) {
  using Index = std::make_index_sequence<N>;
  PointwiseKernel kernel{.name = F::name, .functor = &f};
  kernel.f32 = [](const void* fn, const float* const* in, float* out, int64_t n) {
    forward_block<F, float>(fn, in, out, n, Index{});
  };
  kernel.f64 = [](const void* fn, const double* const* in, double* out, int64_t n) {
    forward_block<F, double>(fn, in, out, n, Index{});
  };
  if constexpr (is_integral_functor<F>) {
    kernel.i64 = [](const void* fn, const int64_t* const* in, int64_t* out, int64_t n) {
      forward_block<F, int64_t>(fn, in, out, n, Index{});
    };
#ifdef __CUDACC__
    kernel.device_i64 = [](const void* fn, std::string_view name, const Tensor& out,
                           const Tensor* const* in) {
      run_on_device<Value<F>, int64_t>(Value<F>{*static_cast<const F*>(fn)}, name, out, in,
                                       Index{});
    };
#endif
  }
  set_device_kernels<Value<F>, F, N>(kernel);
  return kernel;
}

template <class F, size_t N, size_t K>
PointwiseKernel backward_kernel(const F& f) {
  using Index = std::make_index_sequence<N>;
  PointwiseKernel kernel{.name = F::name, .functor = &f};
  kernel.f32 = [](const void* fn, const float* const* in, float* out, int64_t n) {
    backward_block<F, float, K>(fn, in, out, n, Index{});
  };
  kernel.f64 = [](const void* fn, const double* const* in, double* out, int64_t n) {
    backward_block<F, double, K>(fn, in, out, n, Index{});
  };
  set_device_kernels<Derivative<F, K>, F, N + 1>(kernel);
  return kernel;
}

// The function (g, x…) ↦ g ∂f/∂x_K(x…) as a pointwise op of its own, used under create_graph. It
// computes in f64 for every dtype, which halves what has to be compiled, and on the CPU alone.
template <class F, size_t K>
struct Partial {
  static constexpr std::string_view name = F::name;
  F f;
  template <class T, class... X>
  TESSERA_HD T operator()(T g, X... x) const {
    return partial(g, std::array<T, sizeof...(X)>{x...}, std::index_sequence_for<X...>{});
  }

 private:
  template <class T, size_t N, size_t... I>
  T partial(T g, const std::array<T, N>& x, std::index_sequence<I...>) const {
    return g * f(Dual<T>{x[I], T(scalar_of_t<T>(I == K ? 1 : 0))}...).deriv;
  }
};

template <class P, size_t N, size_t K>
PointwiseKernel partial_backward_kernel(const P& p) {
  PointwiseKernel kernel{.name = P::name, .functor = &p};
  kernel.f64 = [](const void* fn, const double* const* in, double* out, int64_t n) {
    backward_block<P, double, K>(fn, in, out, n, std::make_index_sequence<N>{});
  };
  return kernel;
}

template <class P, size_t N>
struct PartialOp {
  static constexpr std::string_view name = P::name;
  P p;

  Tensor forward(Forward& f, const TensorList& inputs) const {
    for (const Tensor& x : inputs) f.save(x);
    PointwiseKernel kernel{.name = name, .functor = &p};
    kernel.f64 = [](const void* fn, const double* const* in, double* out, int64_t n) {
      forward_block<P, double>(fn, in, out, n, std::make_index_sequence<N>{});
    };
    return run_pointwise(kernel, inputs);
  }

  void backward(Backward& b) const {
    check(!b.recording(), "{}: third derivatives of pointwise functions are not available", name);
    backward_each(b, std::make_index_sequence<N>{});
  }

 private:
  template <size_t... K>
  void backward_each(Backward& b, std::index_sequence<K...>) const {
    std::array<Tensor, N + 1> inputs = {b.grad(), b.saved(static_cast<int>(K))...};
    auto one = [&](auto k) {
      constexpr int i = decltype(k)::value;
      if (!b.needs(i)) return;
      const auto kernel = partial_backward_kernel<P, N, i>(p);
      b.add(i, fit_gradient(run_pointwise(kernel, inputs), inputs[i + 1]));
    };
    (one(std::integral_constant<int, static_cast<int>(K)>{}), ...);
  }
};

template <class F, size_t N>
struct PointwiseOp {
  static constexpr std::string_view name = F::name;
  F f;

  template <class... In>
  Tensor forward(Forward& forward, const In&... inputs) const {
    forward.save(inputs...);
    const std::array<Tensor, N> list = {inputs...};
    return run_pointwise(forward_kernel<F, N>(f), list);
  }

  void backward(Backward& b) const { backward_each(b, std::make_index_sequence<N>{}); }

 private:
  template <size_t... K>
  void backward_each(Backward& b, std::index_sequence<K...>) const {
    const TensorList inputs = {b.grad(), b.saved(static_cast<int>(K))...};
    auto one = [&](auto k) {
      constexpr int i = decltype(k)::value;
      if (!b.needs(i)) return;
      Tensor g;
      if (b.recording()) {
        using P = Partial<F, static_cast<size_t>(i)>;
        g = apply_list(PartialOp<P, N + 1>{P{f}}, inputs);
      } else {
        g = run_pointwise(backward_kernel<F, N, static_cast<size_t>(i)>(f), inputs);
      }
      b.add(i, fit_gradient(g, inputs[i + 1]));
    };
    (one(std::integral_constant<int, static_cast<int>(K)>{}), ...);
  }
};

}  // namespace detail

// y = f(x…), element by element over the broadcast inputs; twice differentiable.
template <class F, std::same_as<Tensor>... In>
Tensor pointwise(const F& f, const In&... inputs) {
  return apply(detail::PointwiseOp<F, sizeof...(In)>{f}, inputs...);
}

// grad · ∂f/∂x_K (x…), of the broadcast shape and without history: for fused ops that hold what a
// pointwise step between two products got.
template <size_t K, class F, std::same_as<Tensor>... In>
Tensor pointwise_derivative(const F& f, const Tensor& grad, const In&... inputs) {
  const std::array<Tensor, sizeof...(In) + 1> list = {grad, inputs...};
  return detail::run_pointwise(detail::backward_kernel<F, sizeof...(In), K>(f), list);
}

// A functor that answers true or false (or anything without a derivative): the result is bool.
template <class F, std::same_as<Tensor>... In>
Tensor predicate(const F& f, const In&... inputs) {
  detail::PointwiseKernel kernel = detail::forward_kernel<F, sizeof...(In)>(f);
  kernel.predicate = true;
  const std::array<Tensor, sizeof...(In)> list = {inputs...};
  return detail::run_pointwise(kernel, list);
}

}  // namespace tessera
