// Pieces of the decode engine on tensor cores. The heads of a group and their few queries are the
// 16 rows of a tile; most are empty, which costs nothing where memory is the limit. Every warp is a
// block of its own and computes whole pieces, one after the other: it streams tiles of 16 keys and
// values through a ring in shared memory that runs on over the ends of pieces, and never waits for
// another warp. How many pieces a warp gets depends on the device, what a piece gives does not.
#include "tessera/attention/engines/decode_kernels.h"
#include "tessera/attention/engines/dense_tiles.h"

namespace tessera::decode {
namespace {

constexpr unsigned kThreads = cuda::kWarp;
constexpr int kTile = 16;  // keys of a step, and rows of queries
constexpr float kLn2 = 0.6931471805599453f;

// Tiles under way.
template <int kWidth>
constexpr int kStages = kWidth <= 64 ? 4 : 3;
template <int kWidth>
constexpr unsigned kStageBytes = 2 * kTile* kWidth * 2;  // keys and values
template <int kWidth>
constexpr size_t kSharedBytes = kStages<kWidth>* kStageBytes<kWidth>;

template <class T>
struct Arguments {
  Sizes sizes;
  Rows<const T> query, key, value;
  bool shared;     // values are the keys
  bool looked_up;  // keys must be found through a list or a table
  float* parts;    // null: results go to `output` and `logsumexp`
  float* part_lse;
  Rows<T> output;
  float* logsumexp;
  int64_t units;  // pieces of all tiles of rows of all key heads
};

// A tile of keys in a warp's units. Tiles of rows of one piece follow one another: all but the
// first find its keys in the L2 cache.
struct Cursor {
  const Sizes& s;
  int64_t unit, last;
  int b = -1, head = 0, first = 0, piece = 0;  // first: row of queries
  int length = 0, slot = 0, end = 0;           // of the sequence; places [slot, end) are left

  __device__ Cursor(const Sizes& sizes, int64_t from, int64_t to) : s(sizes), unit(from), last(to) {
    open();
  }
  __device__ bool valid() const { return unit < last; }
  // Moves on by a tile; whether that was the last one of its unit.
  __device__ bool advance() {
    slot += kTile;
    if (slot < end) return false;
    ++unit;
    open();
    return true;
  }

 private:
  // To the next unit that exists, from this one on.
  __device__ void open() {
    const int row_tiles = (s.rows + kTile - 1) / kTile;
    for (; unit < last; ++unit) {
      const int64_t group = unit / row_tiles / s.pieces;
      const int sequence = static_cast<int>(group / s.key_heads);
      if (sequence != b) length = s.length(sequence);
      b = sequence;
      head = static_cast<int>(group % s.key_heads);
      piece = static_cast<int>(unit / row_tiles % s.pieces);
      first = static_cast<int>(unit % row_tiles) * kTile;
      const int slots = s.listed ? s.list_size : length, step = piece_length(slots);
      slot = piece * step;
      end = min(slots, slot + step);
      if (piece == 0 || slot < slots) return;
    }
  }
};

// Where a key is; a position of INT_MAX for none.
struct Found {
  int position;
  Place place;
};

// The ring of a warp.
template <class T, int kWidth>
struct Ring {
  static constexpr int kChunks = kWidth / 8;
  static constexpr int kStep = static_cast<int>(cuda::kWarp) / kChunks;  // rows per access

  const Arguments<T>& a;
  unsigned memory;  // shared address
  int (&positions)[kStages<kWidth>][kTile];
  int lane, chunk, row;     // this lane's chunk of rows `row` + i · kStep
  bool has_key, has_value;  // the chunk lies within the width

  __device__ Ring(const Arguments<T>& arguments, const char* at,
                  int (&kept)[kStages<kWidth>][kTile])
      : a(arguments),
        memory(cuda::shared_address(at)),
        positions(kept),
        lane(static_cast<int>(threadIdx.x)),
        chunk(lane % kChunks),
        row(lane / kChunks),
        has_key(chunk * 8 < a.sizes.width),
        has_value(!a.shared && chunk * 8 < a.sizes.value_width) {}

