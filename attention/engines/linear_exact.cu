// The passes of the linear engine in plain f32 and f64 arithmetic: 32 tokens, 32 columns of the
// values at a time, the state of a segment in shared memory.
#include "tessera/attention/engines/linear_kernels.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/math.h"

namespace tessera::linear_engine {
namespace {

constexpr int kSide = kExactChunk;
constexpr int kLanes = 16;  // threads along a side; each has rows and columns lane and lane + 16
constexpr unsigned kThreads = kLanes * kLanes;

template <class T>
using Tile = T[kSide][kSide + 1];

template <class T>
struct Shared {
  Tile<T> q, k, v, weights;
  double sums[kSide];  // G
  T of_query[kSide], of_key[kSide];
  T own[kSide];  // weights of tokens for themselves, while a trace is kept
  T total;
  double log_total;
};

template <class T>
__device__ void stage(Tile<T>& to, const T* rows, int64_t stride, int count, int column,
                      int width) {
  for (int e = threadIdx.x; e < kSide * kSide; e += kThreads) {
    const int r = e / kSide, c = e % kSide;
    to[r][c] = r < count && column + c < width ? rows[r * stride + column + c] : T{0};
  }
}

// One warp: the decays of a chunk of `count` tokens.
template <class T>
__device__ void set_decays(Shared<T>& s, const Arguments<T, T>& a, const T* decay, int begin,
                           int count) {
  const int lane = threadIdx.x;
  double sum = 0;
  if (decay != nullptr && lane < count) {
    sum = static_cast<double>(a.per_token ? decay[begin + lane] : decay[0]);
  }
  for (int step = 1; step < kSide; step *= 2) {
    const double before = __shfl_up_sync(cuda::kAllLanes, sum, step);
    if (lane >= step) sum += before;
  }
  const double total = __shfl_sync(cuda::kAllLanes, sum, kSide - 1);
  const T before = static_cast<T>(math::exp(sum)), after = static_cast<T>(math::exp(total - sum));
  s.sums[lane] = sum;
  s.of_query[lane] = a.backward ? after : before * a.scale;
  s.of_key[lane] = a.backward ? before * a.scale : after;
  if (lane == 0) {
    s.total = static_cast<T>(math::exp(total));
    s.log_total = total;
  }
}

// ⟨row, partner row⟩ of 16 threads' entries, two columns each, of the rows from `begin` on.
template <class T>
__device__ void store_dots(const Arguments<T, T>& a, const Place& p, int which, int begin,
                           int count, const T (&out)[2][2]) {
  const int x = threadIdx.x % kLanes, y = threadIdx.x / kLanes;
  const int64_t head = static_cast<int64_t>(p.b) * a.heads + p.h;
  const int64_t rows = static_cast<int64_t>(a.batch) * a.heads * a.length;
  const int tiles = (a.value_width + kSide - 1) / kSide;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = y + kLanes * i;
    T dot = 0;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int c = p.tile * kSide + x + kLanes * j;
      if (r >= count || c >= a.value_width) continue;
      dot += out[i][j] * a.partner.at(p.b, p.h / a.partner_group)[(begin + r) * a.partner.row + c];
    }
    for (int step = 1; step < kLanes; step *= 2) {
      dot += __shfl_xor_sync(cuda::kAllLanes, dot, step);
    }
    if (x == 0 && r < count) {
      a.dots[(which * tiles + p.tile) * rows + head * a.length + begin + r] = dot;
    }
  }
}

