#include "tessera/train/optimizer.h"

#include <cmath>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"
#include "tessera/train/optimizer_cuda.h"

namespace tessera {
namespace {

constexpr int64_t kPiece = 65536;

bool on_device(const std::vector<Parameter>& parameters) {
  return !parameters.empty() && parameters[0].value.device().is_cuda();
}

struct Range {
  size_t parameter;
  int64_t begin;
  int64_t count;
};

// Pieces of all parameters that have a gradient, in order.
std::vector<Range> ranges_of(const std::vector<Parameter>& parameters) {
  std::vector<Range> ranges;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i].value.grad().defined()) continue;
    const int64_t n = parameters[i].value.numel();
    for (int64_t begin = 0; begin < n; begin += kPiece) {
      ranges.push_back({i, begin, std::min(kPiece, n - begin)});
    }
  }
  return ranges;
}

double sum_of_squares(const float* x, int64_t n) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t k = 0; k < 8; ++k) lanes[k] += static_cast<double>(x[i + k]) * x[i + k];
  }
  for (; i < n; ++i) lanes[0] += static_cast<double>(x[i]) * x[i];
  double total = 0;
  for (double lane : lanes) total += lane;
  return total;
}

}  // namespace

void Optimizer::add_slot(const std::string& name) {
  add_slot(name, [](const Parameter& p) { return p.value.shape(); });
}

void Optimizer::add_slot(const std::string& name,
                         const std::function<Shape(const Parameter&)>& shape) {
  // All in one block, each at a multiple of 256 bytes.
  constexpr int64_t kUnit = 64;
  int64_t total = 0;
  for (const Parameter& p : parameters_) {
    total += (shape(p).numel() + kUnit - 1) / kUnit * kUnit;
  }
  const Device device = parameters_.empty() ? Device{} : parameters_[0].value.device();
  const Tensor all = zeros({total}, {DType::f32, device});
  Slot slot{name, {}};
  int64_t at = 0;
  for (const Parameter& p : parameters_) {
    const Shape own = shape(p);
    slot.tensors.push_back(views::reshape(views::slice(all, 0, at, at + own.numel()), own));
    at += (own.numel() + kUnit - 1) / kUnit * kUnit;
  }
  slots_.push_back(std::move(slot));
}

void Optimizer::step(double factor, double gradient_scale) {
  if (on_device(parameters_)) return step_on_device(factor, gradient_scale);
  ++steps_;
  update_all(lr() * factor, gradient_scale);
  for (const Parameter& p : parameters_) p.value.bump_version();
}

StepScalars Optimizer::prepare(double factor) {
  ++steps_;
  return scalars(lr() * factor);
}

void Optimizer::launch(const Tensor& state) {
  if constexpr (kCuda) {
    table().refresh(parameters_);
    table().norm(state);
    update_on_device(state);
    for (const Parameter& p : parameters_) p.value.bump_version();
  }
}

// The scale is given, not made of the norm.
void Optimizer::step_on_device(double factor, double gradient_scale) {
  if constexpr (kCuda) {
    StepState s;
    s.scalars = prepare(factor);
    s.scale = static_cast<float>(gradient_scale);
    table().refresh(parameters_);
    update_on_device(make_step_state(parameters_[0].value.device(), s));
    for (const Parameter& p : parameters_) p.value.bump_version();
  }
}

ParameterTable& Optimizer::table() {
  if constexpr (kCuda) {
    if (table_ == nullptr) {
      std::vector<TensorList> slots;
      for (const Slot& slot : slots_) slots.push_back(slot.tensors);
      table_ = std::make_shared<ParameterTable>(parameters_, slots);
    }
  }
  return *table_;
}

void Optimizer::update_all(double lr, double gradient_scale) {
  const StepScalars s = scalars(lr);
  const auto scale = static_cast<float>(gradient_scale);
  const std::vector<Range> ranges = ranges_of(parameters_);
  TensorList grads;
  for (const Parameter& p : parameters_) {
    grads.push_back(p.value.grad().defined() ? kernels::contiguous(p.value.grad()) : Tensor());
  }
  parallel_for(static_cast<int64_t>(ranges.size()), static_cast<int64_t>(ranges.size()) * kPiece,
               [&](int64_t i) {
                 const Range& r = ranges[static_cast<size_t>(i)];
                 const Parameter& p = parameters_[r.parameter];
                 update({r.parameter, r.begin, p.value.data<float>() + r.begin,
                         grads[r.parameter].data<float>() + r.begin, r.count, p.decay},
                        s, scale);
               });
}

NamedTensors Optimizer::state() const {
  NamedTensors state;
  for (const Slot& slot : slots_) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      state.emplace_back(slot.name + "." + parameters_[i].name, slot.tensors[i]);
    }
  }
  state.emplace_back("steps", from_values(std::vector<int64_t>{steps_}, {1}));
  return state;
}

void Optimizer::load_state(const NamedTensors& state) {
  const NamedTensors own = this->state();
  check(own.size() == state.size(), "optimizer: the checkpoint has {} tensors, this run wants {}",
        state.size(), own.size());
  for (const auto& entry : own) {
    const std::string& name = entry.first;
    const Tensor& tensor = entry.second;
    const auto found = std::find_if(state.begin(), state.end(),
                                    [&name](const auto& other) { return other.first == name; });
    check(found != state.end(), "optimizer: the checkpoint lacks \"{}\"", name);
    check(found->second.shape() == tensor.shape(),
          "optimizer: \"{}\" has shape {} in the checkpoint, not {}", name, found->second.shape(),
          tensor.shape());
    if (name == "steps") {
      steps_ = found->second.item<int64_t>();
    } else {
      kernels::copy(tensor, found->second);
    }
  }
}

double gradient_norm(const std::vector<Parameter>& parameters) {
  if constexpr (kCuda) {
    if (on_device(parameters)) {
      const Tensor state = make_step_state(parameters[0].value.device(), {});
      ParameterTable table(parameters, {});
      table.refresh(parameters);
      table.norm(state);
      return read_step_state(state).norm;
    }
  }
  const std::vector<Range> ranges = ranges_of(parameters);
  TensorList grads;
  for (const Parameter& p : parameters) {
    grads.push_back(p.value.grad().defined() ? kernels::contiguous(p.value.grad()) : Tensor());
  }
  std::vector<double> sums(ranges.size());
  parallel_for(static_cast<int64_t>(ranges.size()), static_cast<int64_t>(ranges.size()) * kPiece,
               [&](int64_t i) {
                 const Range& r = ranges[static_cast<size_t>(i)];
                 sums[static_cast<size_t>(i)] =
                     sum_of_squares(grads[r.parameter].data<float>() + r.begin, r.count);
               });
  double total = 0;
  for (double sum : sums) total += sum;
  return std::sqrt(total);
}

}  // namespace tessera
