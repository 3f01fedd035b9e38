// tessera logits RUN IN.safetensors OUT.safetensors [--greedy N] [--step N] [--device cuda:0]
#include <fmt/format.h>

#include "tessera/autograd/tape.h"
#include "tessera/cli/command.h"
#include "tessera/core/create.h"
#include "tessera/core/safetensors.h"
#include "tessera/core/view.h"
#include "tessera/inference/generate.h"
#include "tessera/models/run_folder.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string run;
  std::string from;
  std::string to;
  int64_t greedy = 0;
  int64_t step = -1;
  std::string device = "cpu";
};

Tensor take(const SafetensorsFile& file, const Options& o, const char* name, int64_t rank,
            DType dtype) {
  check(file.contains(name), "logits: {} holds no \"{}\", which the model of {} reads", o.from,
        name, o.run);
  const Tensor x = file.get(name);
  check(x.rank() == rank && x.dtype() == dtype && x.numel() > 0,
        "logits: \"{}\" of {} is {} {}; wants {} of rank {}", name, o.from, x.dtype(), x.shape(),
        dtype, rank);
  return x;
}

// What the model adds to each row, always its most probable token.
Tensor continued(LanguageModel& model, const Tensor& tokens, int64_t count) {
  GenerateOptions options;
  options.tokens = count;
  options.sampling.temperature = 0;
  std::vector<int64_t> ids;
  for (int64_t row = 0; row < tokens.size(0); ++row) {
    generate(model, views::select(tokens, 0, row).to_vector<int64_t>(), options, [&](int64_t id) {
      ids.push_back(id);
      return true;
    });
  }
  return from_values(ids, {tokens.size(0), count});
}

int run(const Options& o) {
  const RunFolder folder(o.run);
  const auto model = folder.load_model(o.step >= 0 ? std::optional(o.step) : std::nullopt,
                                       device_from_name(o.device));
  const SafetensorsFile file = SafetensorsFile::open(o.from);
  NamedTensors answer;
  NoGrad off;
  if (auto* lm = dynamic_cast<LanguageModel*>(model.get())) {
    const Tensor tokens = take(file, o, "tokens", 2, DType::i64);
    answer.emplace_back("logits", lm->logits(tokens.to(lm->device())).to(Device{}));
    if (o.greedy > 0) answer.emplace_back("greedy", continued(*lm, tokens, o.greedy));
  } else if (auto* classifier = dynamic_cast<ImageClassifier*>(model.get())) {
    const Tensor images = take(file, o, "images", 4, DType::f32);
    answer.emplace_back("logits", classifier->logits(images.to(classifier->device())).to(Device{}));
  } else {
    fail("logits: the model of {} is neither a language model nor an image classifier", o.run);
  }
  write_safetensors(o.to, answer);
  for (const auto& [name, tensor] : answer) fmt::print("{} {}\n", name, tensor.shape());
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand(
      "logits", "what a model makes of tensors, as tensors: to compare programs");
  command.add_option("run", o->run, "run folder").required();
  command
      .add_option("from", o->from,
                  "safetensors file with \"tokens\" (rows, length) I64, or \"images\" (rows, "
                  "channels, height, width) F32, preprocessed")
      .required();
  command.add_option("to", o->to, "safetensors file to write: \"logits\"").required();
  command
      .add_option("--greedy", o->greedy,
                  "also continue each row by N most probable tokens: \"greedy\" (rows, N)")
      .range(0, 1 << 24);
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command.add_option("--device", o->device, "cpu or cuda:0 (default: cpu)");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"logits", add};

}  // namespace
}  // namespace tessera::cli
