// One page about a run: report.html, which needs nothing beside itself.
#pragma once

#include <string>

#include "tessera/analysis/picture.h"

namespace tessera {

// Curves of what the run logged (SVG), samples through time, the pictures it offers (PNG,
// embedded), its result, config and environment, as HTML that follows the reader's light or dark
// mode. What cannot be drawn is named in its place.
std::string run_report(PictureInput& input, bool pictures = true);

// A chart as an SVG element, coloured by the page's style sheet.
std::string svg_chart(const Chart& chart);

}  // namespace tessera
