#include "tessera/inference/generate.h"

#include <algorithm>
#include <chrono>

#include "tessera/inference/continuation.h"

namespace tessera {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check_prompts(const std::vector<std::vector<int64_t>>& prompts, int64_t vocabulary) {
  for (const auto& prompt : prompts) {
    check(!prompt.empty(), "generate: the prompt is empty; give at least one token");
    for (const int64_t id : prompt) {
      check(id >= 0 && id < vocabulary, "generate: id {} is outside the vocabulary of {}", id,
            vocabulary);
    }
  }
}

}  // namespace

void GenerateTimes::add(const GenerateTimes& other) {
  prompt_tokens += other.prompt_tokens;
  decoded_tokens += other.decoded_tokens;
  prefill_seconds += other.prefill_seconds;
  decode_seconds += other.decode_seconds;
}

GenerateTimes generate(LanguageModel& model, const std::vector<std::vector<int64_t>>& prompts,
                       const GenerateOptions& options,
                       const std::function<bool(size_t sequence, int64_t token)>& on_token) {
  check_prompts(prompts, model.head().size(0));
  GenerateTimes times;
  if (prompts.size() > 1 && !model.takes_lengths()) {
    GenerateOptions own = options;
    for (size_t b = 0; b < prompts.size(); ++b, ++own.seed) {
      times.add(generate(model, {prompts[b]}, own,
                         [&](size_t, int64_t token) { return on_token(b, token); }));
    }
    return times;
  }
  for (const auto& prompt : prompts) times.prompt_tokens += static_cast<int64_t>(prompt.size());
  if (prompts.empty() || options.tokens <= 0) return times;
  auto start = std::chrono::steady_clock::now();
  Continuation continuation(model, prompts, options);
  std::vector<bool> over(prompts.size());
  for (int64_t i = 0; i < options.tokens; ++i) {
    const std::vector<int64_t> ids = continuation.next(i + 1 < options.tokens);
    if (i == 0) {
      times.prefill_seconds = seconds_since(start);
      start = std::chrono::steady_clock::now();
    }
    for (size_t b = 0; b < ids.size(); ++b) {
      if (over[b]) continue;
      if (i > 0) ++times.decoded_tokens;
      over[b] = !on_token(b, ids[b]);
      if (over[b]) continuation.finish(b);
    }
    if (std::all_of(over.begin(), over.end(), [](bool done) { return done; })) break;
  }
  times.decode_seconds = seconds_since(start);
  return times;
}

GenerateTimes generate(LanguageModel& model, std::vector<int64_t> prompt,
                       const GenerateOptions& options,
                       const std::function<bool(int64_t token)>& on_token) {
  return generate(model, std::vector<std::vector<int64_t>>{std::move(prompt)}, options,
                  [&](size_t, int64_t token) { return on_token(token); });
}

}  // namespace tessera
