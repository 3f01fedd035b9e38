// What the tests of a device share: tensors moved with their strides, runs that can be repeated
// there, and the comparison with the CPU in f64.
//
// The rule (docs/architecture.md, "Tests"): inputs are rounded to the tested dtype first, so that
// both sides compute the same function of the same numbers, and an error is measured against the
// largest magnitude of the tensor.
//   f64       1e-9 of it
//   f32       1e-5 of it
//   bf16, f16 twice the error that the op's definition (plain ops) makes in the same dtype on the
//             same device, or two units in the last place of it if that is more; without a
//             definition two units of it, or of 1, which
//             is the size of the inputs and so of what is rounded on the way
// Integers and booleans must be equal.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/allocator.h"
#include "tessera/core/create.h"
#include "tessera/core/deterministic.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"

namespace tessera::test {

constexpr Device kGpu{Device::Kind::cuda, 0};
constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

inline bool has_gpu() {
  if (cuda_device_count() > 0) return true;
  MESSAGE("no CUDA device here: skipped");
  return false;
}

inline bool has_gpu_memory(int64_t bytes) {
  if (!has_gpu()) return false;
  if (allocator(kGpu).limit() > bytes) return true;
  MESSAGE("needs " << bytes << " bytes on the device: skipped");
  return false;
}

// x on a device with the same strides, offset and, where it has any, gaps between its elements.
inline Tensor placed(const Tensor& x, DType dtype, Device device) {
  if (!x.defined()) return x;
  const int64_t count = x.storage()->bytes() / size_of(x.dtype());
  const Tensor all(x.storage(), {count}, {1}, 0, x.dtype());
  const Tensor moved = kernels::to_device(kernels::clone(kernels::cast(all, dtype)), device);
  return {moved.storage(), x.shape(), x.strides(), x.offset(), dtype};
}

// What a sample is run on: its f64 inputs rounded to `dtype` and stored as `stored`, as leaves if
// they are to be differentiated; all others as they are.
inline TensorList inputs_for(const TensorList& inputs, DType dtype, DType stored, Device device,
                             bool differentiate = false) {
  TensorList list;
  for (const Tensor& x : inputs) {
    if (!x.defined()) {
      list.push_back(x);
    } else if (x.dtype() != DType::f64) {
      list.push_back(placed(x, x.dtype(), device));
    } else {
      list.push_back(placed(placed(x, dtype, {}), stored, device));
      if (differentiate) list.back().set_requires_grad();
    }
  }
  return list;
}

// Named results, on the CPU: "output 0", "gradient 1", …
using Results = std::vector<std::pair<std::string, Tensor>>;

// A fixed random cotangent of y, rounded to `dtype`.
inline Tensor cotangent(const Tensor& y, uint64_t index, DType dtype) {
  const Tensor w = empty(y.shape(), {DType::f64, {}});
  kernels::uniform(w, -1, 1, {0xc07a, index});
  return kernels::to_device(kernels::cast(kernels::cast(w, dtype), y.dtype()), y.device());
}

// Appends the gradients of `outputs`, weighted with cotangents, to `results`.
inline void add_gradients(Results& results, const TensorList& outputs, const TensorList& wanted,
                          const std::vector<std::string>& names, DType dtype,
                          GradOptions options = {}) {
  TensorList used, weights;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined() || !outputs[i].requires_grad()) continue;
    used.push_back(outputs[i]);
    weights.push_back(cotangent(outputs[i], i, dtype));
  }
  if (used.empty() || wanted.empty()) return;
  const TensorList gradients = grad(used, wanted, weights, options);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Tensor& g = gradients[i];
    results.emplace_back(names[i], g.defined() ? kernels::to_device(g.detach(), {})
                                               : zeros(wanted[i].shape(), {wanted[i].dtype(), {}}));
  }
}

inline void add_outputs(Results& results, const TensorList& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) continue;
    results.emplace_back("output " + std::to_string(i),
                         kernels::to_device(outputs[i].detach(), {}));
  }
}

