// What inference must know of the training data, without its files.
#pragma once

#include <memory>

#include "tessera/data/dataset.h"
#include "tessera/data/tokenizer.h"
#include "tessera/data/transform.h"

namespace tessera {

// A run keeps data_state(dataset) beside its config; restore_data_state gives back what generate
// and classify need: sizes and class names, the tokenizer with its learned vocabulary, and the
// image transforms for preprocess().
struct DataState {
  DataInfo info;
  std::unique_ptr<Tokenizer> tokenizer;  // null for images
  TransformList transforms;
};

Json data_state(const Dataset& dataset);
Json data_state(const DataInfo& info, const Tokenizer* tokenizer, const TransformList* transforms);
DataState restore_data_state(const Json& state);  // throws Error naming the key that is wrong

}  // namespace tessera
