// The decode engine in plain f32 and f64 arithmetic, and the merge of pieces for all dtypes.
#include "tessera/attention/engines/decode_kernels.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace decode {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kLongest = 1024;  // keys of a piece
constexpr int kKeyLanes = 8;    // threads that share a product of query and key

// Threads that share a row of `width` elements, V each.
template <int V>
__host__ __device__ int lanes_of(int width) {
  int lanes = 1;
  while (lanes < static_cast<int>(kThreads) && lanes * V < width) lanes *= 2;
  return lanes;
}

// The sum over groups of `lanes` threads, in their order, for those of the first group.
template <class C, int V>
__device__ void add_groups(cuda::Vector<C, V>& sum, cuda::Vector<C, V>* sums, int lanes) {
  const auto thread = static_cast<int>(threadIdx.x);
  sums[thread] = sum;
  __syncthreads();
  for (int at = thread + lanes; thread < lanes && at < static_cast<int>(kThreads); at += lanes) {
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] += sums[at][e];
  }
  __syncthreads();
}

// C: of the computation, S: of what is stored, read in pieces of V. A block has a piece of a key
// head; one query row after the other.
template <class C, class S, int V>
__global__ void __launch_bounds__(kThreads)
    piece_kernel(Sizes s, Rows<const C> query, Rows<const S> key, Rows<const S> value, C* parts,
                 C* part_lse) {
  __shared__ C weights[kLongest];
  __shared__ int positions[kLongest];
  __shared__ Place places[kLongest];
  __shared__ C scratch[cuda::kWarp];
  __shared__ cuda::Vector<C, V> sums[kThreads];
  const int piece = static_cast<int>(blockIdx.x % s.pieces);
  const int head = static_cast<int>(blockIdx.x / s.pieces) % s.key_heads;
  const int b = static_cast<int>(blockIdx.x / s.pieces) / s.key_heads;
  const int length = s.length(b), slots = s.slots(b), step = piece_length(slots);
  if (piece > 0 && piece >= piece_count(slots)) return;
  const int begin = piece * step, count = min(step, slots - begin);
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  const int lanes = lanes_of<V>(s.value_width);
  for (int j = static_cast<int>(threadIdx.x); j < count; j += kThreads) {
    positions[j] = s.position(b, head, begin + j, length);
    places[j] = positions[j] < 0 ? Place{0, 0} : s.place(b, positions[j]);
  }
  __syncthreads();
  for (int r = 0; r < s.rows; ++r) {
    const auto at = s.query_of(b, head, r, length);
    const C* q = query.at(b, at.head, at.query);
    const C slope = s.slopes != nullptr ? static_cast<C>(s.slopes[at.head]) : C(0);
    C top = -INFINITY;
    for (int first = 0; first < count; first += kThreads / kKeyLanes) {
      const int j = first + static_cast<int>(threadIdx.x) / kKeyLanes;
      const int position = j < count ? positions[j] : -1;
      const bool seen = position >= 0 && position < at.seen;
      C dot = 0;
      if (seen) {
        const S* k = key.at(places[j].block, head, places[j].row);
        for (int d = lane % kKeyLanes * V; d < s.width; d += kKeyLanes * V) {
          const auto part = cuda::load<V>(k + d);
#pragma unroll
          for (int e = 0; e < V; ++e) dot += q[d + e] * convert<C>(part[e]);
        }
      }
#pragma unroll
      for (int d = 1; d < kKeyLanes; d *= 2) dot += __shfl_xor_sync(cuda::kAllLanes, dot, d);
      if (j >= count) continue;
      const C distance = static_cast<C>(abs(at.position - position));
      const C score = seen ? dot * static_cast<C>(s.scale) - slope * distance : C(-INFINITY);
      top = max(top, score);
      if (lane % kKeyLanes == 0) weights[j] = score;
    }
    top = cuda::block_reduce(top, cuda::Max{}, C(-INFINITY), scratch);
    const int64_t to =
        ((static_cast<int64_t>(b) * s.key_heads + head) * s.pieces + piece) * s.rows + r;
    if (top == C(-INFINITY)) {
      if (threadIdx.x == 0) part_lse[to] = top;
      __syncthreads();
      continue;
    }
    __syncthreads();
    C total = 0;
    for (int j = static_cast<int>(threadIdx.x); j < count; j += kThreads) {
      weights[j] = ::exp(weights[j] - top);
      total += weights[j];
    }
    total = cuda::block_reduce(total, cuda::Sum{}, C(0), scratch);
    __syncthreads();
    if (threadIdx.x == 0) part_lse[to] = top + ::log(total);
    for (int column = 0; column < s.value_width; column += lanes * V) {
      const int d = column + static_cast<int>(threadIdx.x) % lanes * V;
      cuda::Vector<C, V> sum{};
#pragma unroll 4
      for (int j = static_cast<int>(threadIdx.x) / lanes; j < count && d < s.value_width;
           j += static_cast<int>(kThreads) / lanes) {
        const C w = weights[j];
        if (w == 0) continue;
        const auto part = cuda::load<V>(value.at(places[j].block, head, places[j].row) + d);
#pragma unroll
        for (int e = 0; e < V; ++e) sum[e] += w * convert<C>(part[e]);
      }
      add_groups<C, V>(sum, sums, lanes);
      if (static_cast<int>(threadIdx.x) >= lanes || d >= s.value_width) continue;
#pragma unroll
      for (int e = 0; e < V; ++e) parts[to * s.value_width + d + e] = sum[e] / total;
    }
  }
}