// A function's outputs and the gradients of those inputs that want one; cotangents are rounded to
// `dtype`.
inline Results evaluate(const TensorFunction& run, const TensorList& inputs, DType dtype) {
  RandomScope scope(7);
  TensorList wanted;
  std::vector<std::string> names;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined() || !inputs[i].requires_grad()) continue;
    wanted.push_back(inputs[i]);
    names.push_back("gradient " + std::to_string(i));
  }
  const TensorList outputs = run(inputs);
  Results results;
  add_outputs(results, outputs);
  add_gradients(results, outputs, wanted, names, dtype, {});
  return results;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  const Tensor x = kernels::contiguous(a), y = kernels::contiguous(b);
  const auto bytes = static_cast<size_t>(x.numel() * size_of(x.dtype()));
  return bytes == 0 || std::memcmp(x.raw_data(), y.raw_data(), bytes) == 0;
}

// The largest |value| and the largest distance between values of two tensors of one shape. Equal
// infinities and NaN against NaN are no distance; neither is an infinity where a half type has no
// number as large as the other side's.
struct Distance {
  double worst = 0;
  double scale = 0;
  size_t at = 0;
  double got = 0;
  double want = 0;
};
inline Distance distance(const Tensor& got, const Tensor& want) {
  const double largest = got.dtype() == DType::f16 ? 65504 : 3.38e38;
  const std::vector<double> a = got.to_vector<double>(), b = want.to_vector<double>();
  Distance d;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isfinite(b[i])) d.scale = std::max(d.scale, std::abs(b[i]));
    double error = std::abs(a[i] - b[i]);
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) error = 0;
    if (std::isinf(a[i]) && std::abs(b[i]) >= largest && a[i] * b[i] > 0) error = 0;
    if (std::isnan(error)) error = INFINITY;
    if (error > d.worst || i == 0) d = {std::max(d.worst, error), d.scale, i, a[i], b[i]};
  }
  return d;
}

// The largest distance between values of two tensors, which must have one shape.
inline double worst(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  return distance(a, b).worst;
}

inline double unit_in_last_place(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return 1.0 / 128;
    case DType::f16:
      return 1.0 / 1024;
    case DType::f32:
      return 1.0 / (1 << 23);
    default:
      return 1.0 / (int64_t{1} << 52);
  }
}

// How far a result of dtype `tested` (or of a coarser one it came out in) may be off.
inline double allowed(const Tensor& got, DType tested, double scale,
                      std::optional<double> of_definition) {
  if (!is_floating(got.dtype())) return 0;
  const DType coarser =
      unit_in_last_place(got.dtype()) > unit_in_last_place(tested) ? got.dtype() : tested;
  if (coarser == DType::f64) return 1e-9 * scale + 1e-12;
  if (coarser == DType::f32) return 1e-5 * scale + 1e-6;
  const double unit = unit_in_last_place(coarser);
  if (of_definition) return std::max(2 * *of_definition, 2 * unit * scale) + 1e-6;
  return 2 * unit * std::max(1.0, scale);
}

// Everything that went wrong, one line each; few lines for one subject.
class Failures {
 public:
  explicit Failures(std::string title) : title_(std::move(title)) {}
  Failures(const Failures&) = delete;
  Failures& operator=(const Failures&) = delete;

  void add(const std::string& subject, std::string line) {
    if (line.size() > 230) line = line.substr(0, 230) + " …";
    auto& [count, lines] = lines_[subject];
    if (++count <= 3) lines.push_back(line);
    ++total_;
  }
  void compared(int64_t n = 1) { compared_ += n; }
  int64_t total() const { return total_; }

  // Checks that there are none.
  void report() const {
    std::string text;
    for (const auto& [subject, entry] : lines_) {
      for (const std::string& line : entry.second) text += "\n  " + subject + " " + line;
      if (entry.first > 3) text += fmt::format("\n  {} … and {} more", subject, entry.first - 3);
    }
    MESSAGE(title_ << ": " << compared_ << " comparisons, " << total_ << " failures");
    CHECK_MESSAGE(total_ == 0, title_ << ": " << total_ << " failures in " << lines_.size()
                                      << " places:" << text);
  }

