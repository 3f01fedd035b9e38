// The passes of the linear engine in bf16 and f16 on tensor cores: 64 tokens, 64 columns of the
// values at a time. Every warp has 16 of the tokens as rows of the results, and rows of the state,
// which stays in f32 in its registers; products with queries read a rounded copy in shared memory.
// Tiles of the next chunk are on their way meanwhile.
#include "tessera/attention/engines/linear_tiles.h"

namespace tessera::linear_engine {
namespace {

// Gathering, or with results, or with results and their trace.
enum class Mode { gather, sums, traced };

// Blocks that a multiprocessor runs at once.
template <int kWidth, Mode kMode>
constexpr int kBlocks = kMode != Mode::gather ? 2
                        : kWidth > 64         ? 3
                                              : 4;

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
  static constexpr unsigned kBytes = kDecays + 2 * sizeof(Decays);
};

// One segment of one head, one block.
template <class T, int kWidth, Mode kMode>
class Segment {
  static constexpr bool kGather = kMode == Mode::gather, kTraced = kMode == Mode::traced;
  static constexpr int kSteps = kWidth / 16;
  static constexpr int kStrips = kWidth / 16 / kWarps;  // of 16 rows of the state, per warp
  static constexpr unsigned kRowStep = 16 * kWidth * 2, kColumnStep = 16 * kColumns * 2;
  using L = Layout<kWidth, kGather>;
  using Rows = cuda::Accumulator[kColumns / 8];

