#include "tessera/attention/engines/engine.h"
#include "tessera/attention/engines/linear_kernels.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/math.h"
#include "tessera/core/view.h"

namespace tessera::linear_engine {
namespace {

constexpr int64_t kPiece = 8;         // halves in 16 bytes
constexpr int64_t kBlocks = 2 * 132;  // that run at once
constexpr int64_t kShortest = 256;    // tokens of a segment
constexpr unsigned kThreads = 256;

bool on_tensor_cores(const Pass& p) {
  return is_half(p.key.dtype()) && std::max(p.width(), p.value_width()) <= kWidestHalves;
}

// Rows in 16-byte pieces: x itself, or a copy with zeros at the end of every row.
Tensor in_pieces(const Tensor& x) {
  bool fits = x.size(3) % kPiece == 0 && x.stride(3) == 1 &&
              reinterpret_cast<uintptr_t>(x.raw_data()) % 16 == 0;
  for (int64_t d = 0; d < 3; ++d) fits = fits && (x.size(d) <= 1 || x.stride(d) % kPiece == 0);
  if (fits) return x;
  const int64_t width = (x.size(3) + kPiece - 1) / kPiece * kPiece;
  const Tensor wide =
      engine::empty_heads({x.size(0), x.size(1), x.size(2), width}, x.dtype(), x.device());
  kernels::copy(views::slice(wide, 3, 0, x.size(3)), x);
  if (width > x.size(3)) kernels::fill(views::slice(wide, 3, x.size(3), width), 0);
  return wide;
}

// What kernels read in place of x: rows in pieces for tensor cores, else f32 for halves and dense
// rows.
Tensor prepared(const Tensor& x, bool tensor_cores) {
  if (!x.defined()) return x;
  if (tensor_cores) return in_pieces(x);
  return engine::with_dense_rows(kernels::cast(x, state_dtype(x.dtype())));
}

Pass prepared(Pass p, bool tensor_cores) {
  for (Tensor* x : {&p.query, &p.key, &p.value}) {
    for (int64_t i = 0; x->defined() && i < 4; ++i) {
      check(x->size(i) < int64_t{1} << 30, "linear_attention: {} is too long in one dimension",
            x->shape());
    }
    *x = prepared(*x, tensor_cores);
  }
  return p;
}

// Slots hold what their segments leave, and take what enters them. A thread has one entry of all.
template <class A>
__global__ void combine_kernel(A* states, const A* first, const A* decays, int segments,
                               int64_t size, bool backward) {
  const int64_t i = cuda::thread_index();
  const int64_t head = blockIdx.y;
  if (i >= size) return;
  constexpr int kAhead = 8;
  A* slots = states + head * segments * size + i;
  const A* decay = decays + head * segments;
  A carry = first != nullptr ? first[head * size + i] : A{0};
  const auto segment_of = [&](int n) { return backward ? segments - 1 - n : n; };
  for (int n = 0; n < segments; n += kAhead) {
    A own[kAhead], factor[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const bool there = n + j + 1 < segments;  // nothing comes after the last
      const int64_t s = segment_of(there ? n + j : 0);
      own[j] = there ? slots[s * size] : A{0};
      factor[j] = there ? decay[s] : A{0};
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (n + j < segments) slots[segment_of(n + j) * size] = carry;
      carry = factor[j] * carry + own[j];
    }
  }
}

template <class A>
struct DecaySums {
  const A* query_dots;  // (2, parts, B, H, N)
  const A* key_dots;
  const A* borders;  // (border parts, B, H, chunks)
  A* result;
  int parts, border_parts, length, chunk, chunks;
  int64_t heads;  // B · H