// One block per query row: out = Σ exp(lse_p − lse) part_p. Neighbouring `lanes` threads have a
// part's columns, V each; groups of them take turns over the parts.
template <class C, class T, int V>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(Sizes s, const C* parts, const C* part_lse, Rows<T> output, C* logsumexp) {
  __shared__ C scratch[cuda::kWarp];
  __shared__ C weights[kLongest];
  __shared__ cuda::Vector<C, V> sums[kThreads];
  const int r = static_cast<int>(blockIdx.x % s.rows);
  const int64_t group = blockIdx.x / s.rows;
  const int head = static_cast<int>(group % s.key_heads), b = static_cast<int>(group / s.key_heads);
  const int pieces = max(1, piece_count(s.slots(b)));
  const int64_t first = group * s.pieces * s.rows + r;
  const auto thread = static_cast<int>(threadIdx.x);
  const int lanes = lanes_of<V>(s.value_width);
  const int groups = static_cast<int>(kThreads) / lanes, turn = thread / lanes;
  const int h = head * s.group + r / s.queries, i = r % s.queries;
  C top = -INFINITY;
  for (int p = thread; p < pieces; p += kThreads) {
    top = max(top, part_lse[first + static_cast<int64_t>(p) * s.rows]);
  }
  top = cuda::block_reduce(top, cuda::Max{}, C(-INFINITY), scratch);
  const bool some = top > C(-INFINITY);
  T* to = output.at(b, h, i);
  C total = 0;
  for (int column = 0; column < s.value_width; column += lanes * V) {
    const int d = column + thread % lanes * V;
    cuda::Vector<C, V> sum{};
    for (int begin = 0; some && begin < pieces; begin += kLongest) {
      const int count = min(kLongest, pieces - begin);
      __syncthreads();
      for (int p = thread; p < count; p += kThreads) {
        weights[p] = ::exp(part_lse[first + static_cast<int64_t>(begin + p) * s.rows] - top);
        if (column == 0) total += weights[p];
      }
      __syncthreads();
#pragma unroll 8
      for (int p = turn; p < count && d < s.value_width; p += groups) {
        const C w = weights[p];
        if (w == 0) continue;
        const int64_t at = (first + static_cast<int64_t>(begin + p) * s.rows) * s.value_width + d;
        const auto part = cuda::load<V>(parts + at);
#pragma unroll
        for (int e = 0; e < V; ++e) sum[e] += w * part[e];
      }
    }
    if (column == 0) {
      total = cuda::block_reduce(total, cuda::Sum{}, C(0), scratch);
      if (thread == 0) {
        logsumexp[(static_cast<int64_t>(b) * s.heads + h) * s.queries + i] =
            some ? top + ::log(total) : top;
      }
    }
    add_groups<C, V>(sum, sums, lanes);
    if (turn > 0 || d >= s.value_width) continue;
#pragma unroll
    for (int e = 0; e < V; ++e) to[d + e] = convert<T>(some ? sum[e] / total : C(0));
  }
}

