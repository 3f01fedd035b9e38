// The passes of the linear engine in bf16 and f16 on tensor cores: 64 tokens, 64 columns of the
// values at a time. Every warp has 16 of the tokens as rows of the results, and rows of the state,
// which stays in f32 in its registers; products with queries read a rounded copy in shared memory.
// Tiles of the next chunk are on their way meanwhile.
#include "tessera/attention/engines/dense_tiles.h"
#include "tessera/attention/engines/linear_kernels.h"

namespace tessera::linear_engine {
namespace {

constexpr int kTokens = kHalvesChunk;
constexpr int kColumns = 64;
constexpr int kWarps = 4;
constexpr unsigned kThreads = kWarps * 32;

// What lies in shared memory; a pair of everything, for this chunk and the next.
template <int kWidth, bool kGather>
struct Layout {
  static constexpr unsigned kRows = dense::kTileBytes<kTokens, kWidth>;  // of queries or keys
  static constexpr unsigned kKey = kGather ? 0 : kRows;
  static constexpr unsigned kValue = kKey + kRows;
  static constexpr unsigned kStage = kValue + dense::kTileBytes<kTokens, kColumns>;
  static constexpr unsigned kState = 2 * kStage;
  static constexpr unsigned kStateBytes = kGather ? 0 : dense::kTileBytes<kWidth, kColumns>;
  static constexpr unsigned kDecays = kState + 2 * kStateBytes;
  static constexpr unsigned kBytes = kDecays + 2 * (2 * kTokens + 4) * 4;
};

// Of a chunk, by one warp, in exponents of 2.
struct Decays {
  float sums[kTokens];    // G
  float of_key[kTokens];  // b, a factor
  float total;            // a factor
  float log_total;
  float unused[2];
};

// Reads the log-decays of one chunk after another, always one chunk ahead.
class DecayReader {
 public:
  __device__ DecayReader(const float* log_decay, bool per_token)
      : from_(log_decay), per_token_(per_token) {}

  __device__ void read(int begin, int end) {
    const int t = begin + 2 * static_cast<int>(threadIdx.x % cuda::kWarp);
    next_[0] = value(t, end);
    next_[1] = value(t + 1, end);
  }

  // Of the chunk that was read last; `later` is log₂ of what is between it and the state.
  __device__ void write(Decays& to, bool backward, float scale, float later) const {
    const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
    float sum = next_[0] + next_[1];
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const float before = __shfl_up_sync(cuda::kAllLanes, sum, step);
      if (lane >= step) sum += before;
    }
    const float total = __shfl_sync(cuda::kAllLanes, sum, 31);
    const float first = sum - next_[1];
    to.sums[2 * lane] = first;
    to.sums[2 * lane + 1] = sum;
    to.of_key[2 * lane] = scale * cuda::exp2_fast(later + (backward ? first : total - first));
    to.of_key[2 * lane + 1] = scale * cuda::exp2_fast(later + (backward ? sum : total - sum));
    if (lane == 0) {
      to.total = cuda::exp2_fast(total);
      to.log_total = total;
    }
  }

 private:
  __device__ float value(int t, int end) const {
    if (from_ == nullptr || t >= end) return 0;
    return dense::kLog2e * (per_token_ ? from_[t] : from_[0]);
  }

  const float* from_;
  bool per_token_;
  float next_[2];
};

// Two halves times two factors.
template <class T>
__device__ inline unsigned scaled(unsigned x, float low, float high) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return cuda::pack<T>(__uint_as_float(x << 16) * low, __uint_as_float(x & 0xffff0000u) * high);
  } else {
    const auto bits = [](unsigned half) {
      float f;
      asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(half));
      return f;
    };
    return cuda::pack<T>(bits(x & 0xffffu) * low, bits(x >> 16) * high);
  }
}

// The products of 16 queries and 16 keys times their decays: `row` and `column` of the lane's first
// entry, `own` the decay sums of its two rows. `diagonal`: some keys are not seen.
template <class T>
__device__ inline void weigh(unsigned (&w)[4], cuda::Accumulator (&s)[2], const float* sums,
                             int row, int column, const float (&own)[2], float scale, bool backward,
                             bool diagonal) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 other = *reinterpret_cast<const float2*>(sums + column + 8 * n);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float apart = own[e / 2] - (e % 2 == 0 ? other.x : other.y);
      const int r = row + e / 2 * 8, c = column + 8 * n + e % 2;
      const bool seen = !diagonal || (backward ? c >= r : c <= r);
      s[n][e] = seen ? s[n][e] * scale * cuda::exp2_fast(backward ? -apart : apart) : 0.f;
    }
  }
  dense::pack_left<T>(w, s[0], s[1]);
}

