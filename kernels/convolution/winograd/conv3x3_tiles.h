// The 3×3 convolution's tiles: their places, the register-tiled product, and the transforms of input, gradient and
// weight. The mathematics and the letters are explained in conv3x3.cpp.
#pragma once

#include "winograd.h"

namespace {

constexpr int kPanel = 2 * kLanes;                   // channels
constexpr int kRows = FASTASS_LANES == 16 ? 12 : 6;  // of a product's register tile, which is kPanel wide
constexpr int64_t kDepth = 32;          // terms of a sum in a register; short ones, added up, keep rounding small
constexpr int64_t kChunk = 96;          // tiles whose M is in cache at a time
constexpr int64_t kNarrowChunk = 48;    // … in narrow layers
constexpr int64_t kNarrowBytes = 3 << 19;  // of U or S, at most, in those
constexpr int64_t kGroup = 128;            // tiles, at least, of a task of their weight's gradient
constexpr int64_t kStrip = 8;           // tiles of a task of transforms
constexpr int64_t kTasks = 32;          // of products, if there are as many
constexpr int64_t kBatchBytes = 12 << 20;  // of V, at most: it stays in a shared cache

// Of the weight's gradient: sums over the tiles of a large one round too coarsely.
using WeightTile = Winograd2;

struct Tile {
    int64_t image;
    int64_t y, x;  // of its first output
};

// c [R, kPanel] (+)= Σ_k a[r, k] b[k, kPanel], k in `blocks` runs of `depth`; a run starts a_block after the last.
template <int R>
inline void product(const float* a, int64_t a_row, int64_t a_k, int64_t a_block, const float* b, int64_t blocks,
                    int64_t depth, float* c, bool add) {
    Vf sum[R][2] = {};
    for (int64_t block = 0; block < blocks; ++block, a += a_block) {
        const float* from = a;
        for (int64_t k = 0; k < depth; ++k, from += a_k, b += kPanel) {
            const Vf b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r) {
                const Vf value = splat(from[r * a_row]);
                sum[r][0] += value * b0;
                sum[r][1] += value * b1;
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r, c += kPanel) {
        store(c, add ? load(c) + sum[r][0] : sum[r][0]);
        store(c + kLanes, add ? load(c + kLanes) + sum[r][1] : sum[r][1]);
    }
}

template <int R>
inline void product_of(int64_t rows, const float* a, int64_t a_row, int64_t a_k, int64_t a_block, const float* b,
                       int64_t blocks, int64_t depth, float* c, bool add) {
    if (rows == R) return product<R>(a, a_row, a_k, a_block, b, blocks, depth, c, add);
    if constexpr (R > 1) product_of<R - 1>(rows, a, a_row, a_k, a_block, b, blocks, depth, c, add);
}

struct Map {  // channels-last, one of x, y and their gradients
    const float* data;
    int64_t height, width, channels;
};

struct Problem {
    Map in, gradient;     // gradient: of the output, where the weight's gradient is wanted
    const float* weight;  // [O, 3, 3, I], or turned round [I, 3, 3, O]
    const float* bias;    // [O] or null
    float* out;           // y [B, H, W, O], or the weight's gradient [O, 3, 3, I]
    int64_t outputs, dilation;
    bool turned;
    int64_t panels_in, panels_out;
    const Tile* tiles;    // those of this batch
    int64_t count;
    int64_t groups;       // parts of the batch that are tasks of their own
    float *v, *z;         // [F][panel][tile][kPanel]
    float* u;             // [panel][F][I][kPanel], in narrow layers
    int64_t stride_in, stride_out;  // floats from one frequency of v, of z, to the next
    float* sums;          // [groups, O, 3, 3, I]: the weight's gradient from each group
    bool add;             // to them: this is not the first batch
    const float* zeros;   // as many as a pixel has channels
    char* scratch;        // of each worker
    int64_t scratch_stride;
};

// From one frequency to the next: not a multiple of a page, so that a tile's frequencies differ in their cache sets.
constexpr int64_t frequency_stride(int64_t vectors) { return vectors * kPanel + 16; }

// Where the pixel (y, x) of a map begins, or zeros outside.
inline const float* pixel(const Problem& p, const Map& map, int64_t image, int64_t y, int64_t x) {
    const bool inside = y >= 0 && y < map.height && x >= 0 && x < map.width;
    return inside ? map.data + ((image * map.height + y) * map.width + x) * map.channels : p.zeros;
}

// The tiles from `first` to `last` to v, [F][panel][tile][kPanel] with `stride` and `count` tiles, at the first place.
template <typename W>
void input_tiles(const Problem& p, int64_t first, int64_t last, float* v, int64_t stride, int64_t count) {
    for (int64_t t = first; t < last; ++t, v += kPanel) {
        const float* from[W::n][W::n];
        for (int i = 0; i < W::n; ++i)
            for (int j = 0; j < W::n; ++j)
                from[i][j] = pixel(p, p.in, p.tiles[t].image, p.tiles[t].y + (i - 1) * p.dilation,
                                   p.tiles[t].x + (j - 1) * p.dilation);
        for (int64_t c = 0; c < p.in.channels; c += kLanes) {
            Vf middle[W::n][W::n], column[W::n], row[W::n];
            for (int j = 0; j < W::n; ++j) {
                for (int i = 0; i < W::n; ++i) column[i] = load(from[i][j] + c);
                W::input(column, row);
                for (int i = 0; i < W::n; ++i) middle[i][j] = row[i];
            }
            float* to = v + c / kPanel * count * kPanel + c % kPanel;
            for (int i = 0; i < W::n; ++i) {
                W::input(middle[i], row);
                for (int j = 0; j < W::n; ++j) store(to + (i * W::n + j) * stride, row[j]);
            }
        }
    }
}

template <typename W>
void transform_input(void* context, int64_t task, int) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t first = task * kStrip, last = first + kStrip < p.count ? first + kStrip : p.count;
    input_tiles<W>(p, first, last, p.v + first * kPanel, p.stride_in, p.count);
}

// Likewise of the output's gradient, to z.
void gradient_tiles(const Problem& p, int64_t first, int64_t last, float* z, int64_t stride, int64_t count) {
    using W = WeightTile;
    for (int64_t t = first; t < last; ++t, z += kPanel) {
        const float* from[W::m][W::m];
        for (int i = 0; i < W::m; ++i)
            for (int j = 0; j < W::m; ++j)
                from[i][j] = pixel(p, p.gradient, p.tiles[t].image, p.tiles[t].y + i * p.dilation,
                                   p.tiles[t].x + j * p.dilation);
        for (int64_t c = 0; c < p.gradient.channels; c += kLanes) {
            Vf middle[W::n][W::m], column[W::m], row[W::n];
            for (int j = 0; j < W::m; ++j) {
                for (int i = 0; i < W::m; ++i) column[i] = load(from[i][j] + c);
                W::gradient(column, row);
                for (int i = 0; i < W::n; ++i) middle[i][j] = row[i];
            }
            float* to = z + c / kPanel * count * kPanel + c % kPanel;
            for (int i = 0; i < W::n; ++i) {
                W::gradient(middle[i], row);
                for (int j = 0; j < W::n; ++j) store(to + (i * W::n + j) * stride, row[j]);
            }
        }
    }
}

void transform_gradient(void* context, int64_t task, int) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t first = task * kStrip, last = first + kStrip < p.count ? first + kStrip : p.count;
    gradient_tiles(p, first, last, p.z + first * kPanel, p.stride_out, p.count);
}

