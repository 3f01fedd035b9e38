// What generated datasets share: endless training data and fixed evaluation data.
#pragma once

#include "tessera/config/fields.h"
#include "tessera/core/random.h"
#include "tessera/data/dataset.h"

namespace tessera {

struct GeneratedSizes {
  int64_t train_size = 0;
  int64_t validation_size = 1000;
  int64_t test_size = 2000;

  void size_fields(Fields& f) {
    f("train_size", train_size, "examples in an epoch; 0: endless, none ever comes twice")
        .min(0)
        .max(kEndless);
    f("validation_size", validation_size, "examples of the validation split").min(1).max(kEndless);
    f("test_size", test_size, "examples of the test split").min(1).max(kEndless);
  }

  int64_t of(Split split) const {
    if (split == Split::train) return train_size > 0 ? train_size : kEndless;
    return split == Split::validation ? validation_size : test_size;
  }
};

// The generator of example `index`: the same one always, another one for each split.
inline Generator example_generator(uint64_t seed, Split split, int64_t index) {
  return Generator(mix(seed, static_cast<uint64_t>(split)), static_cast<uint64_t>(index));
}

}  // namespace tessera