// ⟨row, partner row⟩ of a lane's two rows of 64 columns, of which `columns` exist.
template <class T>
__device__ inline void store_dots(const cuda::Accumulator (&o)[kColumns / 8], const T* partner,
                                  int64_t stride, int columns, int row, int count, float* dots) {
  const int lane = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = row + 8 * r;
    float dot = 0;
    if (t < count) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const int c = 8 * n + 2 * lane;
        if (c >= columns) continue;
        const auto other = cuda::load<2>(partner + t * stride + c);
        dot += o[n][2 * r] * convert<float>(other[0]) + o[n][2 * r + 1] * convert<float>(other[1]);
      }
    }
    dot += __shfl_xor_sync(cuda::kAllLanes, dot, 1);
    dot += __shfl_xor_sync(cuda::kAllLanes, dot, 2);
    if (lane == 0 && t < count) dots[t] = dot;
  }
}

template <class T, int kWidth, bool kGather>
__global__ void __launch_bounds__(kThreads, kGather        ? 4
                                            : kWidth == 64 ? 3
                                                           : 2)
    pass_kernel(const __grid_constant__ Arguments<T, float> a) {
  using L = Layout<kWidth, kGather>;
  constexpr int kSteps = kWidth / 16;
  constexpr int kStrips = kWidth / 16 / kWarps;  // of 16 rows of the state, per warp
  constexpr unsigned kRowStep = 16 * kWidth * 2, kColumnStep = 16 * kColumns * 2;
  extern __shared__ __align__(1024) char memory[];
  Decays* decays = reinterpret_cast<Decays*>(memory + L::kDecays);
  const unsigned shared = cuda::shared_address(memory);

  const int tiles = (a.value_width + kColumns - 1) / kColumns;
  constexpr int kSkipped = kGather ? 1 : 0;  // the segment after which nothing comes
  const Place p =
      place_of(blockIdx.x, tiles, a.segments - kSkipped, a.backward ? kSkipped : 0, a.heads);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int column = p.tile * kColumns;
  const int64_t head = static_cast<int64_t>(p.b) * a.heads + p.h;
  const int segment_begin = p.segment * a.segment;
  const int segment_end = min(a.length, segment_begin + a.segment);
  const int chunks = (segment_end - segment_begin + kTokens - 1) / kTokens;
  // Gathering runs against the order of the pass: what the cache holds at its end is what the next
  // kernel wants first.
  const bool from_end = a.backward != kGather;
  const auto begin_of = [&](int chunk) {
    return segment_begin + (from_end ? chunks - 1 - chunk : chunk) * kTokens;
  };
  const T* key = a.key.at(p.b, p.h / a.key_group);
  const T* value = a.value.at(p.b, p.h / a.value_group) + column;
  const auto fetch = [&](int chunk) {
    const unsigned to = shared + chunk % 2 * L::kStage;
    const int begin = begin_of(chunk);
    if constexpr (!kGather) {
      dense::TileCopy<T, kTokens, kWidth, kThreads>(a.query.at(p.b, p.h / a.query_group),
                                                    a.query.row, a.query_columns,
                                                    thread)(to, begin, segment_end);
    }
    dense::TileCopy<T, kTokens, kWidth, kThreads>(key, a.key.row, a.query_columns, thread)(
        to + L::kKey, begin, segment_end);
    dense::TileCopy<T, kTokens, kColumns, kThreads>(value, a.value.row, a.value_columns - column,
                                                    thread)(to + L::kValue, begin, segment_end);
  };
  if (chunks > 0) fetch(0);
  cuda::commit_copies();

  DecayReader reader(a.log_decay == nullptr ? nullptr : a.decay_of(p.b, p.h), a.per_token);
  const int writer = a.backward ? kWarps - 1 : 0;  // the warp with least to do
  const float key_scale = a.backward ? a.scale : 1;
  float later = 0;  // gathering: log₂ of the decay between what was read and the border
  const auto prepare = [&](int chunk) {
    if (warp != writer || chunk >= chunks) return;
    Decays& to = decays[chunk % 2];
    reader.write(to, a.backward, key_scale, later);
    if (chunk + 1 < chunks) reader.read(begin_of(chunk + 1), segment_end);
    if constexpr (kGather) {
      __syncwarp();
      later += to.log_total;
    }
  };
  if (warp == writer && chunks > 0) {
    reader.read(begin_of(0), segment_end);
    prepare(0);
  }

  // The lane's entries of the state: rows row_of(m), + 8, columns 8 n + 2 (lane mod 4), + 1.
  cuda::Accumulator state[kStrips][kColumns / 8];
  const auto row_of = [&](int m) { return (warp * kStrips + m) * 16 + lane / 4; };
  const auto write_state = [&](int chunk) {
    char* tile = memory + L::kState + chunk % 2 * L::kStateBytes;
#pragma unroll
    for (int m = 0; m < kStrips; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        char* at = tile + dense::chunk_offset<kColumns>(row_of(m), n) + lane % 4 * 4;
        *reinterpret_cast<unsigned*>(at) = cuda::pack<T>(state[m][n][0], state[m][n][1]);
        *reinterpret_cast<unsigned*>(at + 8 * kColumns * 2) =
            cuda::pack<T>(state[m][n][2], state[m][n][3]);
      }
    }
  };
