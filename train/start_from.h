// Training that goes on from the weights of another run, with another config.
#pragma once

#include <filesystem>

#include "tessera/nn/module.h"

namespace tessera {

// Copies weights into a model: those of a run folder's newest checkpoint (averages where the run
// kept some), of a checkpoint's folder, or of a safetensors file. Parameters and buffers must be
// those of the model, by name and shape, but for learned positions: where the model has more rows,
// row p takes row p mod n₀; where it has fewer, the first ones stay. Throws otherwise, naming what
// does not fit.
void start_from(Module& model, const std::filesystem::path& source);

}  // namespace tessera