 public:
  __device__ Segment(const Arguments<T, float>& a, char* memory)
      : a_(a),
        memory_(memory),
        shared_(cuda::shared_address(memory)),
        decays_(reinterpret_cast<Decays*>(memory + L::kDecays)),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % 32),
        warp_(__shfl_sync(cuda::kAllLanes, thread_ / 32, 0)),  // the compiler sees it is uniform
        tiles_((a.value_width + kColumns - 1) / kColumns) {
    constexpr int kSkipped = kGather ? 1 : 0;  // the segment after which nothing comes
    place_ =
        place_of(blockIdx.x, tiles_, a.segments - kSkipped, a.backward ? kSkipped : 0, a.heads);
    head_ = static_cast<int64_t>(place_.b) * a.heads + place_.h;
    column_ = place_.tile * kColumns;
    begin_ = place_.segment * a.segment;
    end_ = min(a.length, begin_ + a.segment);
    chunks_ = (end_ - begin_ + kTokens - 1) / kTokens;
    const unsigned at = dense::lane_offset<kWidth>();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      key_at_[i] = at ^ (i * 32);
      query_at_[i] = operand_offset<kWidth>() ^ (i * 32);
      value_at_[i] = operand_offset<kColumns>() ^ (i * 32);
    }
#pragma unroll
    for (int m = 0; m < kStrips; ++m) strip_at_[m] = at ^ ((warp_ * kStrips + m) * 32);
  }

  __device__ void run() {
    if (chunks_ > 0) fetch(0);
    cuda::commit_copies();
    DecayReader reader(a_.log_decay == nullptr ? nullptr : a_.decay_of(place_.b, place_.h),
                       a_.per_token);
    if (warp_ == writer() && chunks_ > 0) {
      reader.read(begin_of(0), end_);
      prepare(reader, 0);
    }
    load_state();
    if constexpr (!kGather) round_state(0);
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      cuda::wait_copies<0>();
      __syncthreads();
      if (chunk + 1 < chunks_) fetch(chunk + 1);
      cuda::commit_copies();
      prepare(reader, chunk + 1);
      advance(chunk);
    }
    leave();
  }

 private:
  // Gathering runs against the order of the pass: what the cache holds at its end is what the next
  // kernel wants first.
  __device__ int begin_of(int chunk) const {
    return begin_ + (a_.backward != kGather ? chunks_ - 1 - chunk : chunk) * kTokens;
  }
  __device__ unsigned stage_of(int chunk) const {
    return chunk % 2 * L::kStage;
  }
  __device__ int writer() const {
    return a_.backward ? kWarps - 1 : 0;
  }  // has least to do

  __device__ void fetch(int chunk) const {
    const unsigned to = shared_ + stage_of(chunk);
    const int begin = begin_of(chunk), columns = a_.value_columns - column_;
    using Wide = dense::TileCopy<T, kTokens, kWidth, kThreads>;
    using Narrow = dense::TileCopy<T, kTokens, kColumns, kThreads>;
    const T* key = a_.key.at(place_.b, place_.h / a_.key_group);
    const T* value = a_.value.at(place_.b, place_.h / a_.value_group) + column_;
    if constexpr (!kGather) {
      const T* query = a_.query.at(place_.b, place_.h / a_.query_group);
      Wide(query, a_.query.row, a_.query_columns, thread_)(to, begin, end_);
    }
    Wide(key, a_.key.row, a_.query_columns, thread_)(to + L::kKey, begin, end_);
    Narrow(value, a_.value.row, columns, thread_)(to + L::kValue, begin, end_);
  }

  __device__ void prepare(DecayReader& reader, int chunk) {
    if (warp_ != writer() || chunk >= chunks_) return;
    Decays& to = decays_[chunk % 2];
    reader.write(to, a_.backward, a_.backward ? a_.scale : 1, later_);
    if (chunk + 1 < chunks_) reader.read(begin_of(chunk + 1), end_);
    if constexpr (kGather) {
      __syncwarp();
      later_ += to.log_all;
    }
  }

  // Entry e of a lane's piece n of strip m of the state: where it is in the whole.
  __device__ int row_of(int m, int e) const {
    return (warp_ * kStrips + m) * 16 + lane_ / 4 + e / 2 * 8;
  }
  __device__ int column_of(int n, int e) const {
    return column_ + 8 * n + lane_ % 4 * 2 + e % 2;
  }
  template <class Fn>
  __device__ void each_entry(const Fn& fn) {
#pragma unroll
    for (int m = 0; m < kStrips; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int w = row_of(m, e), c = column_of(n, e);
          fn(state_[m][n][e], w, c, w < a_.width && c < a_.value_width);
        }
      }
    }
  }

  __device__ void load_state() {
    const int64_t* strides = a_.state_strides;
    const float* from =
        a_.states + place_.b * strides[0] + place_.h * strides[1] + place_.segment * strides[2];
    each_entry([&](float& entry, int w, int c, bool there) {
      entry = !kGather && there ? from[w * strides[3] + c * strides[4]] : 0.f;
    });
  }

  // The state in halves to where the products with a chunk's queries read it.
  __device__ void round_state(int chunk) const {
    char* tile = memory_ + L::kState + chunk % 2 * L::kStateBytes;
#pragma unroll
    for (int m = 0; m < kStrips; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const cuda::Accumulator& s = state_[m][n];
        char* at = tile + dense::chunk_offset<kColumns>(row_of(m, 0), n) + lane_ % 4 * 4;
        *reinterpret_cast<unsigned*>(at) = cuda::pack<T>(s[0], s[1]);
        *reinterpret_cast<unsigned*>(at + 8 * kColumns * 2) = cuda::pack<T>(s[2], s[3]);
      }
    }
  }

  __device__ void advance(int chunk) {
    const Decays& d = decays_[chunk % 2];
    const unsigned tile = shared_ + stage_of(chunk);
    const int begin = begin_of(chunk);
    Rows out;
    unsigned q[kGather ? 1 : kSteps][4];
    float own[2] = {};
    if constexpr (kTraced) trace_state(begin / kTokens, d.of_all);
    if constexpr (!kGather) {
      own[0] = d.exponent[warp_ * 16 + lane_ / 4];
      own[1] = d.exponent[warp_ * 16 + lane_ / 4 + 8];
      cross(out, q, chunk, own, d.log_all);
      if constexpr (kTraced) {
        if (a_.backward) trace_rows(1, begin, out);
      }
      each_entry([&](float& entry, int, int, bool) { entry *= d.of_all; });
    }
#pragma unroll
    for (int j = 0; j < kTokens / 16; ++j) {
      const bool seen = !kGather && (a_.backward ? j >= warp_ : j <= warp_);
      if (seen) {
        meet<true>(j, tile, d, own, q, out);
      } else {
        meet<false>(j, tile, d, own, q, out);
      }
    }
    if constexpr (!kGather) {
      round_state(chunk + 1);
      if constexpr (kTraced) trace_rows(0, begin, out);
      store(chunk, out);
    }
  }

  // out = a_i Sᵀ q_i
  __device__ void cross(Rows& out, unsigned (&q)[kGather ? 1 : kSteps][4], int chunk,
                        const float (&own)[2], float log_all) const {
    dense::clear(out);
    const unsigned queries = shared_ + stage_of(chunk) + warp_ * kRowStep;
    const unsigned rounded = shared_ + L::kState + chunk % 2 * L::kStateBytes;
#pragma unroll
    for (int kk = 0; kk < kSteps; ++kk) {
      cuda::load_matrices(q[kk], queries + query_at_[kk % 4] + kk / 4 * 128);
#pragma unroll
      for (int e = 0; e < kColumns / 16; ++e) {
        unsigned r[4];
        cuda::load_transposed(r, rounded + kk * kColumnStep + value_at_[e]);
        cuda::mma<T>(out[2 * e], q[kk], r[0], r[1]);
        cuda::mma<T>(out[2 * e + 1], q[kk], r[2], r[3]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float factor =
          a_.backward ? cuda::exp2_fast(own[r] + log_all) : a_.scale * cuda::exp2_fast(own[r]);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        out[n][2 * r] *= factor;
        out[n][2 * r + 1] *= factor;
      }
    }
  }

  // 16 keys and values: into the state and, where they are seen, into the warp's results.
  template <bool kSeen>
  __device__ void meet(int j, unsigned tile, const Decays& d, const float (&own)[2],
                       const unsigned (&q)[kGather ? 1 : kSteps][4], Rows& out) {
    const unsigned keys = tile + L::kKey + j * kRowStep;
    const unsigned values = tile + L::kValue + j * kColumnStep;
    unsigned v[kColumns / 16][4], left[kStrips][4], w[4];
#pragma unroll
    for (int e = 0; e < kColumns / 16; ++e) cuda::load_transposed(v[e], values + value_at_[e]);
#pragma unroll
    for (int m = 0; m < kStrips; ++m) cuda::load_transposed(left[m], keys + strip_at_[m]);
    cuda::Accumulator s[2];
    if constexpr (kSeen) {
      dense::clear(s);
#pragma unroll
      for (int kk = 0; kk < kSteps; ++kk) {
        unsigned r[4];
        cuda::load_matrices(r, keys + key_at_[kk % 4] + kk / 4 * 128);
        cuda::mma<T>(s[0], q[kk], r[0], r[1]);
        cuda::mma<T>(s[1], q[kk], r[2], r[3]);
      }
    }
    const float* factors = d.of_key + j * 16 + lane_ % 4 * 2;
    const float2 low = *reinterpret_cast<const float2*>(factors);
    const float2 high = *reinterpret_cast<const float2*>(factors + 8);
#pragma unroll
    for (int m = 0; m < kStrips; ++m) {
      left[m][0] = scaled<T>(left[m][0], low.x, low.y);
      left[m][1] = scaled<T>(left[m][1], low.x, low.y);
      left[m][2] = scaled<T>(left[m][2], high.x, high.y);
      left[m][3] = scaled<T>(left[m][3], high.x, high.y);
#pragma unroll
      for (int e = 0; e < kColumns / 16; ++e) {
        cuda::mma<T>(state_[m][2 * e], left[m], v[e][0], v[e][1]);
        cuda::mma<T>(state_[m][2 * e + 1], left[m], v[e][2], v[e][3]);
      }
    }
    if constexpr (kSeen) {
      weigh<T>(w, s, own, d.exponent + j * 16, a_.scale, j == warp_, a_.backward);
#pragma unroll
      for (int e = 0; e < kColumns / 16; ++e) {
        cuda::mma<T>(out[2 * e], w, v[e][0], v[e][1]);
        cuda::mma<T>(out[2 * e + 1], w, v[e][2], v[e][3]);
      }
    }
  }

  __device__ void store(int chunk, Rows& out) const {
    const int begin = begin_of(chunk) + warp_ * 16, columns = a_.value_columns - column_;
    if (!kTraced && a_.wide.data != nullptr) {
      store_wide(out, a_.wide.at(place_.b, place_.h) + column_, a_.wide.row, columns,
                 begin + lane_ / 4, end_);
      return;
    }
    // Only this warp reads these rows of queries, and it has them.
    dense::store_rows<T, kColumns>(out, 1, 1, memory_ + stage_of(chunk) + warp_ * kRowStep,
                                   a_.out.at(place_.b, place_.h) + column_, a_.out.row, begin, end_,
                                   columns);
  }

  __device__ void trace_rows(int which, int begin, const Rows& out) const {
    const int64_t rows = static_cast<int64_t>(a_.batch) * a_.heads * a_.length;
    store_dots(out, a_.partner.at(place_.b, place_.h / a_.partner_group) + column_, a_.partner.row,
               a_.value_columns - column_, begin + warp_ * 16 + lane_ / 4, end_,
               a_.dots + (which * tiles_ + place_.tile) * rows + head_ * a_.length);
  }

  // The state before a chunk is kept, or meets that of the other direction.
  __device__ void trace_state(int chunk, float of_all) const {
    const int64_t slot = (head_ * a_.chunks + chunk) * tiles_ + place_.tile;
    unsigned* kept = reinterpret_cast<unsigned*>(a_.chunk_states + slot * kWidth * kColumns);
    if (!a_.backward) {
      keep_states<T>(kept, state_, thread_);
      return;
    }
    const float met = meet_states<T>(state_, kept, thread_);
    const int64_t heads = static_cast<int64_t>(a_.batch) * a_.heads;
    const int64_t part = (place_.tile * kWarps + warp_) * heads + head_;
    if (lane_ == 0) a_.borders[part * a_.chunks + chunk] = of_all * met;
  }

  __device__ void leave() {
    if (a_.left == nullptr || (!kGather && place_.segment != a_.last_segment())) return;
    const int64_t slot = kGather ? head_ * a_.segments + place_.segment : head_;
    float* to = a_.left + slot * a_.width * a_.value_width;
    each_entry([&](float entry, int w, int c, bool there) {
      if (there) to[w * a_.value_width + c] = entry;
    });
    if (kGather && place_.tile == 0 && warp_ == writer() && lane_ == 0) {
      a_.decays[slot] = cuda::exp2_fast(later_);
    }
  }

  const Arguments<T, float>& a_;
  char* memory_;
  unsigned shared_;
  Decays* decays_;  // of this chunk and the next
  int thread_, lane_, warp_, tiles_;
  Place place_;
  int64_t head_;
  int column_, begin_, end_, chunks_;
  unsigned key_at_[4], query_at_[4], value_at_[4], strip_at_[kStrips];  // of the lane, in tiles
  float later_ = 0;  // gathering: log₂ of the decay between what is read next and the border
  cuda::Accumulator state_[kStrips][kColumns / 8];
};