const int32_t* data_of(const Tensor& x) {
  return x.defined() ? cuda::data<int32_t>(x) : nullptr;
}

// Whether rows can be read in pieces of 16 bytes.
bool in_chunks(const Tensor& x) {
  const int64_t chunk = 16 / size_of(x.dtype());
  bool fits = x.size(3) % chunk == 0 && (x.size(3) <= 1 || x.stride(3) == 1) &&
              reinterpret_cast<uintptr_t>(x.raw_data()) % 16 == 0;
  for (int64_t d = 0; d < 3; ++d) fits = fits && (x.size(d) <= 1 || x.stride(d) % chunk == 0);
  return fits;
}

// Queries in the type of computation C over keys in S.
template <class C, class S>
void pieces_of(const Sizes& s, const Problem& p, const Parts& parts) {
  constexpr int V = cuda::kVectorSize<S>;
  const Tensor q = engine::with_dense_rows(kernels::cast(p.query, dtype_of<C>()));
  const bool chunks = in_chunks(p.cache.key) && in_chunks(p.cache.value);
  cuda::launch("decode_attention", q.device(),
               chunks ? piece_kernel<C, S, V> : piece_kernel<C, S, 1>,
               grid_of(static_cast<int64_t>(s.batch) * s.key_heads * s.pieces), kThreads, 0, s,
               Rows<const C>(q), Rows<const S>(p.cache.key), Rows<const S>(p.cache.value),
               cuda::data<C>(parts.output), cuda::data<C>(parts.logsumexp));
}

void pieces_in_plain_arithmetic(const Sizes& s, const Problem& p, const Parts& parts) {
  switch (p.cache.key.dtype()) {
    case DType::f64:
      return pieces_of<double, double>(s, p, parts);
    case DType::f32:
      return pieces_of<float, float>(s, p, parts);
    case DType::bf16:
      return pieces_of<float, bfloat16>(s, p, parts);
    default:
      return pieces_of<float, float16>(s, p, parts);
  }
}

template <class C, class T, int V>
void combine(const Sizes& s, const Parts& parts, const AttentionResult& r) {
  cuda::launch("decode_attention", r.output.device(), combine_kernel<C, T, V>,
               grid_of(static_cast<int64_t>(s.batch) * s.key_heads * s.rows), kThreads, 0, s,
               cuda::data<C>(parts.output), cuda::data<C>(parts.logsumexp), Rows<T>(r.output),
               cuda::data<C>(r.logsumexp));
}

bool on_tensor_cores(const Problem& p) {
  return is_half(p.query.dtype()) && p.query.dtype() == p.cache.key.dtype() && p.width() <= 256 &&
         p.value_width() <= 256 && in_chunks(p.query) && in_chunks(p.cache.key) &&
         in_chunks(p.cache.value) && halves_fit(p);
}

}  // namespace

unsigned grid_of(int64_t blocks) {
  check(blocks < int64_t{1} << 31, "decode_attention: {} blocks are more than a launch takes",
        blocks);
  return static_cast<unsigned>(blocks);
}