// One panel of U, [F][I][kPanel].
template <typename W>
void transform_weight(const Problem& p, int64_t panel, float* u) {
    const int64_t inputs = p.in.channels, stride = frequency_stride(inputs);
    for (int64_t o = 0; o < kPanel; o += kLanes)
        for (int64_t i = 0; i < inputs; i += kLanes) {
            Vf tap[9][kLanes];  // of kLanes inputs, each a vector of outputs
            for (int k = 0; k < 9; ++k)
                for (int lane = 0; lane < kLanes; ++lane)
                    tap[k][lane] = p.turned
                        ? load(p.weight + ((i + lane) * 9 + 8 - k) * p.outputs + panel * kPanel + o)
                        : load(p.weight + ((panel * kPanel + o + lane) * 9 + k) * inputs + i);
            if (!p.turned)
                for (int k = 0; k < 9; ++k) transpose(tap[k]);
            for (int lane = 0; lane < kLanes; ++lane) {
                Vf middle[W::n][3], column[3], row[W::n];
                for (int x = 0; x < 3; ++x) {
                    for (int y = 0; y < 3; ++y) column[y] = tap[3 * y + x][lane];
                    W::weight(column, row);
                    for (int y = 0; y < W::n; ++y) middle[y][x] = row[y];
                }
                for (int y = 0; y < W::n; ++y) {
                    W::weight(middle[y], row);
                    for (int x = 0; x < W::n; ++x)
                        store(u + (y * W::n + x) * stride + (i + lane) * kPanel + o, row[x]);
                }
            }
        }
}

}  // namespace