// The products of a thread become weights, the results are added up and stored. Traces leave out
// what tokens give themselves: it does not depend on decays.
template <class T>
__device__ void finish_rows(const Arguments<T, T>& a, Shared<T>& s, const Place& p, int begin,
                            int count, T (&scores)[2][2], T (&out)[2][2]) {
  const int x = threadIdx.x % kLanes, y = threadIdx.x / kLanes;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int r = y + kLanes * i, c = x + kLanes * j;
      const double apart = a.backward ? s.sums[c] - s.sums[r] : s.sums[r] - s.sums[c];
      const bool seen = a.backward ? c >= r : c <= r;
      const T weight = seen ? scores[i][j] * a.scale * math::exp(static_cast<T>(apart)) : T{0};
      const bool alone = a.dots != nullptr && r == c;
      s.weights[r][c] = alone ? T{0} : weight;
      if (alone) s.own[r] = weight;
      out[i][j] *= s.of_query[r];
    }
  }
  if (a.borders != nullptr) store_dots(a, p, 1, begin, count, out);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int r = y + kLanes * i, c = x + kLanes * j;
      for (int t = 0; t < kSide; ++t) out[i][j] += s.weights[r][t] * s.v[t][c];
    }
  }
  if (a.dots != nullptr) store_dots(a, p, 0, begin, count, out);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int r = y + kLanes * i, c = x + kLanes * j, column = p.tile * kSide + c;
      if (a.dots != nullptr) out[i][j] += s.own[r] * s.v[r][c];
      if (r < count && column < a.value_width) {
        a.out.at(p.b, p.h)[(begin + r) * a.out.row + column] = out[i][j];
      }
    }
  }
}

// The state before a chunk is kept, or meets that of the other direction.
template <class T>
__device__ void trace_state(const Arguments<T, T>& a, const Shared<T>& s,
                            const T (*state)[kSide + 1], const Place& p, int chunk) {
  __shared__ T scratch[kThreads / cuda::kWarp];
  const int tiles = (a.value_width + kSide - 1) / kSide;
  const int entries = (a.width + kSide - 1) / kSide * kSide * kSide;
  const int64_t head = static_cast<int64_t>(p.b) * a.heads + p.h;
  T* kept = a.chunk_states + ((head * a.chunks + chunk) * tiles + p.tile) * entries;
  T sum = 0;
  for (int e = threadIdx.x; e < entries; e += kThreads) {
    if (a.backward) {
      sum += kept[e] * state[e / kSide][e % kSide];
    } else {
      kept[e] = state[e / kSide][e % kSide];
    }
  }
  if (!a.backward) return;
  sum = cuda::block_reduce(sum, cuda::Sum(), T{0}, scratch);
  if (threadIdx.x == 0) {
    const int64_t heads = static_cast<int64_t>(a.batch) * a.heads;
    a.borders[(p.tile * heads + head) * a.chunks + chunk] = s.total * sum;
  }
}