#pragma unroll
  for (int m = 0; m < kStrips; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int w = row_of(m) + e / 2 * 8, c = column + 8 * n + lane % 4 * 2 + e % 2;
        state[m][n][e] = 0;
        if (!kGather && w < a.width && c < a.value_width) {
          state[m][n][e] = a.states[p.b * a.state_strides[0] + p.h * a.state_strides[1] +
                                    p.segment * a.state_strides[2] + w * a.state_strides[3] +
                                    c * a.state_strides[4]];
        }
      }
    }
  }
  if constexpr (!kGather) write_state(0);

  const unsigned at = dense::lane_offset<kWidth>(), value_at = dense::lane_offset<kColumns>();
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cuda::wait_copies<0>();
    __syncthreads();
    if (chunk + 1 < chunks) fetch(chunk + 1);
    cuda::commit_copies();
    prepare(chunk + 1);

    const int begin = begin_of(chunk);
    const unsigned tile = shared + chunk % 2 * L::kStage;
    const unsigned keys = tile + L::kKey + at, values = tile + L::kValue + value_at;
    const Decays& d = decays[chunk % 2];
    const int row = warp * 16 + lane / 4;
    cuda::Accumulator out[kColumns / 8];
    unsigned q[kGather ? 1 : kSteps][4];
    float own[2] = {};
    if constexpr (!kGather) {
      dense::clear(out);
      const unsigned rounded = shared + L::kState + chunk % 2 * L::kStateBytes + value_at;
#pragma unroll
      for (int kk = 0; kk < kSteps; ++kk) {
        dense::load_left(q[kk], (tile + warp * kRowStep + at) ^ (kk * 32));
#pragma unroll
        for (int e = 0; e < kColumns / 16; ++e) {
          unsigned r[4];
          cuda::load_transposed(r, (rounded + kk * kColumnStep) ^ (e * 32));
          cuda::mma<T>(out[2 * e], q[kk], r[0], r[2]);
          cuda::mma<T>(out[2 * e + 1], q[kk], r[1], r[3]);
        }
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        own[r] = d.sums[row + 8 * r];
        const float factor =
            a.backward ? cuda::exp2_fast(d.log_total - own[r]) : a.scale * cuda::exp2_fast(own[r]);
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
          out[n][2 * r] *= factor;
          out[n][2 * r + 1] *= factor;
        }
      }
#pragma unroll
      for (int m = 0; m < kStrips; ++m) {
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) state[m][n][e] *= d.total;
        }
      }
    }

