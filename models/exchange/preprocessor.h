// preprocessor_config.json: what the transformers library does to images before a model sees them.
#pragma once

#include <filesystem>

#include "tessera/data/transform.h"

namespace tessera {

// The transforms that the file in `folder` states, for images of info.height; without the file
// those of ViT: stretched, mean and deviation 0.5. Throws for what they cannot express.
TransformList read_preprocessor(const std::filesystem::path& folder, const DataInfo& info);

// Writes what classify does with such transforms.
void write_preprocessor(const std::filesystem::path& folder, const DataInfo& info,
                        const TransformList& transforms);

}  // namespace tessera
