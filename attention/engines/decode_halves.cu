// Pieces of the decode engine on tensor cores. The heads of a group and their few queries are the
// 16 rows of a tile; most are empty, which costs nothing where memory is the limit. Every warp
// streams its own tiles of 16 keys and values through its own ring in shared memory and keeps its
// own running maximum and sums: warps meet once, at the end.
#include "tessera/attention/engines/decode_kernels.h"
#include "tessera/attention/engines/dense_tiles.h"

namespace tessera::decode {
namespace {

constexpr int kWarps = 4;
constexpr unsigned kThreads = kWarps * cuda::kWarp;
constexpr int kTile = 16;  // keys of a warp's step, and rows of queries
constexpr float kLn2 = 0.6931471805599453f;

// Tiles under way per warp.
template <int kWidth>
constexpr int kStages = kWidth <= 64    ? 4
                        : kWidth <= 128 ? 3
                                        : 2;
template <int kWidth>
constexpr unsigned kStageBytes = 2 * kTile* kWidth * 2;  // keys and values
template <int kWidth>
constexpr int kStride = kWidth + 8;  // floats between rows of a warp's sums
template <int kWidth>
constexpr size_t kSharedBytes = kTile* kWidth * 2 + kWarps* kStages<kWidth>* kStageBytes<kWidth>;

template <class T>
struct Arguments {
  Sizes sizes;
  Rows<const T> query, key, value;
  bool shared;   // values are the keys
  float* parts;  // null: results go to `output` and `logsumexp`
  float* part_lse;
  Rows<T> output;
  float* logsumexp;
};

// Where a key of a list or of a page is; a position of INT_MAX for none.
struct Found {
  int position;
  Place place;
};

// A piece of a key head, of which every warp loads its own tiles.
template <class T, int kWidth>
struct Stream {
  static constexpr int kChunks = kWidth / 8;
  static constexpr int kStep = static_cast<int>(cuda::kWarp) / kChunks;  // rows per access

  const Arguments<T>& a;
  int b, head, begin, end;  // places [begin, end)
  const Found* found;       // of each; null where keys lie one after the other
  unsigned ring;            // shared address

  __device__ int position(int slot) const {
    return slot >= end ? INT_MAX : found != nullptr ? found[slot - begin].position : slot;
  }
  __device__ void load(int first, int stage) const {
    if (first < end) {
      const unsigned tile = ring + static_cast<unsigned>(stage) * kStageBytes<kWidth>;
      const int lane = static_cast<int>(threadIdx.x % cuda::kWarp), chunk = lane % kChunks;
      const T* keys = a.key.data + head * a.key.head + chunk * 8;
      const T* values = a.value.data + head * a.value.head + chunk * 8;
#pragma unroll
      for (int i = 0; i < kTile / kStep; ++i) {
        const int row = i * kStep + lane / kChunks, slot = first + row;
        const bool there = position(slot) != INT_MAX;
        const Place at = found != nullptr && there ? found[slot - begin].place : Place{b, slot};
        const unsigned to = tile + dense::chunk_offset<kWidth>(row, chunk);
        const bool key_there = there && chunk * 8 < a.sizes.width;
        cuda::copy_async(
            to, key_there ? keys + at.block * a.key.batch + at.row * a.key.row : a.key.data,
            key_there);
        if (a.shared) continue;
        const bool value_there = there && chunk * 8 < a.sizes.value_width;
        cuda::copy_async(
            to + kStageBytes<kWidth> / 2,
            value_there ? values + at.block * a.value.batch + at.row * a.value.row : a.value.data,
            value_there);
      }
    }
    cuda::commit_copies();
  }
};

// What a lane knows of its two query rows, lane / 4 and that + 8.
struct LaneRows {
  int seen[2], position[2];
  float slope[2];
  float top[2] = {-INFINITY, -INFINITY};  // in units of log 2
  float total[2] = {0, 0};                // of this lane's columns
};

template <class T, int kWidth>
struct Tile {
  cuda::Accumulator output[kWidth / 8];
  unsigned query[kWidth / 16][4];

  // One tile of keys; `positions`: of this lane's columns 2 t, 2 t + 1, 8 + 2 t, 9 + 2 t.
  __device__ void step(LaneRows& rows, unsigned keys, unsigned values, const int (&positions)[4],
                       float scale) {
    const unsigned lane_offset = dense::lane_offset<kWidth>();
    cuda::Accumulator c[2];
    dense::clear(c);
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k) {
      unsigned r[4];
      cuda::load_matrices(r, keys + (lane_offset ^ static_cast<unsigned>(k * 32)));
      cuda::mma<T>(c[0], query[k], r[0], r[1]);
      cuda::mma<T>(c[1], query[k], r[2], r[3]);
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float best = rows.top[half];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& x = c[e / 2][half * 2 + e % 2];
        const int distance = abs(rows.position[half] - positions[e]);
        x = positions[e] < rows.seen[half]
                ? x * scale - rows.slope[half] * static_cast<float>(distance)
                : -INFINITY;
        best = fmaxf(best, x);
      }
      best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 1));
      best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 2));
      const float shift = best == -INFINITY ? 0.0f : best;
      shrink[half] = cuda::exp2_fast(rows.top[half] - shift);
      rows.top[half] = best;
      float sum = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& x = c[e / 2][half * 2 + e % 2];
        x = cuda::exp2_fast(x - shift);
        sum += x;
      }
      rows.total[half] = rows.total[half] * shrink[half] + sum;
    }
    if (__any_sync(cuda::kAllLanes, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) output[n][e] *= shrink[e / 2];
      }
    }
    unsigned weights[4];
    dense::pack_left<T>(weights, c[0], c[1]);
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k) {
      unsigned r[4];
      cuda::load_transposed(r, values + (lane_offset ^ static_cast<unsigned>(k * 32)));
      cuda::mma<T>(output[2 * k], weights, r[0], r[2]);
      cuda::mma<T>(output[2 * k + 1], weights, r[1], r[3]);
    }
  }
};

