#include "tessera/data/state.h"

#include <optional>

#include "tessera/config/json.h"

namespace tessera {

namespace {

struct SavedState {
  DataInfo info;
  std::optional<Choice<Tokenizer>> tokenizer;
  std::vector<Choice<Transform>> transforms;
  TESSERA_FIELDS(f)
  {
    f("info", info, "sizes and names");
    f("tokenizer", tokenizer, "with its vocabulary");
    f("transforms", transforms, "of images");
  }
};

}  // namespace

Json data_state(const DataInfo& info, const Tokenizer* tokenizer, const TransformList* transforms) {
  SavedState state;
  state.info = info;
  if (tokenizer != nullptr) {
    state.tokenizer = from_json<Choice<Tokenizer>>(tokenizer->state(), "tokenizer");
  }
  if (transforms != nullptr) state.transforms = transforms->choices;
  return to_json(state);
}

Json data_state(const Dataset& dataset) {
  return data_state(dataset.info(), dataset.tokenizer(), dataset.transforms());
}

DataState restore_data_state(const Json& state) {
  const auto saved = from_json<SavedState>(state, "data_state");
  DataState out;
  out.info = saved.info;
  if (saved.tokenizer) out.tokenizer = saved.tokenizer->build(DataContext{});
  out.transforms = TransformList(saved.transforms);
  return out;
}

}  // namespace tessera
