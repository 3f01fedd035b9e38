#include "tessera/autograd/gradcheck.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/core/create.h"

using namespace tessera;

struct Softcap {  // c tanh(x / c); its derivative follows by running it on dual numbers
  static constexpr std::string_view name = "softcap";
  double cap;
  template <class T>
  T operator()(T x) const {
    const auto c = constant<T>(cap);
    return c * math::tanh(x / c);
  }
};

int main() {
  Tensor x = tensor({-2, 0, 2, 4, 6, 8}, {2, 3}, DType::f64).set_requires_grad();
  sum(pointwise(Softcap{4}, x)).backward();
  fmt::print("gradient {} of shape {}\n", fmt::join(x.grad().to_vector<double>(), " "), x.shape());

  const auto softcap = [](const TensorList& in) {
    return TensorList{pointwise(Softcap{4}, in[0])};
  };
  fmt::print("gradcheck: {}\n", gradcheck(softcap, {x}).ok ? "ok" : "wrong");
}