  __device__ unsigned keys(int stage) const {
    return memory + static_cast<unsigned>(stage) * kStageBytes<kWidth>;
  }
  __device__ unsigned values(int stage) const {
    return a.shared ? keys(stage) : keys(stage) + kStageBytes<kWidth> / 2;
  }
  // Lanes j and 16 + j: key j of the tile.
  __device__ Found find(const Cursor& at) const {
    const int slot = at.slot + lane % kTile;
    Found found{INT_MAX, {0, 0}};
    if (!a.looked_up || !at.valid() || slot >= at.end) return found;
    const int position = a.sizes.position(at.b, at.head, slot, at.length);
    if (position >= 0) found = {position, a.sizes.place(at.b, position)};
    return found;
  }
  __device__ void load(const Cursor& at, int stage, const Found& found) const {
    if (at.valid()) {
      if (a.looked_up) {
        load_found(at, stage, found);
      } else if (at.slot + kTile <= at.end) {
        load_whole(at, stage);
      } else {
        load_rest(at, stage);
      }
    }
    cuda::commit_copies();
  }

 private:
  __device__ const T* key(int64_t block, int head, int64_t at) const {
    return a.key.at(block, head, at) + chunk * 8;
  }
  __device__ const T* value(int64_t block, int head, int64_t at) const {
    return a.value.at(block, head, at) + chunk * 8;
  }
  __device__ void copy(int stage, int to_row, const T* k, const T* v, bool there) const {
    const unsigned to = keys(stage) + dense::chunk_offset<kWidth>(to_row, chunk);
    const bool key_there = there && has_key, value_there = there && has_value;
    cuda::copy_async(to, key_there ? k : a.key.data, key_there);
    if (!a.shared) {
      cuda::copy_async(to + kStageBytes<kWidth> / 2, value_there ? v : a.value.data, value_there);
    }
  }
  __device__ void load_whole(const Cursor& at, int stage) const {
    const T* k = has_key ? key(at.b, at.head, at.slot + row) : a.key.data;
    const T* v = has_value ? value(at.b, at.head, at.slot + row) : a.value.data;
    const int64_t k_step = has_key ? kStep * a.key.row : 0;
    const int64_t v_step = has_value ? kStep * a.value.row : 0;
    const unsigned to = keys(stage);
#pragma unroll
    for (int i = 0; i < kTile / kStep; ++i) {
      cuda::copy_async(to + dense::chunk_offset<kWidth>(row + i * kStep, chunk), k, has_key);
      k += k_step;
    }
    if (a.shared) return;
#pragma unroll
    for (int i = 0; i < kTile / kStep; ++i) {
      cuda::copy_async(
          to + kStageBytes<kWidth> / 2 + dense::chunk_offset<kWidth>(row + i * kStep, chunk), v,
          has_value);
      v += v_step;
    }
  }
  __device__ void load_rest(const Cursor& at, int stage) const {
#pragma unroll 1
    for (int i = 0; i < kTile; i += kStep) {
      const int slot = at.slot + row + i;
      copy(stage, row + i, key(at.b, at.head, slot), value(at.b, at.head, slot), slot < at.end);
    }
  }
  __device__ void load_found(const Cursor& at, int stage, const Found& found) const {
    if (lane < kTile) positions[stage][lane] = found.position;
#pragma unroll
    for (int i = 0; i < kTile; i += kStep) {
      const bool there = __shfl_sync(cuda::kAllLanes, found.position, row + i) != INT_MAX;
      const int block = __shfl_sync(cuda::kAllLanes, found.place.block, row + i);
      const int in_block = __shfl_sync(cuda::kAllLanes, found.place.row, row + i);
      copy(stage, row + i, key(block, at.head, in_block), value(block, at.head, in_block), there);
    }
  }
};

// Sixteen query rows of a key head, of which this lane has two: lane / 4 and that + 8.
template <class T, int kWidth>
struct Queries {
  int b = -1, head = -1, first = -1;
  int seen[2], position[2];
  float slope[2];
  unsigned left[kWidth / 16][4];  // as the left operand

