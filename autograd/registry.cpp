#include "tessera/autograd/registry.h"

#include <algorithm>
#include <map>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {

OpRegistry& OpRegistry::instance() {
  static auto* registry = new OpRegistry;
  return *registry;
}

void OpRegistry::add(OpInfo info) {
  check(find(info.name) == nullptr, "op registry: \"{}\" is registered twice", info.name);
  rows_.push_back(std::move(info));
}

const OpInfo* OpRegistry::find(const std::string& name) const {
  for (const OpInfo& row : rows_) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

std::vector<const OpInfo*> OpRegistry::all() const {
  std::vector<const OpInfo*> list;
  for (const OpInfo& row : rows_) list.push_back(&row);
  std::sort(list.begin(), list.end(), [](auto* a, auto* b) { return a->name < b->name; });
  return list;
}

namespace samples {

Tensor normal(const Shape& shape, uint64_t salt) {
  const Tensor x = empty(shape, {DType::f64, {}});
  kernels::normal(x, 0, 1, {0x7e55e7a, salt});
  return x;
}

Tensor uniform(const Shape& shape, double low, double high, uint64_t salt) {
  const Tensor x = empty(shape, {DType::f64, {}});
  kernels::uniform(x, low, high, {0x7e55e7a, salt + 1000});
  return x;
}

Tensor positive(const Shape& shape, uint64_t salt) {
  return uniform(shape, 0.5, 2, salt);
}

Tensor integers(const Shape& shape, int64_t low, int64_t high, uint64_t salt) {
  Generator random(0x7e55e7a, salt + 2000);
  std::vector<int64_t> values(static_cast<size_t>(shape.numel()));
  for (int64_t& value : values) value = low + random.below(high - low);
  return from_values(values, shape);
}

Tensor strided(const Tensor& x) {
  if (x.rank() == 0) return x;
  Shape doubled = x.shape();
  doubled.back() *= 2;
  const Tensor room = zeros(doubled, {x.dtype(), x.device()});
  Tensor view = views::slice(room, -1, 0, doubled.back(), 2);
  if (x.rank() >= 2) {
    const Tensor turned = empty(views::transpose(x, 0, -1).shape(), {x.dtype(), x.device()});
    view = views::transpose(turned, 0, -1);
  }
  kernels::copy(view, x);
  return view;
}

std::vector<OpSample> unary(const std::function<Tensor(const Tensor&)>& f, double low,
                            double high) {
  const TensorFunction run = [f](const TensorList& x) { return TensorList{f(x[0])}; };
  std::vector<OpSample> list;
  uint64_t salt = 0;
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{3}, Shape{2, 3}, Shape{0}, Shape{2, 0, 3}}) {
    list.push_back({to_string(shape), {uniform(shape, low, high, ++salt)}, run, {}});
  }
  list.push_back({"strided (3, 4)", {strided(uniform({3, 4}, low, high, ++salt))}, run, {}});
  return list;
}

std::vector<OpSample> binary(const std::function<Tensor(const Tensor&, const Tensor&)>& f,
                             double low, double high) {
  const TensorFunction run = [f](const TensorList& x) { return TensorList{f(x[0], x[1])}; };
  const std::vector<std::pair<Shape, Shape>> shapes = {
      {{}, {}},     {{3}, {3}},       {{2, 3}, {3}},   {{2, 1}, {1, 3}},
      {{}, {2, 3}}, {{2, 3}, {2, 1}}, {{2, 0}, {1, 1}}};
  std::vector<OpSample> list;
  uint64_t salt = 10;
  for (const auto& [a, b] : shapes) {
    salt += 2;
    list.push_back({fmt::format("{} with {}", a, b),
                    {uniform(a, low, high, salt), uniform(b, low, high, salt + 1)},
                    run,
                    {}});
  }
  list.push_back({"strided (3, 4)",
                  {strided(uniform({3, 4}, low, high, 50)), uniform({3, 4}, low, high, 51)},
                  run,
                  {}});
  return list;
}

}  // namespace samples

namespace {
std::map<std::string, Activation>& activations() {
  static auto* map = new std::map<std::string, Activation>;
  return *map;
}
}  // namespace

RegisterActivation::RegisterActivation(const std::string& name, Activation function) {
  activations()[name] = function;
}

std::vector<std::string> activation_names() {
  std::vector<std::string> names;
  for (const auto& [name, function] : activations()) names.push_back(name);
  return names;
}

Activation activation(const std::string& name) {
  const auto found = activations().find(name);
  check(found != activations().end(), "activation: unknown name \"{}\"; use one of: {}", name,
        fmt::join(activation_names(), ", "));
  return found->second;
}

}  // namespace tessera
