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

Json data_state(const Dataset& dataset) {
  SavedState state;
  state.info = dataset.info();
  if (dataset.tokenizer() != nullptr) {
    state.tokenizer = from_json<Choice<Tokenizer>>(dataset.tokenizer()->state(), "tokenizer");
  }
  if (dataset.transforms() != nullptr) state.transforms = dataset.transforms()->choices;
  return to_json(state);
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
