#include "tessera/train/optimizer.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/train/ema.h"
#include "tessera/train/schedule.h"

using namespace tessera;

namespace {

Parameter parameter(const Shape& shape, double value) {
  Tensor x = full(shape, value);
  x.set_requires_grad();
  return {"w", x, shape.rank() >= 2};
}

std::unique_ptr<Optimizer> optimizer(const std::string& json, const std::vector<Parameter>& p) {
  return from_json<Choice<Optimizer>>(Json::parse(json)).build(p);
}

}  // namespace

TEST_CASE("AdamW follows its formula, decay on matrices only") {
  const Parameter matrix = parameter({1, 1}, 2.0);
  const Parameter vector = parameter({1}, 2.0);
  const auto opt = optimizer(
      R"({"type": "adamw", "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.5})",
      {matrix, vector});
  double m = 0;
  double v = 0;
  double w = 2;
  double u = 2;
  for (int t = 1; t <= 3; ++t) {
    const double g = 0.3 * t;
    matrix.value.set_grad(full({1, 1}, g));
    vector.value.set_grad(full({1}, g));
    opt->step(1);
    m = 0.9 * m + 0.1 * g;
    v = 0.99 * v + 0.01 * g * g;
    const double step =
        0.1 * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.99, t))) + 1e-8);
    w = w * (1 - 0.1 * 0.5) - step;
    u = u - step;
  }
  CHECK(matrix.value.item() == doctest::Approx(w).epsilon(1e-5));
  CHECK(vector.value.item() == doctest::Approx(u).epsilon(1e-5));
}

TEST_CASE("SGD with momentum, Nesterov and Lion follow their formulas") {
  const Parameter a = parameter({1}, 1.0);
  const auto sgd = optimizer(R"({"type": "sgd", "lr": 0.1, "momentum": 0.9})", {a});
  const Parameter b = parameter({1}, 1.0);
  const auto nesterov =
      optimizer(R"({"type": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": true})", {b});
  const Parameter c = parameter({1}, 1.0);
  const auto lion = optimizer(R"({"type": "lion", "lr": 0.1})", {c});
  for (int t = 0; t < 2; ++t) {
    for (const Parameter* p : {&a, &b, &c}) p->value.set_grad(full({1}, 1));
    sgd->step(1);
    nesterov->step(1);
    lion->step(1);
  }
  CHECK(a.value.item() == doctest::Approx(1 - 0.1 - 0.1 * 1.9));
  CHECK(b.value.item() == doctest::Approx(1 - 0.1 * 1.9 - 0.1 * (1 + 0.9 * 1.9)));
  CHECK(c.value.item() == doctest::Approx(0.8));
}

TEST_CASE("every optimizer brings a quadratic down and resumes to the same bits") {
  for (const std::string& type : registered_names(Optimizer::kKind)) {
    CAPTURE(type);
    const std::string json = fmt::format(R"({{"type": "{}", "lr": 0.02}})", type);
    auto run = [&](const Parameter& p, Optimizer& opt, int steps) {
      double loss = 0;
      for (int i = 0; i < steps; ++i) {
        const Tensor value = sum(p.value * p.value);
        loss = value.item();
        p.value.set_grad({});
        value.backward();
        opt.step(1);
      }
      return loss;
    };
    const Parameter p = parameter({3, 4}, 1.5);
    const auto opt = optimizer(json, {p});
    const double first = run(p, *opt, 1);
    const NamedTensors state = opt->state();
    NamedTensors saved;
    for (const auto& [name, tensor] : state) {
      saved.emplace_back(name, name == "steps"
                                   ? from_values(tensor.to_vector<int64_t>(), {1})
                                   : from_values(tensor.to_vector<float>(), tensor.shape()));
    }
    Parameter q = parameter({3, 4}, 0);
    q.value = from_values(p.value.to_vector<float>(), {3, 4});
    q.value.set_requires_grad();
    const auto again = optimizer(json, {q});
    again->load_state(saved);
    CHECK(run(p, *opt, 40) < 0.8 * first);
    run(q, *again, 40);
    CHECK(p.value.to_vector<float>() == q.value.to_vector<float>());
  }
}

TEST_CASE("the gradient norm and updates are the same bits for any number of threads") {
  RandomScope scope(1);
  const Tensor start = randn({300, 701});
  const Tensor gradient = randn({300, 701});
  const int threads = num_threads();
  auto run = [&](int count) {
    set_num_threads(count);
    Parameter p{"w", from_values(start.to_vector<float>(), {300, 701}), true};
    p.value.set_requires_grad();
    p.value.set_grad(gradient);
    const auto opt = optimizer(R"({"type": "adamw"})", {p});
    const double norm = gradient_norm({p});
    opt->step(1, 1 / norm);
    return std::pair(norm, p.value.to_vector<float>());
  };
  const auto one = run(1);
  const auto two = run(2);
  set_num_threads(threads);
  CHECK(one.first == two.first);
  CHECK(one.second == two.second);
  double squares = 0;
  for (double g : gradient.to_vector<double>()) squares += g * g;
  CHECK(one.first == doctest::Approx(std::sqrt(squares)).epsilon(1e-12));
}

TEST_CASE("schedules rise, then fall as their names say") {
  auto schedule = [](const char* json, int64_t steps) {
    return from_json<Choice<Schedule>>(Json::parse(json)).build(steps);
  };
  const auto cosine = schedule(R"({"type": "cosine", "warmup": 10, "final": 0.1})", 110);
  CHECK(cosine->factor(0) == doctest::Approx(1.0 / 11));
  CHECK(cosine->factor(10) == doctest::Approx(1));
  CHECK(cosine->factor(60) == doctest::Approx(0.55));
  CHECK(cosine->factor(110) == doctest::Approx(0.1));
  CHECK(cosine->factor(500) == doctest::Approx(0.1));
  const auto linear = schedule(R"({"type": "linear", "final": 0})", 100);
  CHECK(linear->factor(25) == doctest::Approx(0.75));
  CHECK(schedule(R"({"type": "constant"})", 9)->factor(7) == 1);
  const auto root = schedule(R"({"type": "inverse_sqrt", "warmup": 4})", 100);
  CHECK(root->factor(3) == doctest::Approx(1));
  CHECK(root->factor(15) == doctest::Approx(0.5));
}

TEST_CASE("the average of weights follows them, and swapping twice changes nothing") {
  const Parameter p = parameter({2}, 1);
  Ema ema({p}, 0.5);
  p.value.data<float>()[0] = 3;
  ema.update();
  ema.swap();
  CHECK(p.value.to_vector<float>() == std::vector<float>{2, 1});
  ema.swap();
  CHECK(p.value.to_vector<float>() == std::vector<float>{3, 1});
}