Sizes sizes_of(const Problem& p) {
  auto narrow = [](int64_t n) { return static_cast<int>(n); };
  const DecodeOptions& o = p.options;
  Sizes s{};
  s.batch = narrow(p.query.size(0));
  s.heads = narrow(p.query.size(1));
  s.key_heads = narrow(p.key_heads());
  s.group = s.heads / s.key_heads;
  s.queries = narrow(p.query.size(2));
  s.rows = s.group * s.queries;
  s.width = narrow(p.width());
  s.value_width = narrow(p.value_width());
  s.causal = o.causal;
  s.scale = o.scale;
  s.slopes = o.score.is_identity() ? nullptr : cuda::data<float>(o.score.tables()[0]);
  s.lengths = data_of(p.cache.lengths);
  s.added = data_of(p.cache.added);
  s.table = data_of(p.cache.table);
  s.list = data_of(o.selected);
  s.capacity = narrow(p.capacity);
  s.columns = s.table != nullptr ? narrow(p.cache.table.size(1)) : 0;
  s.page = cuda::Divider(static_cast<unsigned>(std::max<int64_t>(1, p.cache.key.size(2))));
  s.entry = cuda::Divider(static_cast<unsigned>(o.selected_size));
  s.listed = o.selected.defined();
  if (s.listed) {
    s.list_size = narrow(p.selected());
    s.list_batch = o.selected.stride(0);
    s.list_head = o.selected.stride(1);
    s.list_entry = o.selected.stride(2);
  }
  // A recorded graph is replayed with longer sequences.
  const bool growing = s.lengths != nullptr && cuda::is_capturing(p.query.device());
  const int64_t keys = s.listed ? s.list_size : growing ? p.capacity : p.keys;
  s.pieces = std::max(1, most_pieces(narrow(keys)));
  return s;
}

}  // namespace decode

AttentionResult decode_cuda(const decode::Problem& problem) {
  using namespace decode;
  Problem p = problem;
  p.query = engine::with_dense_rows(p.query);
  p.cache.key = engine::with_dense_rows(p.cache.key);
  p.cache.value = engine::with_dense_rows(p.cache.value);
  if (!p.options.score.is_identity()) {  // slopes
    const Tensor table = p.options.score.tables()[0].detach();
    check(table.numel() == p.query.size(1), "decode_attention: {} slopes for {} heads",
          table.numel(), p.query.size(1));
    p.options.score = p.options.score.with({kernels::contiguous(kernels::cast(table, DType::f32))});
  }
  const Tensor& q = p.query;
  const bool wide = q.dtype() == DType::f64;
  check(wide == (p.cache.key.dtype() == DType::f64),
        "decode_attention: on CUDA {} queries do not go with {} keys", q.dtype(),
        p.cache.key.dtype());
  const Sizes s = sizes_of(p);
  const DType computed = wide ? DType::f64 : DType::f32;
  const AttentionResult r{
      engine::empty_heads({s.batch, s.heads, s.queries, s.value_width}, q.dtype(), q.device()),
      empty({s.batch, s.heads, s.queries}, {computed, q.device()})};
  if (r.logsumexp.numel() == 0) return r;
  const bool cores = on_tensor_cores(p);
  const bool direct = cores && s.pieces == 1;
  const int64_t groups = int64_t{1} * s.batch * s.key_heads * (direct ? 0 : s.pieces);
  const Parts parts{empty({groups, s.rows, s.value_width}, {computed, q.device()}),
                    empty({groups, s.rows}, {computed, q.device()})};
  cores ? pieces_of_halves(s, p, parts, r) : pieces_in_plain_arithmetic(s, p, parts);
  if (direct) return r;
  cuda::visit_floating("decode_attention", q.dtype(), [&]<class T>() {
    using C = cuda::Compute<T>;
    s.value_width % 4 == 0 ? combine<C, T, 4>(s, parts, r) : combine<C, T, 1>(s, parts, r);
  });
  return r;
}

}  // namespace tessera
