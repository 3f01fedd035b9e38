#include "tessera/inference/generate.h"

#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

// The tokens that the model sees, and the cache of all but the newest of them.
class Window {
 public:
  Window(LanguageModel& model, bool use_cache)
      : model_(model), device_(model.device()), cached_(use_cache && !model.make_caches().empty()) {}

  // Logits after the tokens, of which the first `known` are already in the cache.
  std::vector<float> logits(const std::vector<int64_t>& tokens) {
    const bool fresh = !cached_ || known_ == 0 || known_ >= static_cast<int64_t>(tokens.size());
    if (fresh) restart();
    const std::vector<int64_t> news(tokens.begin() + static_cast<ptrdiff_t>(known_), tokens.end());
    ForwardContext context;
    if (cached_) context.caches = &caches_;
    const auto count = static_cast<int64_t>(news.size());
    const Tensor ids = from_values(news, {1, count}).to(device_);
    const Tensor hidden = model_.hidden(ids, context);
    if (cached_) known_ = static_cast<int64_t>(tokens.size());
    return linear(select(hidden, 1, count - 1), model_.head(), {}).to_vector<float>();
  }

  void restart() {
    known_ = 0;
    if (cached_) caches_ = model_.make_caches();
  }

 private:
  LanguageModel& model_;
  Device device_;
  bool cached_;
  int64_t known_ = 0;
  std::vector<KvCache> caches_;
};

}  // namespace

void generate(LanguageModel& model, std::vector<int64_t> prompt, const GenerateOptions& options,
              const std::function<bool(int64_t token)>& on_token) {
  check(!prompt.empty(), "generate: the prompt is empty; give at least one token");
  NoGrad off;
  const auto context = static_cast<size_t>(model.context_length());
  std::vector<int64_t>& tokens = prompt;
  if (tokens.size() > context)
    tokens.erase(tokens.begin(), tokens.end() - static_cast<ptrdiff_t>(context));
  Sampler sampler(options.sampling, options.seed);
  sampler.see(tokens);
  Window window(model, options.use_cache);
  for (int64_t i = 0; i < options.tokens; ++i) {
    if (tokens.size() > context) {
      tokens.erase(tokens.begin(), tokens.end() - static_cast<ptrdiff_t>((context + 1) / 2));
      window.restart();
    }
    const int64_t next = sampler.next(window.logits(tokens));
    if (!on_token(next)) return;
    tokens.push_back(next);
  }
}

}  // namespace tessera