  // Which: 0 of the whole row, 1 of its part across chunks.
  __device__ double dot(const A* dots, int which, int64_t at) const {
    const int64_t rows = heads * length;
    double sum = 0;
    for (int i = 0; i < parts; ++i)
      sum += static_cast<double>(dots[(which * parts + i) * rows + at]);
    return sum;
  }
};

// A warp per chunk of at most 64 tokens, two per lane.
template <class A>
__global__ void decay_kernel(DecaySums<A> d) {
  const int64_t warp = cuda::thread_index() / cuda::kWarp;
  if (warp >= d.heads * d.chunks) return;
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  const int64_t head = warp / d.chunks;
  const int chunk = static_cast<int>(warp % d.chunks);
  const int count = min(d.chunk, d.length - chunk * d.chunk);
  double own[2] = {}, across = 0;
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane + i;
    if (t >= count) continue;
    const int64_t at = head * d.length + chunk * d.chunk + t;
    own[i] = d.dot(d.query_dots, 0, at) - d.dot(d.key_dots, 0, at);
    across += d.dot(d.key_dots, 1, at);
  }
  double border = 0;
  for (int i = 0; i < d.border_parts; ++i) {
    border += static_cast<double>(d.borders[(i * d.heads + head) * d.chunks + chunk]);
  }
  const double sum = border + cuda::warp_reduce(across, cuda::Sum());
  double later = own[0] + own[1];
  for (int step = 1; step < 32; step *= 2) {
    const double more = __shfl_down_sync(cuda::kAllLanes, later, step);
    if (lane + step < 32) later += more;
  }
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane + i;
    if (t >= count) continue;
    d.result[head * d.length + chunk * d.chunk + t] =
        static_cast<A>(sum + (i == 0 ? later : later - own[0]));
  }
}

constexpr int kStepColumns = 32;
constexpr int kStepRows = 8;

// S' = exp(g) S + k vᵀ, o = scale S'ᵀ q: a block has 32 columns of a head's state.
template <class T, class A>
__global__ void __launch_bounds__(kStepColumns* kStepRows)
    step_kernel(Arguments<T, A> a, int tiles) {
  __shared__ A parts[kStepRows][kStepColumns];
  const Place p = place_of(blockIdx.x, tiles, 1, 0, a.heads);
  const int x = threadIdx.x % kStepColumns, y = threadIdx.x / kStepColumns;
  const int column = p.tile * kStepColumns + x;
  const bool inside = column < a.value_width;
  const T* q = a.query.at(p.b, p.h / a.query_group);
  const T* k = a.key.at(p.b, p.h / a.key_group);
  const A v = inside ? convert<A>(a.value.at(p.b, p.h / a.value_group)[column]) : A{0};
  const A decay = a.log_decay == nullptr ? A{1} : math::exp(*a.decay_of(p.b, p.h));
  const A* from =
      a.states + p.b * a.state_strides[0] + p.h * a.state_strides[1] + column * a.state_strides[4];
  A* to = a.left + (static_cast<int64_t>(p.b) * a.heads + p.h) * a.width * a.value_width + column;
  A sum = 0;
  for (int w = y; inside && w < a.width; w += kStepRows) {
    const A state = decay * from[w * a.state_strides[3]] + convert<A>(k[w]) * v;
    to[static_cast<int64_t>(w) * a.value_width] = state;
    sum += convert<A>(q[w]) * state;
  }
  parts[y][x] = sum;
  __syncthreads();
  if (y > 0 || !inside) return;
  for (int i = 1; i < kStepRows; ++i) sum += parts[i][x];
  sum *= a.scale;
  if (a.wide.data != nullptr) {
    a.wide.at(p.b, p.h)[column] = sum;
  } else {
    a.out.at(p.b, p.h)[column] = convert<T>(sum);
  }
}

Sums step(const Pass& given, const Tensor& states) {
  Pass p = given;
  for (Tensor* x : {&p.query, &p.key, &p.value}) *x = engine::with_dense_rows(*x);
  const Device device = p.key.device();
  Outputs to;
  to.out = engine::empty_heads({p.batch(), p.heads, 1, p.value_width()},
                               p.wide ? states.dtype() : p.key.dtype(), device);
  to.state = empty({p.batch(), p.heads, p.width(), p.value_width()}, {states.dtype(), device});
  const int tiles = static_cast<int>((p.value_width() + kStepColumns - 1) / kStepColumns);
  cuda::visit_floating("linear_attention", p.key.dtype(), [&]<class T>() {
    using A = cuda::Compute<T>;
    cuda::launch("linear_attention", device, step_kernel<T, A>,
                 dense::grid_of(p.batch() * p.heads * tiles), kStepColumns * kStepRows, 0,
                 arguments_of<T, A>(p, states, to), tiles);
  });
  return {to.out, to.state, {}};
}

