// Labels at feature resolution: nearest-indexed through tables that Python builds exactly as torch's
// F.interpolate(mode="nearest") does (float32 arithmetic).
#pragma once

#include "routine.h"

namespace {

constexpr uint8_t kIgnored = 255;  // in a class map; classes are 0..254

// Writes the class of each of the h·w pixels of one image, kIgnored where the label is `ignore`.
// False at a label that is neither a class nor `ignore`. rows[h], cols[w] index labels [·, label_width].
[[maybe_unused]] bool nearest_classes(const uint8_t* labels, int64_t label_width, const int32_t* rows,
                                      const int32_t* cols, int64_t h, int64_t w, int classes, int ignore,
                                      uint8_t* out) {
    for (int64_t y = 0; y < h; ++y) {
        const uint8_t* row = labels + rows[y] * label_width;
        for (int64_t x = 0; x < w; ++x) {
            const uint8_t label = row[cols[x]];
            if (label == ignore) {
                *out++ = kIgnored;
            } else if (label < classes) {
                *out++ = label;
            } else {
                return false;
            }
        }
    }
    return true;
}

}  // namespace
