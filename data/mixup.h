// Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on whole batches.
#pragma once

#include "tessera/config/fields.h"
#include "tessera/core/random.h"
#include "tessera/data/dataset.h"

namespace tessera {

struct MixConfig {
  double mixup = 0;
  double cutmix = 0;
  double switching = 0.5;
  double probability = 1;
  double label_smoothing = 0;

  bool active() const { return mixup > 0 || cutmix > 0; }

  TESSERA_FIELDS(f)
  {
    f("mixup", mixup, "alpha of the Beta(alpha, alpha) share in a blend of two images; 0: off")
        .min(0);
    f("cutmix", cutmix, "alpha of the Beta(alpha, alpha) area kept when a box is swapped; 0: off")
        .min(0);
    f("switching", switching, "probability of cutmix where both are on").min(0).max(1);
    f("probability", probability, "probability that a batch is mixed at all").min(0).max(1);
    f("label_smoothing", label_smoothing, "share of the target spread evenly over the classes")
        .min(0)
        .max(1);
  }
};

// Mixes "images" in place, image j with image B − 1 − j and one share λ for the batch, and adds
// "soft_targets" (B, classes) = λ·onehot(label_j) + (1 − λ)·onehot(label_{B−1−j}), smoothed; rows
// sum to 1. CutMix corrects λ to the area that the box really covers. The images must be dense.
void mix_batch(Batch& batch, const MixConfig& config, int64_t classes, Generator& random);

// A draw from Beta(alpha, alpha), alpha > 0.
double beta_draw(double alpha, Generator& random);

}  // namespace tessera
