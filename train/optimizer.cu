#include <cstring>

#include "tessera/train/parameter_table.h"

namespace tessera {
namespace {

using cuda::PieceRange;
using Entry = ParameterTable::Entry;

constexpr int kWidth = 4;

template <class T>
__device__ bool aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * kWidth) == 0;
}

template <int W, class G>
__device__ double squares(const G* g, int64_t begin, int64_t end) {
  double sum = 0;
  int64_t i = begin + int64_t{threadIdx.x} * W;
  for (; i + W <= end; i += int64_t{blockDim.x} * W) {
    const auto x = cuda::load<W>(g + i);
#pragma unroll
    for (int k = 0; k < W; ++k) {
      const double v = convert<float>(x[k]);
      sum += v * v;
    }
  }
  if constexpr (W > 1) sum += squares<1>(g, begin + (end - begin) / W * W, end);
  return sum;
}

__global__ void squares_kernel(const Entry* entries, const PieceRange* ranges, double* sums) {
  __shared__ double scratch[cuda::kWarp];
  const PieceRange r = ranges[blockIdx.x];
  const Entry e = entries[r.tensor];
  double sum = 0;
  if (e.grad != nullptr) {
    visit_gradient(e.grad_type, [&]<class G>(G) {
      const auto* g = static_cast<const G*>(e.grad);
      sum = aligned(g) ? squares<kWidth>(g, r.begin, end_of(e, r.begin))
                       : squares<1>(g, r.begin, end_of(e, r.begin));
    });
  }
  sum = cuda::block_reduce(sum, cuda::Sum{}, 0.0, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void norm_kernel(const double* sums, int64_t count, StepState* state) {
  __shared__ double scratch[cuda::kWarp];
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) total += sums[i];
  total = cuda::block_reduce(total, cuda::Sum{}, 0.0, scratch);
  if (threadIdx.x != 0) return;
  const float norm = static_cast<float>(sqrt(total) * state->share);
  state->norm = norm;
  state->finite = isfinite(norm) && isfinite(state->loss);
  state->scale = state->share * fminf(1.0F, state->max_norm / (norm + 1e-6F));
}

template <class H>
__device__ void store_values(void* to, int64_t i, const cuda::Vector<float, kWidth>& w) {
  cuda::Vector<H, kWidth> rounded;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) rounded[k] = H(w[k]);
  cuda::store(static_cast<H*>(to) + i, rounded);
}

template <int W, class Rule, class G>
__device__ void update_piece(const Rule& rule, const Entry& e, int64_t begin, int64_t end,
                             const StepScalars& s, float scale) {
  const auto* grad = static_cast<const G*>(e.grad);
  for (int64_t i = begin + int64_t{threadIdx.x} * W; i + W <= end; i += int64_t{blockDim.x} * W) {
    const auto g = cuda::load<W>(grad + i);
    auto w = cuda::load<W>(e.weights + i);
    auto a = cuda::load<W>(e.slot[0] + i);
    cuda::Vector<float, W> b;
    if constexpr (Rule::kSlots > 1) b = cuda::load<W>(e.slot[1] + i);
#pragma unroll
    for (int k = 0; k < W; ++k) {
      rule(w[k], convert<float>(g[k]) * scale, a[k], b[k], s, e.decay);
    }
    cuda::store(e.weights + i, w);
    cuda::store(e.slot[0] + i, a);
    if constexpr (Rule::kSlots > 1) cuda::store(e.slot[1] + i, b);
    if (e.value == nullptr) continue;
    if constexpr (W == 1) {
      store_value(e, i, w[0]);
    } else if (e.value_type == DType::bf16) {
      store_values<bfloat16>(e.value, i, w);
    } else {
      store_values<float16>(e.value, i, w);
    }
  }
  if constexpr (W > 1) {
    update_piece<1, Rule, G>(rule, e, begin + (end - begin) / W * W, end, s, scale);
  }
}

template <class Rule>
__global__ void update_kernel(Rule rule, const Entry* entries, const PieceRange* ranges,
                              const StepState* state) {
  const StepState s = *state;
  const PieceRange r = ranges[blockIdx.x];
  const Entry e = entries[r.tensor];
  if (s.finite == 0 || e.grad == nullptr) return;
  visit_gradient(e.grad_type, [&]<class G>(G) {
    const bool vectors = aligned(static_cast<const G*>(e.grad)) && aligned(e.weights) &&
                         aligned(e.slot[0]) && (Rule::kSlots < 2 || aligned(e.slot[1])) &&
                         aligned(static_cast<const uint16_t*>(e.value));
    const int64_t end = end_of(e, r.begin);
    if (vectors) {
      update_piece<kWidth, Rule, G>(rule, e, r.begin, end, s.scalars, s.scale);
    } else {
      update_piece<1, Rule, G>(rule, e, r.begin, end, s.scalars, s.scale);
    }
  });
}

