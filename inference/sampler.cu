#include <algorithm>
#include <cmath>

#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/random.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/inference/sampler_cuda.h"

namespace tessera {
namespace {

constexpr unsigned kThreads = 1024;
constexpr unsigned kWarps = kThreads / cuda::kWarp;

struct Draw {
  const int64_t* seeds;
  int64_t* counters;
  uint8_t* seen;  // null without a penalty
  int64_t* ids;   // (2, batch)
  int batch, vocabulary;
  float inverse_temperature;  // 0: the largest
  int top_k;                  // 0: all
  double top_p;
  float log_min_p, penalty;
};

struct Min {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

// Unsigned numbers in the order of floats.
__device__ unsigned key_of(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float from_key(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// A row of logits after the penalty, −inf for what is not finite; staged in shared memory where it
// fits.
template <class T, bool kStaged>
struct Row {
  const T* logits;
  const uint8_t* seen;
  float penalty;
  float* staged;

  __device__ float from_memory(int i) const {
    float x = convert<float>(logits[i]);
    if (seen != nullptr && seen[i] != 0) x *= x < 0 ? penalty : 1 / penalty;
    return isfinite(x) ? x : -INFINITY;
  }
  __device__ float operator[](int i) const { return kStaged ? staged[i] : from_memory(i); }
};

struct Scratch {
  float largest[kWarps];
  double sums[kWarps];
  int ids[kWarps];
  double ends[kThreads];
};

// The largest logit at which the weights of those as large or larger reach the target, or a bound
// that lets just as many through, bit by bit; −inf when they never do. Sums are in f64, in which
// the order of adding hardly shows: draws are the CPU's.
template <class R, class Weight>
__device__ float value_reaching(const R& row, int count, double target, const Weight& weight,
                                Scratch& s) {
  unsigned found = 0;
  for (unsigned bit = 0x80000000u; bit != 0; bit >>= 1) {
    const unsigned least = found | bit;
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      const float x = row[i];
      if (key_of(x) >= least) sum += weight(x);
    }
    sum = cuda::block_reduce(sum, cuda::Sum{}, 0.0, s.sums);
    if (sum >= target) found |= bit;
    if (sum == target) break;
  }
  return found == 0 ? -INFINITY : from_key(found);
}

template <class R>
__device__ float threshold(const Draw& d, const R& row, float largest, Scratch& s) {
  float least = -INFINITY;
  if (d.top_k > 0 && d.top_k < d.vocabulary) {
    least = value_reaching(
        row, d.vocabulary, static_cast<double>(d.top_k), [](float) { return 1.0F; }, s);
  }
  if (d.top_p < 1) {
    const auto weight = [&](float x) {
      return x >= least ? expf((x - largest) * d.inverse_temperature) : 0.0F;
    };
    double total = 0;
    for (int i = static_cast<int>(threadIdx.x); i < d.vocabulary; i += kThreads) {
      total += weight(row[i]);
    }
    total = cuda::block_reduce(total, cuda::Sum{}, 0.0, s.sums);
    least =
        fmaxf(least, value_reaching(row, d.vocabulary, fmax(d.top_p * total, 1e-30), weight, s));
  }
  least = fmaxf(least, largest + d.log_min_p / d.inverse_temperature);
  return fminf(least, largest);
}

// Number `count` of the stream of a seed, as Generator::uniform.
__device__ double uniform(int64_t seed, int64_t count) {
  const cuda::Philox random(cuda::DeviceKey{static_cast<uint64_t>(seed), 0, 0, nullptr});
  const auto words = random(static_cast<uint64_t>(count / 2));
  const uint64_t high = count % 2 == 0 ? words[0] : words[2];
  const uint64_t low = count % 2 == 0 ? words[1] : words[3];
  return static_cast<double>((high << 32 | low) >> 11) * 0x1p-53;
}

// Sums of the threads' values up to and including each.
__device__ void running_sums(double x, Scratch& s) {
  const unsigned lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  for (unsigned step = 1; step < cuda::kWarp; step *= 2) {
    const double before = __shfl_up_sync(cuda::kAllLanes, x, step);
    if (lane >= step) x += before;
  }
  __syncthreads();
  if (lane == cuda::kWarp - 1) s.sums[warp] = x;
  __syncthreads();
  double base = 0;
  for (unsigned w = 0; w < warp; ++w) base += s.sums[w];
  s.ends[threadIdx.x] = base + x;
  __syncthreads();
}

// The id at which the sum of weights passes a share of them: threads own ranges of ids.
template <class R>
__device__ int pick(const Draw& d, const R& row, float largest, float least, double share,
                    Scratch& s) {
  const auto thread = static_cast<int>(threadIdx.x);
  const int each = (d.vocabulary + static_cast<int>(kThreads) - 1) / static_cast<int>(kThreads);
  const int first = min(thread * each, d.vocabulary), end = min(first + each, d.vocabulary);
  const auto weight = [&](float x) {
    return x >= least && x > -INFINITY ? expf((x - largest) * d.inverse_temperature) : 0.0F;
  };
  double sum = 0;
  int last = -1;
  for (int i = first; i < end; ++i) {
    const float w = weight(row[i]);
    sum += w;
    if (w > 0) last = i;
  }
  running_sums(sum, s);
  const double at = share * s.ends[kThreads - 1];
  int found = d.vocabulary;
  if (last >= 0 && at < s.ends[thread]) {
    found = last;
    double reached = thread == 0 ? 0.0 : s.ends[thread - 1];
    for (int i = first; i < end; ++i) {
      const float w = weight(row[i]);
      reached += w;
      if (w > 0 && reached > at) {
        found = min(found, i);
        break;
      }
    }
  }
  found = cuda::block_reduce(found, Min{}, d.vocabulary, s.ids);
  if (found < d.vocabulary) return found;
  return -cuda::block_reduce(-last, Min{}, 1, s.ids);  // the sums rounded to less than the share
}

template <class T, bool kStaged>
__global__ void __launch_bounds__(kThreads) draw_kernel(Draw d, const T* logits) {
  extern __shared__ float staged[];
  __shared__ Scratch s;
  const auto b = static_cast<int>(blockIdx.x);
  const int64_t offset = static_cast<int64_t>(b) * d.vocabulary;
  uint8_t* seen = d.seen != nullptr ? d.seen + offset : nullptr;
  const Row<T, kStaged> row{logits + offset, seen, d.penalty, staged};
  float largest = -INFINITY;
  for (int i = static_cast<int>(threadIdx.x); i < d.vocabulary; i += kThreads) {
    const float x = row.from_memory(i);
    if (kStaged) staged[i] = x;
    largest = fmaxf(largest, x);
  }
  largest = cuda::block_reduce(largest, cuda::Max{}, -INFINITY, s.largest);
  __syncthreads();
  int id = -1;
  if (largest > -INFINITY && d.inverse_temperature == 0) {
    int found = d.vocabulary;
    for (int i = static_cast<int>(threadIdx.x); i < d.vocabulary; i += kThreads) {
      if (row[i] == largest) found = min(found, i);
    }
    id = cuda::block_reduce(found, Min{}, d.vocabulary, s.ids);
  } else if (largest > -INFINITY) {
    const float least = threshold(d, row, largest, s);
    id = pick(d, row, largest, least, uniform(d.seeds[b], d.counters[b]), s);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  d.ids[b] = id < 0 ? 0 : id;
  d.ids[d.batch + b] = id;
  ++d.counters[b];
  if (seen != nullptr && id >= 0) seen[id] = 1;
}

template <class T>
void launch(const Tensor& logits, const Draw& d) {
  const size_t bytes = static_cast<size_t>(d.vocabulary) * sizeof(float);
  const Device device = logits.device();
  const auto blocks = static_cast<unsigned>(d.batch);
  if (bytes + sizeof(Scratch) <= cuda::shared_limit(device)) {
    cuda::launch("sampler", device, draw_kernel<T, true>, blocks, kThreads, bytes, d,
                 cuda::data<T>(logits));
  } else {
    cuda::launch("sampler", device, draw_kernel<T, false>, blocks, kThreads, 0, d,
                 cuda::data<T>(logits));
  }
}

}  // namespace

void draw_cuda(const Tensor& logits, const SamplerState& state, const SamplingOptions& o) {
  check(logits.size(1) < (1 << 24), "sampler: a vocabulary of {} is too large", logits.size(1));
  Draw d{};
  d.seeds = cuda::data<int64_t>(state.seeds);
  d.counters = cuda::data<int64_t>(state.counters);
  d.seen = state.seen.defined() ? cuda::data<uint8_t>(state.seen) : nullptr;
  d.ids = cuda::data<int64_t>(state.drawn);
  d.batch = static_cast<int>(logits.size(0));
  d.vocabulary = static_cast<int>(logits.size(1));
  d.inverse_temperature = o.temperature > 0 ? static_cast<float>(1 / o.temperature) : 0.0F;
  d.top_k = static_cast<int>(std::min<int64_t>(o.top_k, d.vocabulary));
  d.top_p = o.top_p;
  d.log_min_p = o.min_p > 0 ? static_cast<float>(std::log(o.min_p)) : -INFINITY;
  d.penalty = static_cast<float>(o.repetition_penalty);
  cuda::visit_floating("sampler", logits.dtype(), [&]<class T>() { launch<T>(logits, d); });
}

}  // namespace tessera