 private:
  std::string title_;
  std::map<std::string, std::pair<int64_t, std::vector<std::string>>> lines_;
  int64_t compared_ = 0;
  int64_t total_ = 0;
};

// Compares results with those of the CPU in f64 by the rule above. `plain`: the definition's
// results in the same dtype; may be empty.
inline void compare(Failures& failures, const std::string& subject, const std::string& label,
                    DType tested, const Results& got, const Results& want,
                    const Results& plain = {}) {
  if (got.size() != want.size()) {
    failures.add(subject,
                 fmt::format("[{}]: {} results, the CPU gives {}", label, got.size(), want.size()));
    return;
  }
  for (size_t i = 0; i < got.size(); ++i) {
    failures.compared();
    const auto& [name, y] = got[i];
    const Tensor& reference = want[i].second;
    if (y.shape() != reference.shape()) {
      failures.add(subject, fmt::format("[{}] {}: shape {}, the CPU gives {}", label, name,
                                        y.shape(), reference.shape()));
      continue;
    }
    std::optional<double> of_definition;
    if (i < plain.size() && plain[i].second.shape() == y.shape()) {
      of_definition = distance(plain[i].second, reference).worst;
    }
    const Distance d = distance(y, reference);
    const double bound = allowed(y, tested, d.scale, of_definition);
    if (d.worst <= bound) continue;
    failures.add(subject,
                 fmt::format("[{}] {} {} entry {}: {:.9g}, the CPU gives {:.9g}; off by {:.2g}, "
                             "allowed {:.2g}{}",
                             label, name, y.shape(), d.at, d.got, d.want, d.worst, bound,
                             of_definition ? " (by the definition)" : ""));
  }
}

// Sums may come in any order while it lives.
struct AnyOrder {
  AnyOrder() { set_deterministic(false); }
  ~AnyOrder() { set_deterministic(true); }
  AnyOrder(const AnyOrder&) = delete;
  AnyOrder& operator=(const AnyOrder&) = delete;
};

inline void compare_bits(Failures& failures, const std::string& subject, const std::string& label,
                         const Results& first, const Results& second) {
  if (!deterministic()) return;
  for (size_t i = 0; i < std::min(first.size(), second.size()); ++i) {
    failures.compared();
    if (same_bits(first[i].second, second[i].second)) continue;
    failures.add(subject, fmt::format("[{}] {}: other bits than at first", label, first[i].first));
  }
}

// Whether this run has the case that asks: TESSERA_TEST_PART=k/n leaves the cases k, k + n, … of
// what the program would compare. Under compute-sanitizer the whole takes hours.
inline bool in_part() {
  struct Part {
    int64_t first = 0, stride = 1, asked = 0;
    Part() {
      const char* text = std::getenv("TESSERA_TEST_PART");
      if (text == nullptr) return;
      const bool good = std::sscanf(text, "%" SCNd64 "/%" SCNd64, &first, &stride) == 2;
      if (!good || first < 0 || first >= stride) FAIL("TESSERA_TEST_PART wants k/n with 0 ≤ k < n");
    }
  };
  static Part part;
  return part.asked++ % part.stride == part.first;
}

// Runs something that may throw; an exception is a failure. Returns whether it went well. A device
// that answers nothing any more ends the test.
template <class Fn>
bool attempt(Failures& failures, const std::string& subject, const std::string& label,
             const Fn& fn) {
  try {
    fn();
    return true;
  } catch (const std::exception& error) {
    failures.add(subject, fmt::format("[{}] throws: {}", label, error.what()));
  }
  try {
    synchronize(kGpu);
  } catch (const std::exception& error) {
    failures.add(subject, fmt::format("[{}] the device is lost: {}", label, error.what()));
    failures.report();
    FAIL("nothing more can run on this device");
  }
  return false;
}

// attempt() of a case, if this run has it.
template <class Fn>
bool attempt_case(Failures& failures, const std::string& subject, const std::string& label,
                  const Fn& fn) {
  return in_part() && attempt(failures, subject, label, fn);
}

}  // namespace tessera::test
