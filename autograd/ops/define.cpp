#include "tessera/autograd/ops/define.h"

namespace tessera::detail {
namespace {

Interval sample_range(Interval domain) {
  return {domain.low > -2 ? domain.low + 0.1 : -2, domain.high < 2 ? domain.high - 0.1 : 2};
}

}  // namespace

OpInfo unary_row(std::string name, std::string formula, std::string source, Interval domain,
                 const Unary& f) {
  const Interval range = sample_range(domain);
  return {.name = std::move(name),
          .formula = std::move(formula),
          .source = std::move(source),
          .samples = [=] { return samples::unary(f, range.low, range.high); },
          .wrong_calls = {},
          .domain = domain};
}

OpInfo binary_row(std::string name, std::string formula, std::string source, Interval domain,
                  const Binary& f) {
  const Interval range = sample_range(domain);
  return {.name = std::move(name),
          .formula = std::move(formula),
          .source = std::move(source),
          .samples = [=] { return samples::binary(f, range.low, range.high); },
          .wrong_calls = {[f] { f(samples::normal({2}), samples::normal({3})); }}};
}

}  // namespace tessera::detail
