#include "tessera/attention/engines/contextual_bias.h"
#include "tessera/attention/engines/make_score.h"

namespace tessera {

Score contextual_bias_2(const TensorList& tables, const WindowRule& windows) {
  return make_score(contextual_functor<2>(tables, windows), tables);
}

}  // namespace tessera
