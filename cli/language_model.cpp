#include "tessera/cli/language_model.h"

namespace tessera::cli {

void add_language_model_options(Command command, LanguageModelOptions& o) {
  command.add_option("run", o.run, "run folder").required();
  command.add_option("--step", o.step, "which checkpoint (default: the newest)");
  command.add_option("--device", o.device, "cpu or cuda:0 (default: cpu)");
  command.add_option("--precision", o.precision,
                     "f32, or on a CUDA device bf16: of weights and arithmetic (default: f32)");
}

LoadedLanguageModel load_language_model(const std::string& command, const LanguageModelOptions& o) {
  const RunFolder folder(o.run);
  LoadedLanguageModel loaded{folder.card(), nullptr};
  check(loaded.card.data.tokenizer != nullptr,
        "{}: {} holds no tokenizer: it is no language model, or was imported without one", command,
        o.run);
  const Device device = device_from_name(o.device);
  check(o.precision == "f32" || o.precision == "bf16", "{}: --precision is f32 or bf16, got \"{}\"",
        command, o.precision);
  check(o.precision == "f32" || device.is_cuda(),
        "{}: --precision {} needs a CUDA device; on the CPU use f32", command, o.precision);
  loaded.model = folder.load_model(o.step >= 0 ? std::optional(o.step) : std::nullopt, device);
  const auto* lm = dynamic_cast<LanguageModel*>(loaded.model.get());
  check(lm != nullptr, "{}: the model of {} is not a language model", command, o.run);
  check(loaded.tokenizer().vocabulary() <= lm->head().size(0),
        "{}: the tokenizer of {} has {} ids, its model {}", command, o.run,
        loaded.tokenizer().vocabulary(), lm->head().size(0));
  if (o.precision == "bf16") loaded.model->parameters_to(DType::bf16);
  return loaded;
}

}  // namespace tessera::cli