  __device__ void load(const Arguments<T>& a, const Cursor& at) {
    if (at.b == b && at.head == head && at.first == first) return;
    b = at.b;
    head = at.head;
    first = at.first;
    const int lane = static_cast<int>(threadIdx.x), column = lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + lane / 4 + 8 * half;
      const bool there = row < a.sizes.rows;
      const T* from = a.query.data;
      seen[half] = position[half] = 0;
      slope[half] = 0;
      if (there) {
        const auto query = a.sizes.query_of(b, head, row, at.length);
        from = a.query.at(b, query.head, query.query);
        seen[half] = query.seen;
        position[half] = query.position;
        if (a.sizes.slopes != nullptr) slope[half] = a.sizes.slopes[query.head] * dense::kLog2e;
      }
#pragma unroll
      for (int k = 0; k < kWidth / 16; ++k) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const int d = k * 16 + part * 8 + column;
          left[k][part * 2 + half] =
              there && d < a.sizes.width ? *reinterpret_cast<const unsigned*>(from + d) : 0u;
        }
      }
    }
  }
};

// Running results of a piece: maxima in units of log 2, sums of this lane's columns.
template <class T, int kWidth>
struct Sums {
  float top[2], total[2];
  cuda::Accumulator output[kWidth / 8];

  __device__ void reset() {
    top[0] = top[1] = -INFINITY;
    total[0] = total[1] = 0;
    dense::clear(output);
  }

  // One tile of keys; `positions`: of this lane's columns 2 t, 2 t + 1, 8 + 2 t, 9 + 2 t.
  __device__ void step(const Queries<T, kWidth>& q, unsigned keys, unsigned values,
                       const int (&positions)[4], float scale) {
    const unsigned lane_offset = dense::lane_offset<kWidth>();
    cuda::Accumulator c[4];  // two chains for each half of the keys
    dense::clear(c);
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k) {
      unsigned r[4];
      cuda::load_matrices(r, keys + (lane_offset ^ static_cast<unsigned>(k * 32)));
      cuda::mma<T>(c[k % 2 * 2], q.left[k], r[0], r[1]);
      cuda::mma<T>(c[k % 2 * 2 + 1], q.left[k], r[2], r[3]);
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float best = top[half];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int at = half * 2 + e % 2;
        const float product = c[e / 2][at] + c[e / 2 + 2][at];
        const auto distance = static_cast<float>(abs(q.position[half] - positions[e]));
        c[e / 2][at] =
            positions[e] < q.seen[half] ? product * scale - q.slope[half] * distance : -INFINITY;
        best = fmaxf(best, c[e / 2][at]);
      }
      best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 1));
      best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 2));
      const float shift = best == -INFINITY ? 0.0f : best;
      shrink[half] = cuda::exp2_fast(top[half] - shift);
      top[half] = best;
      float sum = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& x = c[e / 2][half * 2 + e % 2];
        x = cuda::exp2_fast(x - shift);
        sum += x;
      }
      total[half] = total[half] * shrink[half] + sum;
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

  __device__ void write(const Arguments<T>& a, const Cursor& at) const {
    const Sizes& s = a.sizes;
    const int lane = static_cast<int>(threadIdx.x), column = lane % 4 * 2;
    const int64_t group = static_cast<int64_t>(at.b) * s.key_heads + at.head;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[half];
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 1);
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 2);
      const int row = at.first + lane / 4 + 8 * half;
      if (row >= s.rows) continue;
      const bool some = sum > 0;
      const float scale = some ? 1 / sum : 0.0f;
      const float lse = some ? (top[half] + log2f(sum)) * kLn2 : -INFINITY;
      const int h = at.head * s.group + row / s.queries, i = row % s.queries;
      const int64_t part = (group * s.pieces + at.piece) * s.rows + row;
      if (lane % 4 == 0) {
        (a.parts != nullptr
             ? a.part_lse[part]
             : a.logsumexp[(static_cast<int64_t>(at.b) * s.heads + h) * s.queries + i]) = lse;
      }
      float* to = a.parts + part * s.value_width;
      T* direct = a.output.at(at.b, h, i);
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        const int d = n * 8 + column;
        if (d >= s.value_width) break;
        const float x = output[n][half * 2] * scale, y = output[n][half * 2 + 1] * scale;
        if (a.parts != nullptr) {
          *reinterpret_cast<float2*>(to + d) = make_float2(x, y);
        } else {
          *reinterpret_cast<unsigned*>(direct + d) = cuda::pack<T>(x, y);
        }
      }
    }
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) halves_kernel(Arguments<T> a) {
  extern __shared__ __align__(1024) char memory[];
  __shared__ int kept[kStages<kWidth>][kTile];
  constexpr int kDepth = kStages<kWidth>;
  const Ring<T, kWidth> ring(a, memory, kept);
  Cursor now(a.sizes, a.units * blockIdx.x / gridDim.x, a.units * (blockIdx.x + 1) / gridDim.x);
  Cursor ahead = now;
  Found found = ring.find(ahead);
  auto load_next = [&](int stage) {
    ring.load(ahead, stage, found);
    if (ahead.valid()) ahead.advance();
    found = ring.find(ahead);  // is there when it is needed, a tile later
  };
#pragma unroll 1
  for (int i = 0; i < kDepth - 1; ++i) load_next(i);

  const float scale = static_cast<float>(a.sizes.scale) * dense::kLog2e;
  const int lane = static_cast<int>(threadIdx.x);
  Queries<T, kWidth> queries;
  Sums<T, kWidth> sums;
  bool fresh = true;
  int stage = 0;
#pragma unroll 1
  while (now.valid()) {
    load_next(stage == 0 ? kDepth - 1 : stage - 1);
    if (fresh) {
      queries.load(a, now);
      sums.reset();
    }
    cuda::wait_copies<kDepth - 1>();
    __syncwarp();
    int positions[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = e / 2 * 8 + lane % 4 * 2 + e % 2;
      positions[e] = a.looked_up                   ? kept[stage][column]
                     : now.slot + column < now.end ? now.slot + column
                                                   : INT_MAX;
    }
    sums.step(queries, ring.keys(stage), ring.values(stage), positions, scale);
    __syncwarp();
    stage = stage + 1 == kDepth ? 0 : stage + 1;
    fresh = now.slot + kTile >= now.end;
    if (fresh) sums.write(a, now);
    now.advance();
  }
}

