#include "tessera/attention/merge_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera {
namespace {

constexpr unsigned kThreads = 128;

// The rows of a (B, H, N, D) tensor, or the entries of a (B, H, N) one.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  Rows() = default;
  explicit Rows(const Tensor& x)
      : data(cuda::data<std::remove_const_t<T>>(x)),
        batch(x.stride(0)),
        head(x.stride(1)),
        row(x.stride(2)) {}
  __device__ T* at(int64_t b, int64_t h, int64_t i) const {
    return data + b * batch + h * head + i * row;
  }
  bool is_aligned() const {
    return cuda::is_aligned(data, batch) && cuda::is_aligned(data, head) &&
           cuda::is_aligned(data, row);
  }
};

// T: of outputs; C: of logsumexps.
template <class T, class C>
struct Parts {
  int count;
  Rows<T> output[kMostMerged];
  Rows<C> logsumexp[kMostMerged];
};

// A row is the work of `lanes` neighbouring threads of a warp, each with every lanes-th piece of V
// elements.
struct Layout {
  int64_t heads, queries, rows;
  int width, lanes;
};
struct Position {
  int64_t b, h, i;
  int lane;
  bool there;
};
__device__ Position position_of(const Layout& at) {
  const int64_t thread = cuda::thread_index();
  const int64_t row = thread / at.lanes;
  const bool there = row < at.rows;
  const int64_t r = there ? row : 0;  // all lanes of a warp take part in its sums
  return {r / at.queries / at.heads, r / at.queries % at.heads, r % at.queries,
          static_cast<int>(thread % at.lanes), there};
}

template <class T, class C, int V>
__global__ void __launch_bounds__(kThreads)
    merge_kernel(Parts<const T, const C> in, Rows<T> output, Rows<C> logsumexp, Layout layout) {
  const Position p = position_of(layout);
  if (!p.there) return;
  C weight[kMostMerged];
  C top = -INFINITY, sum = 0;
#pragma unroll
  for (int k = 0; k < kMostMerged; ++k) {
    weight[k] = k < in.count ? *in.logsumexp[k].at(p.b, p.h, p.i) : -INFINITY;
    top = weight[k] > top ? weight[k] : top;
  }
  const bool some = top > -INFINITY;
#pragma unroll
  for (int k = 0; k < kMostMerged; ++k) {
    weight[k] = some ? ::exp(weight[k] - top) : C(0);
    sum += weight[k];
  }
  if (p.lane == 0) *logsumexp.at(p.b, p.h, p.i) = some ? top + ::log(sum) : top;
  const C scale = some ? 1 / sum : C(0);
  T* to = output.at(p.b, p.h, p.i);
  for (int d = p.lane * V; d < layout.width; d += layout.lanes * V) {
    C total[V] = {};
#pragma unroll
    for (int k = 0; k < kMostMerged; ++k) {
      if (weight[k] == 0) continue;  // an output without weight may hold anything
      const auto piece = cuda::load<V>(in.output[k].at(p.b, p.h, p.i) + d);
#pragma unroll
      for (int e = 0; e < V; ++e) total[e] += weight[k] * convert<C>(piece[e]);
    }
    cuda::Vector<T, V> result;
#pragma unroll
    for (int e = 0; e < V; ++e) result[e] = convert<T>(total[e] * scale);
    cuda::store(to + d, result);
  }
}

template <class T, class C, int V>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Parts<const T, const C> in, Rows<const T> output, Rows<const C> logsumexp,
                    Rows<const T> grad_output, Rows<const C> grad_logsumexp, Parts<T, C> grads,
                    Layout layout) {
  const Position p = position_of(layout);
  const C all = *logsumexp.at(p.b, p.h, p.i);
  const C down = grad_logsumexp.data != nullptr ? *grad_logsumexp.at(p.b, p.h, p.i) : C(0);
  const T* merged = output.at(p.b, p.h, p.i);
  const T* grad = grad_output.at(p.b, p.h, p.i);
#pragma unroll
  for (int k = 0; k < kMostMerged; ++k) {
    if (k >= in.count) break;
    const C own = *in.logsumexp[k].at(p.b, p.h, p.i);
    const C w = own > -INFINITY ? ::exp(own - all) : C(0);
    const T* from = in.output[k].at(p.b, p.h, p.i);
    T* to = grads.output[k].at(p.b, p.h, p.i);
    C dot = 0;
    for (int d = p.lane * V; d < layout.width; d += layout.lanes * V) {
      const auto g = cuda::load<V>(grad + d);
      cuda::Vector<T, V> result;
#pragma unroll
      for (int e = 0; e < V; ++e) result[e] = convert<T>(w * convert<C>(g[e]));
      if (p.there) cuda::store(to + d, result);
      if (w == 0) continue;
      const auto o = cuda::load<V>(from + d), m = cuda::load<V>(merged + d);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        dot += convert<C>(g[e]) * (convert<C>(o[e]) - convert<C>(m[e]));
      }
    }
    for (int step = 1; step < layout.lanes; step *= 2) {
      dot += __shfl_xor_sync(cuda::kAllLanes, dot, step);
    }
    if (p.there && p.lane == 0) {
      *grads.logsumexp[k].at(p.b, p.h, p.i) = w == 0 ? C(0) : w * (down + dot);
    }
  }
}

