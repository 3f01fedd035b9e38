#include "tessera/config/registry.h"
#include "tessera/data/grammar.h"
#include "tessera/data/token_windows.h"

namespace tessera {

namespace {

struct GrammarConfig {
  int64_t train_size = 1'000'000;
  int64_t validation_size = 50'000;
  Choice<Tokenizer> tokenizer{"char"};
  int64_t context = 64;
  TESSERA_FIELDS(f)
  {
    f("train_size", train_size, "characters of training text").min(100).max(1'000'000'000);
    f("validation_size", validation_size, "characters of each evaluation text")
        .min(100)
        .max(1'000'000'000);
    f("tokenizer", tokenizer, "how text becomes tokens");
    f("context", context, "tokens in a window").min(1).max(1 << 24);
  }
};

Corpus write_corpus(const GrammarConfig& config, const DataContext& context) {
  const auto text = [&](Split split, int64_t size) {
    return grammar_text(size, mix(context.seed, static_cast<uint64_t>(split)));
  };
  const std::string train = text(Split::train, config.train_size);
  const std::string validation = text(Split::validation, config.validation_size);
  const std::string test = text(Split::test, config.validation_size);
  auto tokenizer = config.tokenizer.build(context);
  for (const std::string* part : {&train, &validation, &test}) tokenizer->learn(*part);
  const auto stream = [&](const std::string& part) {
    TokenStream tokens(tokenizer->vocabulary());
    tokens.append(tokenizer->encode(part));
    return tokens;
  };
  TokenStream first = stream(train), second = stream(validation), third = stream(test);
  return {std::move(tokenizer), std::move(first), std::move(second), std::move(third)};
}

struct GrammarDataset : WindowDataset {
  using Config = GrammarConfig;
  GrammarDataset(const Config& c, const DataContext& context)
      : WindowDataset("data.grammar", write_corpus(c, context), c.context) {}
};
TESSERA_REGISTER(Dataset, GrammarDataset, "grammar",
                 "English-like sentences with agreement and nested clauses", "generated");

}  // namespace

}  // namespace tessera
