#include "tessera/train/device_step.h"

#include <array>
#include <cstring>
#include <deque>

#include "tessera/autograd/profile.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/core/cuda/pinned.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/upload.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/train/optimizer_cuda.h"

namespace tessera {
namespace {

constexpr int64_t kEagerSteps = 3;  // before recording: memory, plans and kernels are in place then
constexpr size_t kInFlight = 4;

template <class T>
__global__ void add_loss_kernel(StepState* state, const T* loss, bool first) {
  state->loss = (first ? 0.0F : state->loss) + convert<float>(*loss) * state->share;
}

// What passes between host and device in one step, both ways.
struct Slot : cuda::PinnedSlot {
  Slot() : PinnedSlot(2 * sizeof(StepState)) {}
  StepState* to_device() const { return static_cast<StepState*>(data()); }
  StepState* from_device() const { return to_device() + 1; }
};

class CudaStep final : public DeviceStep {
 public:
  CudaStep(Module& model, Loss loss, const std::vector<Parameter>& parameters, Optimizer& optimizer,
           Ema* ema, const DeviceStepOptions& options)
      : model_(model),
        loss_(std::move(loss)),
        parameters_(parameters),
        optimizer_(optimizer),
        ema_(ema),
        o_(options),
        uploader_(options.device),
        state_(make_step_state(options.device, {})) {
    for (auto& slot : slots_) slot = std::make_unique<Slot>();
  }

  ~CudaStep() override { cudaStreamSynchronize(cuda::stream(o_.device)); }

  void run(int64_t step, double factor, const std::vector<Batch>& batches) override {
    while (waiting_.size() >= kInFlight) collect_oldest();
    Slot& slot = *slots_[static_cast<size_t>(count_) % kInFlight];
    const std::vector<Batch> inputs = upload(batches);
    begin(slot, factor);
    if (graph_ == nullptr && wants_graph()) record(inputs, step);
    if (graph_ != nullptr) {
      set_captured_step(o_.device, static_cast<uint64_t>(step));
      graph_->replay();
    } else {
      work(inputs, step);
    }
    copy(slot.from_device(), state_.raw_data(), cudaMemcpyDeviceToHost);
    slot.used_until_now(cuda::stream(o_.device));
    waiting_.push_back({step, 0, 0, factor});
    ++count_;
  }

  std::vector<Result> results(bool all) override {
    while (waiting_.size() > (all ? 0 : 2)) collect_oldest();
    return std::exchange(known_, {});
  }

  int64_t graph_nodes() const override { return graph_ == nullptr ? 0 : graph_->nodes(); }
  std::string take_note() override { return std::exchange(note_, {}); }

 private:
  std::vector<Batch> upload(const std::vector<Batch>& batches) {
    std::vector<Batch> inputs;
    for (size_t i = 0; i < batches.size(); ++i) {
      Batch& moved = inputs.emplace_back();
      for (const auto& [name, tensor] : batches[i]) {
        moved[name] = uploader_.upload(fmt::format("{}.{}", name, i), tensor);
      }
    }
    std::vector<const void*> addresses;
    for (const Batch& batch : inputs) {
      for (const auto& [name, tensor] : batch) addresses.push_back(tensor.raw_data());
    }
    if (addresses != addresses_) graph_.reset();  // batches of another shape
    addresses_ = std::move(addresses);
    return inputs;
  }

  void copy(void* to, const void* from, cudaMemcpyKind kind) const {
    cuda::check_status(cudaMemcpyAsync(to, from, sizeof(StepState), kind, cuda::stream(o_.device)),
                       "train");
  }

  void begin(const Slot& slot, double factor) {
    StepState s;
    s.scalars = optimizer_.prepare(factor);
    s.share = 1 / static_cast<float>(o_.accumulate);
    if (o_.clip) s.max_norm = static_cast<float>(*o_.clip);
    std::memcpy(slot.to_device(), &s, sizeof(s));
    copy(state_.raw_data(), slot.to_device(), cudaMemcpyHostToDevice);
  }

  // Everything that a graph holds.
  void work(const std::vector<Batch>& inputs, int64_t step) {
    RandomScope scope(o_.seed, static_cast<uint64_t>(step));
    model_.train();
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Tensor value = loss_(inputs[i], step);
      add_loss(value, i == 0);
      value.backward();
    }
    {
      const ProfileTimer timer("optimizer");
      optimizer_.launch(state_);
      for (const Parameter& p : parameters_) p.value.set_grad({});
      if (ema_ != nullptr) ema_->update();
    }
  }

  void add_loss(const Tensor& value, bool first) const {
    check(value.numel() == 1 && value.device() == o_.device,
          "train: the loss must be one number on {}, got {} on {}", o_.device, value.shape(),
          value.device());
    cuda::visit_floating("train", value.dtype(), [&]<class T>() {
      cuda::launch("train", o_.device, add_loss_kernel<T>, 1, 1, 0,
                   static_cast<StepState*>(state_.raw_data()), cuda::data<T>(value), first);
    });
  }

  bool wants_graph() const { return o_.cuda_graph != "off" && !failed_ && count_ >= kEagerSteps; }

  void record(const std::vector<Batch>& inputs, int64_t step) {
    const ProfileScope profile;  // knows in which op it was, should one fail
    try {
      graph_ = std::make_unique<CapturedGraph>(o_.device, [&] { work(inputs, step); });
      note_ = fmt::format("the step is one graph of {} nodes", graph_->nodes());
    } catch (const Error& error) {
      for (const Parameter& p : parameters_) p.value.set_grad({});
      const std::string op = profile.failed();
      const std::string why =
          fmt::format("{}{}", op.empty() ? "" : fmt::format("in {}: ", op), error.what());
      check(o_.cuda_graph != "on",
            "train: the step cannot be recorded into a graph ({}); set train.cuda_graph to "
            "\"auto\" or \"off\"",
            why);
      failed_ = true;
      note_ = fmt::format("steps run one operation at a time, they cannot be recorded: {}", why);
    }
  }

  void collect_oldest() {
    const size_t at = (static_cast<size_t>(count_) - waiting_.size()) % kInFlight;
    slots_[at]->wait();
    Result r = waiting_.front();
    waiting_.pop_front();
    r.loss = slots_[at]->from_device()->loss;
    r.norm = slots_[at]->from_device()->norm;
    known_.push_back(r);
  }

  Module& model_;
  Loss loss_;
  const std::vector<Parameter>& parameters_;
  Optimizer& optimizer_;
  Ema* ema_;
  DeviceStepOptions o_;
  cuda::Uploader uploader_;
  Tensor state_;
  std::array<std::unique_ptr<Slot>, kInFlight> slots_;
  std::vector<const void*> addresses_;
  std::unique_ptr<CapturedGraph> graph_;
  std::deque<Result> waiting_;
  std::vector<Result> known_;
  int64_t count_ = 0;  // steps asked for
  bool failed_ = false;
  std::string note_;
};

}  // namespace

std::unique_ptr<DeviceStep> DeviceStep::make(Module& model, Loss loss,
                                             const std::vector<Parameter>& parameters,
                                             Optimizer& optimizer, Ema* ema,
                                             const DeviceStepOptions& options) {
  return std::make_unique<CudaStep>(model, std::move(loss), parameters, optimizer, ema, options);
}

}  // namespace tessera