#pragma unroll
    for (int j = 0; j < kTokens / 16; ++j) {
      unsigned w[4];
      const bool seen = !kGather && (a.backward ? j >= warp : j <= warp);
      if (seen) {
        cuda::Accumulator s[2];
        dense::clear(s);
#pragma unroll
        for (int kk = 0; kk < kSteps; ++kk) {
          unsigned r[4];
          cuda::load_matrices(r, (keys + j * kRowStep) ^ (kk * 32));
          cuda::mma<T>(s[0], q[kGather ? 0 : kk], r[0], r[1]);
          cuda::mma<T>(s[1], q[kGather ? 0 : kk], r[2], r[3]);
        }
        weigh<T>(w, s, d.sums, row, j * 16 + lane % 4 * 2, own, a.scale, a.backward, j == warp);
      }
      unsigned left[kStrips][4];
      const float2 low = *reinterpret_cast<const float2*>(d.of_key + j * 16 + lane % 4 * 2);
      const float2 high = *reinterpret_cast<const float2*>(d.of_key + j * 16 + lane % 4 * 2 + 8);
#pragma unroll
      for (int m = 0; m < kStrips; ++m) {
        cuda::load_transposed(left[m], (keys + j * kRowStep) ^ ((warp * kStrips + m) * 32));
        left[m][0] = scaled<T>(left[m][0], low.x, low.y);
        left[m][1] = scaled<T>(left[m][1], low.x, low.y);
        left[m][2] = scaled<T>(left[m][2], high.x, high.y);
        left[m][3] = scaled<T>(left[m][3], high.x, high.y);
      }
#pragma unroll
      for (int e = 0; e < kColumns / 16; ++e) {
        unsigned r[4];
        cuda::load_transposed(r, (values + j * kColumnStep) ^ (e * 32));
        if (seen) {
          cuda::mma<T>(out[2 * e], w, r[0], r[2]);
          cuda::mma<T>(out[2 * e + 1], w, r[1], r[3]);
        }
#pragma unroll
        for (int m = 0; m < kStrips; ++m) {
          cuda::mma<T>(state[m][2 * e], left[m], r[0], r[2]);
          cuda::mma<T>(state[m][2 * e + 1], left[m], r[1], r[3]);
        }
      }
    }

    if constexpr (!kGather) {
      write_state(chunk + 1);
      if (a.dots != nullptr) {
        const int64_t rows = static_cast<int64_t>(a.batch) * a.heads * a.length;
        store_dots(out, a.partner.at(p.b, p.h / a.partner_group) + column, a.partner.row,
                   a.value_columns - column, begin + row, segment_end,
                   a.dots + p.tile * rows + head * a.length);
      }
      // Only this warp reads these rows of queries, and it has them.
      dense::store_rows<T, kColumns>(out, 1, 1, memory + chunk % 2 * L::kStage + warp * kRowStep,
                                     a.out.at(p.b, p.h) + column, a.out.row, begin + warp * 16,
                                     segment_end, a.value_columns - column);
    }
  }

  if (a.left == nullptr || (!kGather && p.segment != a.last_segment())) return;
  const int64_t slot = kGather ? head * a.segments + p.segment : head;
#pragma unroll
  for (int m = 0; m < kStrips; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int w = row_of(m) + e / 2 * 8, c = column + 8 * n + lane % 4 * 2 + e % 2;
        if (w < a.width && c < a.value_width) {
          a.left[(slot * a.width + w) * a.value_width + c] = state[m][n][e];
        }
      }
    }
  }
  if (kGather && p.tile == 0 && warp == writer && lane == 0) {
    a.decays[slot] = cuda::exp2_fast(later);
  }
}

template <class T, int kWidth, bool kGather>
void run(const Arguments<T, float>& a, Device device) {
  const int64_t segments = a.segments - (kGather ? 1 : 0);
  cuda::launch(
      "linear_attention", device, pass_kernel<T, kWidth, kGather>,
      dense::grid_of(int64_t{a.batch} * a.heads * segments * column_tiles_halves(a.value_width)),
      kThreads, Layout<kWidth, kGather>::kBytes, a);
}

template <bool kGather, class T>
void run(const Arguments<T, float>& a, Device device) {
  if (a.width <= 64) {
    run<T, 64, kGather>(a, device);
  } else {
    run<T, 128, kGather>(a, device);
  }
}

template <class Fn>
void visit_halves(DType dtype, const Fn& fn) {
  if (dtype == DType::bf16) {
    fn.template operator()<bfloat16>();
  } else {
    fn.template operator()<float16>();
  }
}

}  // namespace

int column_tiles_halves(int64_t value_width) {
  return static_cast<int>((value_width + kColumns - 1) / kColumns);
}

void gather_halves(const Pass& p, const Tensor& states, const Tensor& decays) {
  visit_halves(p.key.dtype(), [&]<class T>() {
    run<true>(arguments_of<T, float>(p, states, decays), p.key.device());
  });
}

void sums_halves(const Pass& p, const Tensor& states, const Tensor& partner, const Outputs& to) {
  visit_halves(p.key.dtype(), [&]<class T>() {
    run<false>(arguments_of<T, float>(p, states, partner, to), p.key.device());
  });
}

}  // namespace tessera::linear_engine
