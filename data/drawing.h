// Small generated pictures (1 or 3 channels, f32 in [0, 1]): one draw per generator state.
#pragma once

#include <cstdint>

#include "tessera/core/random.h"
#include "tessera/core/tensor.h"

namespace tessera {

struct LabelledImage {
  Tensor image;
  int64_t label = 0;
};

// A digit (1, size, size), bright strokes on black as in MNIST: a stroke font of two or three
// shapes per digit, with jitter of control points, slant, turn, size, place, pen width and ink.
LabelledImage draw_glyph(int64_t size, Generator& random);

// SynthShapes: ten shapes (3, 32, 32), tilted, light on a dark gradient, with two distractor
// squares and noise of 0.08.
LabelledImage draw_shape(Generator& random);
constexpr const char* kShapeNames[] = {
    "disc", "ring",  "square",          "frame",        "triangle", "inverted triangle",
    "plus", "cross", "horizontal bars", "vertical bars"};

// OddCorner: (3, 32, 32), coloured blocks in three corners, two of one colour; the label is the
// colour of the odd one. Noise of 0.05.
LabelledImage draw_odd_corner(Generator& random);
constexpr const char* kCornerColours[] = {"red", "green", "blue", "yellow"};

}  // namespace tessera