// fn.template operator()<kWidth>() with the width of tiles that holds keys and values.
template <class Fn>
decltype(auto) visit_width(const Problem& p, const Fn& fn) {
  const int64_t width = std::max(p.width(), p.value_width());
  if (width <= 64) return fn.template operator()<64>();
  if (width <= 128) return fn.template operator()<128>();
  return fn.template operator()<256>();
}

// As many warps as the device holds at once, or one per unit.
template <class T, int kWidth>
unsigned grid_for(int64_t units, Device device) {
  static const int resident = [&] {
    int count = 0;
    cuda::use(device);
    cuda::prepare_shared("decode_attention",
                         reinterpret_cast<const void*>(halves_kernel<T, kWidth>),
                         kSharedBytes<kWidth>);
    cuda::check_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                           &count, halves_kernel<T, kWidth>, kThreads, kSharedBytes<kWidth>),
                       "decode_attention");
    return std::max(1, count) * cuda::multiprocessors(device);
  }();
  return static_cast<unsigned>(std::min<int64_t>(units, resident));
}

template <class T>
void launch(const Sizes& s, const Problem& p, const Parts& parts, const AttentionResult& result) {
  Arguments<T> a{};
  a.sizes = s;
  a.query = Rows<const T>(p.query);
  a.key = Rows<const T>(p.cache.key);
  a.value = Rows<const T>(p.cache.value);
  a.shared = a.key.data == a.value.data && a.key.batch == a.value.batch &&
             a.key.head == a.value.head && a.key.row == a.value.row && s.width == s.value_width;
  a.looked_up = s.listed || s.table != nullptr;
  a.output = Rows<T>(result.output);
  a.logsumexp = cuda::data<float>(result.logsumexp);
  if (s.pieces > 1) {
    a.parts = cuda::data<float>(parts.output);
    a.part_lse = cuda::data<float>(parts.logsumexp);
  }
  a.units = int64_t{(s.rows + kTile - 1) / kTile} * s.pieces * s.key_heads * s.batch;
  visit_width(p, [&]<int kWidth>() {
    cuda::launch("decode_attention", p.query.device(), halves_kernel<T, kWidth>,
                 grid_for<T, kWidth>(a.units, p.query.device()), kThreads, kSharedBytes<kWidth>, a);
  });
}

}  // namespace

bool halves_fit(const Problem& p) {
  constexpr size_t kPositions = 4 * kTile * sizeof(int);
  return visit_width(p, [&]<int kWidth>() {
    return kSharedBytes<kWidth> + kPositions <= cuda::shared_limit(p.query.device());
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