template <class T, bool kGather>
__global__ void __launch_bounds__(kThreads) pass_kernel(const __grid_constant__ Arguments<T, T> a) {
  extern __shared__ __align__(16) char memory[];
  Shared<T>& s = *reinterpret_cast<Shared<T>*>(memory);
  T(*state)[kSide + 1] = reinterpret_cast<T(*)[kSide + 1]>(memory + sizeof(Shared<T>));
  const int tiles = (a.value_width + kSide - 1) / kSide;
  const int skipped = kGather ? 1 : 0;  // the segment after which nothing comes
  const Place p =
      place_of(blockIdx.x, tiles, a.segments - skipped, a.backward ? skipped : 0, a.heads);
  const int x = threadIdx.x % kLanes, y = threadIdx.x / kLanes;
  const int column = p.tile * kSide;
  const int64_t head = static_cast<int64_t>(p.b) * a.heads + p.h;
  const int segment_begin = p.segment * a.segment;
  const int segment_end = min(a.length, segment_begin + a.segment);
  const int chunks = (segment_end - segment_begin + kSide - 1) / kSide;
  const int pieces = (a.width + kSide - 1) / kSide;
  const T* decay = a.log_decay == nullptr ? nullptr : a.decay_of(p.b, p.h);
  const T* key = a.key.at(p.b, p.h / a.key_group);
  const T* value = a.value.at(p.b, p.h / a.value_group);
  const T* query = kGather ? nullptr : a.query.at(p.b, p.h / a.query_group);

  for (int e = threadIdx.x; e < pieces * kSide * kSide; e += kThreads) {
    const int w = e / kSide, c = column + e % kSide;
    T start = 0;
    if (!kGather && w < a.width && c < a.value_width) {
      start = a.states[p.b * a.state_strides[0] + p.h * a.state_strides[1] +
                       p.segment * a.state_strides[2] + w * a.state_strides[3] +
                       c * a.state_strides[4]];
    }
    state[w][e % kSide] = start;
  }
  double log_decay = 0;  // of the segment

  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int begin = segment_begin + (a.backward ? chunks - 1 - chunk : chunk) * kSide;
    const int count = min(kSide, segment_end - begin);
    T scores[2][2] = {}, out[2][2] = {};
    __syncthreads();
    if (threadIdx.x < kSide) set_decays(s, a, decay, begin, count);
    stage(s.v, value + begin * a.value.row, a.value.row, count, column, a.value_width);
    if constexpr (!kGather) {
      if (a.chunk_states != nullptr) {
        __syncthreads();
        trace_state(a, s, state, p, begin / kSide);
      }
    }
    for (int piece = 0; piece < a.width; piece += kSide) {
      if constexpr (!kGather) {
        stage(s.q, query + begin * a.query.row, a.query.row, count, piece, a.width);
      }
      stage(s.k, key + begin * a.key.row, a.key.row, count, piece, a.width);
      __syncthreads();
      if constexpr (!kGather) {
        for (int w = 0; w < kSide; ++w) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const T q = s.q[y + kLanes * i][w];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              scores[i][j] += q * s.k[x + kLanes * j][w];
              out[i][j] += q * state[piece + w][x + kLanes * j];
            }
          }
        }
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int w = y + kLanes * i, c = x + kLanes * j;
          T sum = 0;
          for (int t = 0; t < kSide; ++t) sum += s.of_key[t] * s.k[t][w] * s.v[t][c];
          state[piece + w][c] = s.total * state[piece + w][c] + sum;
        }
      }
      __syncthreads();
    }
    log_decay += s.log_total;
    if constexpr (!kGather) {
      finish_rows(a, s, p, begin, count, scores, out);
    }
  }

  __syncthreads();
  if (a.left == nullptr || (!kGather && p.segment != a.last_segment())) return;
  const int64_t slot = kGather ? head * a.segments + p.segment : head;
  for (int e = threadIdx.x; e < pieces * kSide * kSide; e += kThreads) {
    const int w = e / kSide, c = column + e % kSide;
    if (w < a.width && c < a.value_width) {
      a.left[(slot * a.width + w) * a.value_width + c] = state[w][e % kSide];
    }
  }
  if (kGather && p.tile == 0 && threadIdx.x == 0) {
    a.decays[slot] = static_cast<T>(math::exp(log_decay));
  }
}

template <class T, bool kGather>
void run(const Arguments<T, T>& a, Device device) {
  const size_t pieces = static_cast<size_t>(a.width + kSide - 1) / kSide;
  const size_t shared = sizeof(Shared<T>) + pieces * sizeof(Tile<T>);
  check(shared <= cuda::shared_limit(device),
        "linear_attention: a width of {} in {} is more than a kernel's memory holds on this device",
        a.width, dtype_of<T>());
  const int64_t segments = a.segments - (kGather ? 1 : 0);
  cuda::launch("linear_attention", device, pass_kernel<T, kGather>,
               dense::grid_of(int64_t{a.batch} * a.heads * segments *
                              parts_of_exact(a.width, a.value_width).tiles),
               kThreads, shared, a);
}

template <class Fn>
void visit_exact(DType dtype, const Fn& fn) {
  if (dtype == DType::f64) {
    fn.template operator()<double>();
  } else {
    fn.template operator()<float>();
  }
}

}  // namespace

Parts parts_of_exact(int64_t width, int64_t value_width) {
  const int64_t tiles = (value_width + kSide - 1) / kSide;
  return {tiles, tiles, tiles * ((width + kSide - 1) / kSide) * kSide * kSide};
}

void gather_exact(const Pass& p, const Tensor& states, const Tensor& decays) {
  visit_exact(p.key.dtype(), [&]<class T>() {
    run<T, true>(gathering_arguments<T, T>(p, states, decays), p.key.device());
  });
}

void sums_exact(const Pass& p, const Tensor& states, const Outputs& to) {
  visit_exact(p.key.dtype(),
              [&]<class T>() { run<T, false>(arguments_of<T, T>(p, states, to), p.key.device()); });
}

}  // namespace tessera::linear_engine