template <class T, int kWidth, Mode kMode>
__global__ void __launch_bounds__(kThreads, kBlocks<kWidth, kMode>)
    pass_kernel(const __grid_constant__ Arguments<T, float> a) {
  extern __shared__ __align__(1024) char memory[];
  Segment<T, kWidth, kMode>(a, memory).run();
}

template <class T, int kWidth, Mode kMode>
void run(const Arguments<T, float>& a, Device device) {
  constexpr bool kGather = kMode == Mode::gather;
  const int64_t segments = a.segments - (kGather ? 1 : 0);
  cuda::launch("linear_attention", device, pass_kernel<T, kWidth, kMode>,
               dense::grid_of(int64_t{a.batch} * a.heads * segments *
                              parts_of_halves(a.width, a.value_width).tiles),
               kThreads, Layout<kWidth, kGather>::kBytes, a);
}

template <Mode kMode, class T>
void run(const Arguments<T, float>& a, Device device) {
  if (a.width <= 64) {
    run<T, 64, kMode>(a, device);
  } else {
    run<T, 128, kMode>(a, device);
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

Parts parts_of_halves(int64_t width, int64_t value_width) {
  const int64_t tiles = (value_width + kColumns - 1) / kColumns;
  return {tiles, tiles * kWarps, tiles * (width <= 64 ? 64 : 128) * kColumns};
}

void gather_halves(const Pass& p, const Tensor& states, const Tensor& decays) {
  visit_halves(p.key.dtype(), [&]<class T>() {
    run<Mode::gather>(gathering_arguments<T, float>(p, states, decays), p.key.device());
  });
}

void sums_halves(const Pass& p, const Tensor& states, const Outputs& to) {
  visit_halves(p.key.dtype(), [&]<class T>() {
    const auto a = arguments_of<T, float>(p, states, to);
    if (to.partner.defined()) {
      run<Mode::traced>(a, p.key.device());
    } else {
      run<Mode::sums>(a, p.key.device());
    }
  });
}

}  // namespace tessera::linear_engine