// The 16 query rows from `first` on, as a tile.
template <class T, int kWidth>
__device__ void load_queries(const Arguments<T>& a, int b, int head, int first, int length,
                             char* tile) {
  constexpr int kChunks = kWidth / 8;
  for (int e = static_cast<int>(threadIdx.x); e < kTile * kChunks; e += kThreads) {
    const int row = e / kChunks, chunk = e % kChunks;
    cuda::Vector<T, 8> piece{};
    if (first + row < a.sizes.rows && chunk * 8 < a.sizes.width) {
      const auto at = a.sizes.query_of(b, head, first + row, length);
      piece = cuda::load<8>(a.query.at(b, at.head, at.query) + chunk * 8);
    }
    cuda::store(reinterpret_cast<T*>(tile + dense::chunk_offset<kWidth>(row, chunk)), piece);
  }
}

// Merges the sums of the warps, in their order, and writes the piece's result.
template <class T, int kWidth>
__device__ void finish(const Arguments<T>& a, int b, int head, int piece, int first,
                       const char* rings, const float (&tops)[kWarps][kTile],
                       const float (&totals)[kWarps][kTile]) {
  const Sizes& s = a.sizes;
  const int count = min(kTile, s.rows - first);
  const int64_t to =
      ((static_cast<int64_t>(b) * s.key_heads + head) * s.pieces + piece) * s.rows + first;
  for (int e = static_cast<int>(threadIdx.x); e < count * s.value_width; e += kThreads) {
    const int row = e / s.value_width, d = e % s.value_width;
    float top = tops[0][row];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) top = fmaxf(top, tops[w][row]);
    const bool some = top > -INFINITY;
    float sum = 0, total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = some ? cuda::exp2_fast(tops[w][row] - top) : 0.0f;
      const float* sums = reinterpret_cast<const float*>(
          rings + static_cast<size_t>(w) * kStages<kWidth> * kStageBytes<kWidth>);
      total += weight * totals[w][row];
      sum += weight * sums[row * kStride<kWidth> + d];
    }
    const float value = some ? sum / total : 0.0f;
    const float lse = some ? (top + log2f(total)) * kLn2 : -INFINITY;
    if (a.parts != nullptr) {
      a.parts[(to + row) * s.value_width + d] = value;
      if (d == 0) a.part_lse[to + row] = lse;
    } else {
      const int h = head * s.group + (first + row) / s.queries, i = (first + row) % s.queries;
      a.output.at(b, h, i)[d] = convert<T>(value);
      if (d == 0) a.logsumexp[(static_cast<int64_t>(b) * s.heads + h) * s.queries + i] = lse;
    }
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) halves_kernel(Arguments<T> a) {
  extern __shared__ __align__(1024) char memory[];
  __shared__ float tops[kWarps][kTile], totals[kWarps][kTile];
  constexpr int kDepth = kStages<kWidth>;
  const Sizes& s = a.sizes;
  // Tiles of rows of one piece follow one another: all but the first find its keys in the cache.
  const int row_tiles = (s.rows + kTile - 1) / kTile;
  int block = static_cast<int>(blockIdx.x);
  const int first = block % row_tiles * kTile;
  block /= row_tiles;
  const int piece = block % s.pieces;
  block /= s.pieces;
  const int head = block % s.key_heads, b = block / s.key_heads;
  const int length = s.length(b), slots = s.slots(b);
  if (piece > 0 && piece >= piece_count(slots)) return;
  const int begin = piece * piece_length(slots);
  const int end = min(slots, begin + piece_length(slots));
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  const int warp = static_cast<int>(threadIdx.x / cuda::kWarp);

  Found* found = nullptr;
  if (s.listed || s.table != nullptr) {
    found = reinterpret_cast<Found*>(memory + kSharedBytes<kWidth>);
    for (int j = begin + static_cast<int>(threadIdx.x); j < end; j += kThreads) {
      const int position = s.position(b, head, j, length);
      found[j - begin] =
          position < 0 ? Found{INT_MAX, {0, 0}} : Found{position, s.place(b, position)};
    }
    __syncthreads();
  }
  char* rings = memory + kTile * kWidth * 2;
  char* own = rings + warp * kDepth * static_cast<int>(kStageBytes<kWidth>);
  const Stream<T, kWidth> stream{a, b, head, begin, end, found, cuda::shared_address(own)};
  int slot = begin + warp * kTile;
#pragma unroll
  for (int i = 0; i < kDepth - 1; ++i) stream.load(slot + i * kWarps * kTile, i);

  load_queries<T, kWidth>(a, b, head, first, length, memory);
  __syncthreads();
  Tile<T, kWidth> tile;
  dense::clear(tile.output);
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    dense::load_left(tile.query[k], cuda::shared_address(memory) + (dense::lane_offset<kWidth>() ^
                                                                    static_cast<unsigned>(k * 32)));
  }
  LaneRows rows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + lane / 4 + 8 * half;
    rows.seen[half] = rows.position[half] = 0;
    rows.slope[half] = 0;
    if (row < s.rows) {
      const auto at = s.query_of(b, head, row, length);
      rows.seen[half] = at.seen;
      rows.position[half] = at.position;
      if (s.slopes != nullptr) rows.slope[half] = s.slopes[at.head] * dense::kLog2e;
    }
  }
  const float scale = static_cast<float>(s.scale) * dense::kLog2e;

  for (int i = 0; slot < end; ++i, slot += kWarps * kTile) {
    stream.load(slot + (kDepth - 1) * kWarps * kTile, (i + kDepth - 1) % kDepth);
    int positions[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      positions[e] = stream.position(slot + e / 2 * 8 + lane % 4 * 2 + e % 2);
    }
    cuda::wait_copies<kDepth - 1>();
    __syncwarp();
    const unsigned keys = stream.ring + static_cast<unsigned>(i % kDepth) * kStageBytes<kWidth>;
    tile.step(rows, keys, a.shared ? keys : keys + kStageBytes<kWidth> / 2, positions, scale);
    __syncwarp();
  }
  cuda::wait_copies<0>();
  __syncwarp();

  float* sums = reinterpret_cast<float*>(own);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float total = rows.total[half];
    total += __shfl_xor_sync(cuda::kAllLanes, total, 1);
    total += __shfl_xor_sync(cuda::kAllLanes, total, 2);
    if (lane % 4 == 0) {
      tops[warp][row] = rows.top[half];
      totals[warp][row] = total;
    }
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      float* to = sums + row * kStride<kWidth> + n * 8 + lane % 4 * 2;
      to[0] = tile.output[n][half * 2];
      to[1] = tile.output[n][half * 2 + 1];
    }
  }
  __syncthreads();
  finish<T, kWidth>(a, b, head, piece, first, rings, tops, totals);
}