template <class Fn>
void visit_state(DType dtype, const Fn& fn) {
  if (dtype == DType::f64) {
    fn.template operator()<double>();
  } else {
    fn.template operator()<float>();
  }
}

}  // namespace

void choose_lengths_cuda(Pass& p) {
  p.chunk = on_tensor_cores(p) ? kHalvesChunk : kExactChunk;
  const int64_t heads =
      std::max<int64_t>(1, p.batch() * p.heads) *
      std::max<int64_t>(1,
                        (std::max(p.width(), p.value_width()) + kHalvesChunk - 1) / kHalvesChunk);
  const int64_t segments = std::clamp<int64_t>(kBlocks / heads, 1, 1 + p.length() / kShortest);
  const int64_t tokens = (p.length() + segments - 1) / segments;
  p.segment = kHalvesChunk * std::max<int64_t>(1, (tokens + kHalvesChunk - 1) / kHalvesChunk);
}

void states_cuda(const Pass& pass, const Tensor& first, const Tensor& result) {
  const bool halves = on_tensor_cores(pass);
  const int64_t segments = pass.segments(), size = result.size(3) * result.size(4);
  const Tensor decays =
      empty({result.size(0), result.size(1), segments}, {result.dtype(), result.device()});
  const Pass p = prepared(pass, halves);
  (halves ? gather_halves : gather_exact)(p, result, decays);
  visit_state(result.dtype(), [&]<class A>() {
    const dim3 grid(dense::grid_of((size + kThreads - 1) / kThreads),
                    static_cast<unsigned>(result.size(0) * result.size(1)));
    cuda::launch("linear_attention", result.device(), combine_kernel<A>, grid, kThreads, 0,
                 cuda::data<A>(result), first.defined() ? cuda::data<A>(first) : nullptr,
                 cuda::data<A>(decays), static_cast<int>(segments), size, pass.backward);
  });
}

Sums sums_cuda(const Pass& pass, const Tensor& states, bool wants_state, const Tensor& partner,
               const Tensor& chunk_states) {
  if (pass.length() == 1 && !pass.backward && wants_state) return step(pass, states);
  const bool halves = on_tensor_cores(pass);
  const Pass p = prepared(pass, halves);
  const Options options{states.dtype(), states.device()};
  const int64_t batch = p.batch(), n = p.length(), width = states.size(4);
  Outputs to;
  to.out = engine::empty_heads({batch, p.heads, n, p.value_width()},
                               pass.wide ? options.dtype : p.key.dtype(), options.device);
  if (wants_state) to.state = empty({batch, p.heads, states.size(3), width}, options);
  if (partner.defined()) {
    const Parts parts = (halves ? parts_of_halves : parts_of_exact)(states.size(3), width);
    to.partner = prepared(partner, halves);
    to.trace.dots = empty({2, parts.tiles, batch, p.heads, n}, options);
    to.trace.chunk_states = p.backward ? chunk_states
                                       : empty({batch, p.heads, p.chunks(), parts.state_entries},
                                               {p.key.dtype(), options.device});
    if (p.backward) to.trace.borders = empty({parts.borders, batch, p.heads, p.chunks()}, options);
  }
  (halves ? sums_halves : sums_exact)(p, states, to);
  const Tensor out = views::slice(to.out, 3, 0, width);
  return {kernels::cast(out, pass.wide ? options.dtype : pass.key.dtype()), to.state, to.trace};
}

void decay_gradient_cuda(const Pass& pass, const Trace& of_query, const Trace& of_key,
                         const Tensor& result) {
  visit_state(result.dtype(), [&]<class A>() {
    const DecaySums<A> sums{
        cuda::data<A>(of_query.dots),          cuda::data<A>(of_key.dots),
        cuda::data<A>(of_key.borders),         cuda::data<A>(result),
        static_cast<int>(of_key.dots.size(1)), static_cast<int>(of_key.borders.size(0)),
        static_cast<int>(pass.length()),       static_cast<int>(pass.chunk),
        static_cast<int>(pass.chunks()),       pass.batch() * pass.heads};
    const int64_t warps = sums.heads * sums.chunks, per_block = kThreads / cuda::kWarp;
    cuda::launch("linear_attention", result.device(), decay_kernel<A>,
                 dense::grid_of((warps + per_block - 1) / per_block), kThreads, 0, sums);
  });
}

}  // namespace tessera::linear_engine