template <class T, class C>
Parts<T, C> parts_of(const TensorList& outputs, const TensorList& logsumexps) {
  Parts<T, C> parts{static_cast<int>(outputs.size()), {}, {}};
  for (size_t k = 0; k < outputs.size(); ++k) {
    parts.output[k] = Rows<T>(outputs[k]);
    parts.logsumexp[k] = Rows<C>(logsumexps[k]);
  }
  return parts;
}

template <class T, class C>
bool is_aligned(const Parts<T, C>& parts) {
  bool fits = true;
  for (int k = 0; k < parts.count; ++k) fits = fits && parts.output[k].is_aligned();
  return fits;
}

Layout layout_of(const Tensor& output, int piece) {
  const int64_t width = output.size(3);
  check(width < int64_t{1} << 30, "merge: rows of {} elements are too long", width);
  int lanes = 1;
  while (lanes < static_cast<int>(cuda::kWarp) && lanes * piece < width) lanes *= 2;
  return {output.size(1), output.size(2), output.size(0) * output.size(1) * output.size(2),
          static_cast<int>(width), lanes};
}

unsigned blocks_of(const Layout& layout) {
  const int64_t blocks = (layout.rows * layout.lanes + kThreads - 1) / kThreads;
  check(blocks < int64_t{1} << 31, "merge: {} rows are more than a launch takes", layout.rows);
  return static_cast<unsigned>(blocks);
}

// fn.template operator()<V>() with V elements per access.
template <class T, class Fn>
void visit_piece(bool aligned, int64_t width, const Fn& fn) {
  if (aligned && width % cuda::kVectorSize<T> == 0) {
    fn.template operator()<cuda::kVectorSize<T>>();
  } else {
    fn.template operator()<1>();
  }
}

}  // namespace

AttentionResult merge_cuda(const TensorList& outputs, const TensorList& logsumexps) {
  const Tensor &o = outputs[0], &lse = logsumexps[0];
  const AttentionResult r{engine::empty_heads(o.shape(), o.dtype(), o.device()),
                          empty(lse.shape(), {lse.dtype(), lse.device()})};
  cuda::visit_floating("merge", o.dtype(), [&]<class T>() {
    using C = cuda::Compute<T>;
    const auto in = parts_of<const T, const C>(outputs, logsumexps);
    const Rows<T> to(r.output);
    visit_piece<T>(is_aligned(in) && to.is_aligned(), o.size(3), [&]<int V>() {
      const Layout layout = layout_of(o, V);
      cuda::launch("merge", o.device(), merge_kernel<T, C, V>, blocks_of(layout), kThreads, 0, in,
                   to, Rows<C>(r.logsumexp), layout);
    });
  });
  return r;
}

MergeGradients merge_backward_cuda(const TensorList& outputs, const TensorList& logsumexps,
                                   const AttentionResult& merged, const Tensor& grad_output,
                                   const Tensor& grad_logsumexp) {
  MergeGradients g;
  for (size_t k = 0; k < outputs.size(); ++k) {
    g.outputs.push_back(
        engine::empty_heads(outputs[k].shape(), outputs[k].dtype(), outputs[k].device()));
    g.logsumexps.push_back(empty_like(logsumexps[k]));
  }
  const Tensor& o = merged.output;
  cuda::visit_floating("merge", o.dtype(), [&]<class T>() {
    using C = cuda::Compute<T>;
    const auto in = parts_of<const T, const C>(outputs, logsumexps);
    const auto to = parts_of<T, C>(g.outputs, g.logsumexps);
    const Rows<const T> sum(o), grad(grad_output);
    const Rows<const C> down =
        grad_logsumexp.defined() ? Rows<const C>(grad_logsumexp) : Rows<const C>();
    const bool aligned = is_aligned(in) && is_aligned(to) && sum.is_aligned() && grad.is_aligned();
    visit_piece<T>(aligned, o.size(3), [&]<int V>() {
      const Layout layout = layout_of(o, V);
      cuda::launch("merge", o.device(), backward_kernel<T, C, V>, blocks_of(layout), kThreads, 0,
                   in, sum, Rows<const C>(merged.logsumexp), grad, down, to, layout);
    });
  });
  return g;
}

}  // namespace tessera