// fn.template operator()<kWidth>() with the width of tiles that holds keys and values.
template <class Fn>
decltype(auto) visit_width(const Problem& p, const Fn& fn) {
  const int64_t width = std::max(p.width(), p.value_width());
  if (width <= 64) return fn.template operator()<64>();
  if (width <= 128) return fn.template operator()<128>();
  return fn.template operator()<256>();
}

// Shared memory for the keys of the longest piece, where they must be looked up.
size_t found_bytes(const Sizes& s) {
  if (!s.listed && s.table == nullptr) return 0;
  return sizeof(Found) * static_cast<size_t>(piece_length(s.listed ? s.list_size : s.capacity));
}

template <class T>
void launch(const Sizes& s, const Problem& p, const Parts& parts, const AttentionResult& result) {
  Arguments<T> a{s,
                 Rows<const T>(p.query),
                 Rows<const T>(p.cache.key),
                 Rows<const T>(p.cache.value),
                 false,
                 nullptr,
                 nullptr,
                 Rows<T>(result.output),
                 cuda::data<float>(result.logsumexp)};
  a.shared = a.key.data == a.value.data && a.key.batch == a.value.batch &&
             a.key.head == a.value.head && a.key.row == a.value.row && s.width == s.value_width;
  if (s.pieces > 1) {
    a.parts = cuda::data<float>(parts.output);
    a.part_lse = cuda::data<float>(parts.logsumexp);
  }
  const int64_t row_tiles = (s.rows + kTile - 1) / kTile;
  const unsigned grid = grid_of(row_tiles * s.pieces * s.key_heads * static_cast<int64_t>(s.batch));
  visit_width(p, [&]<int kWidth>() {
    cuda::launch("decode_attention", p.query.device(), halves_kernel<T, kWidth>, grid, kThreads,
                 kSharedBytes<kWidth> + found_bytes(s), a);
  });
}

}  // namespace

bool halves_fit(const Problem& p) {
  constexpr size_t kMore = 2 * kWarps * kTile * sizeof(float) + 1024 * sizeof(Found);
  return visit_width(p, [&]<int kWidth>() {
    return kSharedBytes<kWidth> + kMore <= cuda::shared_limit(p.query.device());
  });
}

void pieces_of_halves(const Sizes& s, const Problem& p, const Parts& parts,
                      const AttentionResult& result) {
  if (p.query.dtype() == DType::bf16) {
    launch<bfloat16>(s, p, parts, result);
  } else {
    launch<float16>(s, p, parts, result);
  }
}

}  // namespace tessera::decode
