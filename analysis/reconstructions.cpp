// What a masked autoencoder makes of images of which it sees a part.
#include "tessera/analysis/picture.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/models/patches.h"

namespace tessera {
namespace {

class Reconstructions final : public Picture {
 public:
  struct Config {
    int64_t images = 6;
    double mask_ratio = 0.75;
    TESSERA_FIELDS(f)
    {
      f("images", images, "how many").min(1).max(64);
      f("mask_ratio", mask_ratio, "share of the patches that are hidden").above(0).max(1);
    }
  };
  explicit Reconstructions(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override {
    return dynamic_cast<ImageReconstructor*>(&input.model()) != nullptr;
  }

  // In rows: the image, what is seen of it, and what was made of that (seen patches as they are).
  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const NoGrad off;
    const RandomScope scope(1);
    auto& model = dynamic_cast<ImageReconstructor&>(input.model());
    const Tensor images = input.images(c_.images), patches = to_patches(images, model.patch());
    const PatchGrid grid{images.size(2) / model.patch(), images.size(3) / model.patch()};
    const auto count =
        std::max<int64_t>(1, std::llround(c_.mask_ratio * static_cast<double>(grid.count())));
    const Tensor draws = rand({images.size(0), grid.count()});
    const Tensor hidden = le(draws, kth_value(draws, count, -1, true).values);
    const Tensor made = model.reconstruct(images, hidden, {});
    const Tensor nothing = zeros({1, 1, 1});
    const auto image_of = [&](const Tensor& p) {
      return input.shown(from_patches(p, grid, images.size(1)));
    };
    const Tensor whole = input.shown(images);
    const Tensor seen = image_of(where(unsqueeze(hidden, 2), nothing, patches));
    const Tensor filled = image_of(where(unsqueeze(hidden, 2), made, patches));
    std::vector<Captioned> panels;
    for (int64_t i = 0; i < images.size(0); ++i) {
      for (const auto& [from, caption] :
           {std::pair{whole, "original"}, {seen, "masked"}, {filled, "reconstruction"}}) {
        panels.push_back(
            {tessera::draw(Overlay{.image = select(from, 0, i), .heat = {}, .side = 128}),
             caption});
      }
    }
    return {{"reconstructions", draw_grid(panels, 6, "Hidden patches filled in")}};
  }

 private:
  Config c_;
};

TESSERA_REGISTER(Picture, Reconstructions, "reconstructions",
                 "images, what is seen of them, and what a masked autoencoder makes of that",
                 "He et al. 2022, MAE; Pai et al. 2024, CRATE-MAE");

}  // namespace
}  // namespace tessera