void send(const Tensor& to, const cuda::PinnedMemory& from) {
  cuda::check_status(cudaMemcpyAsync(to.raw_data(), from.data(), static_cast<size_t>(to.numel()),
                                     cudaMemcpyHostToDevice, cuda::stream(to.device())),
                     "optimizer");
}

}  // namespace

ParameterTable::ParameterTable(const std::vector<Parameter>& parameters,
                               const std::vector<TensorList>& slots) {
  check(!parameters.empty(), "optimizer: no parameters");
  impl_ = std::make_unique<Impl>(parameters, parameters[0].value.device());
  Impl& t = *impl_;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    check(p.value.device() == t.device && p.weights().dtype() == DType::f32,
          "optimizer: \"{}\" must be f32, or have f32 masters, on {}; it is {} on {}", p.name,
          t.device, p.weights().dtype(), p.value.device());
    Entry e;
    e.weights = cuda::data<float>(p.weights());
    if (p.master.defined()) e.value = p.value.raw_data();
    e.value_type = p.value.dtype();
    e.count = p.value.numel();
    e.decay = p.decay;
    for (size_t k = 0; k < slots.size() && k < 2; ++k) e.slot[k] = cuda::data<float>(slots[k][i]);
    t.entries.push_back(e);
  }
  t.own = empty({static_cast<int64_t>(t.bytes())}, {DType::u8, t.device});
  t.sums = empty({std::max<int64_t>(1, t.pieces.count)}, {DType::f64, t.device});
  for (auto& slot : t.ring) slot = std::make_unique<cuda::PinnedSlot>(t.bytes());
}

// Whatever still reads the pinned memory must be over.
ParameterTable::~ParameterTable() {
  cudaStreamSynchronize(cuda::stream(impl_->device));
}

void ParameterTable::refresh(const std::vector<Parameter>& parameters) {
  Impl& t = *impl_;
  std::vector<Entry> now = t.entries;
  t.kept.clear();
  for (size_t i = 0; i < parameters.size(); ++i) {
    Tensor grad = parameters[i].value.grad();
    if (!grad.defined() || grad.numel() == 0) continue;
    check(grad.device() == t.device && is_floating(grad.dtype()) && grad.dtype() != DType::f64,
          "optimizer: the gradient of \"{}\" is {} on {}", parameters[i].name, grad.dtype(),
          grad.device());
    if (!grad.is_contiguous()) t.kept.push_back(grad = kernels::contiguous(grad));
    now[i].grad = grad.raw_data();
    now[i].grad_type = grad.dtype();
  }
  cuda::use(t.device);
  if (cuda::is_capturing(t.device)) {
    t.recorded.push_back(std::make_unique<cuda::PinnedMemory>(t.bytes()));
    std::memcpy(t.recorded.back()->data(), now.data(), t.bytes());
    t.current = empty({static_cast<int64_t>(t.bytes())}, {DType::u8, t.device});
    send(t.current, *t.recorded.back());
    return;
  }
  t.current = t.own;
  if (now == t.sent) return;
  cuda::PinnedSlot& slot = *t.ring[t.next];
  t.next = (t.next + 1) % t.ring.size();
  slot.wait();
  std::memcpy(slot.data(), now.data(), t.bytes());
  send(t.own, slot.memory());
  slot.used_until_now(cuda::stream(t.device));
  t.sent = std::move(now);
}

void ParameterTable::norm(const Tensor& state) const {
  const Impl& t = *impl_;
  cuda::launch("gradient_norm", t.device, squares_kernel, t.pieces.blocks(), cuda::kPieceThreads, 0,
               t.data(), t.pieces.data(), cuda::data<double>(t.sums));
  cuda::launch("gradient_norm", t.device, norm_kernel, 1, 1024, 0, cuda::data<double>(t.sums),
               t.pieces.count, static_cast<StepState*>(state.raw_data()));
}

template <class Rule>
void ParameterTable::update(const Rule& rule, const Tensor& state) const {
  const Impl& t = *impl_;
  cuda::launch("optimizer", t.device, update_kernel<Rule>, t.pieces.blocks(), cuda::kPieceThreads,
               0, rule, t.data(), t.pieces.data(), static_cast<const StepState*>(state.raw_data()));
}

template void ParameterTable::update<AdamWRule>(const AdamWRule&, const Tensor&) const;
template void ParameterTable::update<SgdRule>(const SgdRule&, const Tensor&) const;
template void ParameterTable::update<LionRule>(const LionRule&, const Tensor&) const;

Tensor make_step_state(Device device, const StepState& values) {
  return cuda::on_device(std::vector<StepState>{values}, device);
}

StepState read_step_state(const Tensor& state) {
  const Tensor host = kernels::to_device(state, Device{});
  StepState values;
  std::memcpy(&values, host.raw_data(), sizeof(values));
  return values;
}

}  // namespace tessera
