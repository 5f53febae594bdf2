// The 4×4 convolution's maps as cells, the register-tiled product, and the transform of a tile's input. The mathematics
// and the letters are explained in conv4x4_stride2.cpp.
#pragma once

#include "winograd.h"

namespace {

using W = Winograd3;

constexpr int kFrequencies = W::n * W::n;
constexpr int kRows = FASTASS_LANES == 16 ? 12 : 6;  // of a product's register tile, which is 2 vectors wide
constexpr int64_t kCached = 10 << 10;  // channels of V and M, together, times tiles of a chunk
constexpr int64_t kMostTiles = 96;     // of a chunk
constexpr int64_t kGroupTiles = 36;    // at least, of a group of tiles, whose weight gradients are added at the end
constexpr int64_t kGroupsBytes = 2 << 20;  // of all these gradients, but for two groups

// c [R, N vectors] (+)= Σ_k a[r, k] b[k, N vectors], for `runs` runs of `length` values of k. a goes on a_block
// further after each `block` of them.
template <int R, int N>
inline void product(const float* a, int64_t a_row, int64_t a_k, int64_t a_block, const float* b, int64_t b_k,
                    int64_t b_vector, int64_t runs, int64_t length, int64_t block, float* c, int64_t c_row, bool add) {
    Vf sum[R][N] = {};
    for (int64_t run = 0; run < runs; ++run)
        for (int64_t left = length; left > 0; left -= block, a += a_block) {
            const float* from = a;
            for (int64_t k = left < block ? left : block; k > 0; --k, from += a_k, b += b_k) {
                Vf values[N];
                for (int n = 0; n < N; ++n) values[n] = load(b + n * b_vector);
#pragma GCC unroll 12
                for (int r = 0; r < R; ++r) {
                    const Vf value = splat(from[r * a_row]);
                    for (int n = 0; n < N; ++n) sum[r][n] += value * values[n];
                }
            }
        }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r, c += c_row)
        for (int n = 0; n < N; ++n)
            store(c + n * kLanes, add ? load(c + n * kLanes) + sum[r][n] : sum[r][n]);
}

template <int R, int N, typename... Arguments>
inline void product_of(int64_t rows, Arguments... arguments) {
    if (rows == R) return product<R, N>(arguments...);
    if constexpr (R > 1) product_of<R - 1, N>(rows, arguments...);
}

// All rows in blocks of about the same size. a_first and c_first: from one row to the next.
template <int N>
inline void rows_of(int64_t rows, const float* a, int64_t a_row, int64_t a_k, int64_t a_block, const float* b,
                    int64_t b_k, int64_t b_vector, int64_t runs, int64_t length, int64_t block, float* c,
                    int64_t c_row, bool add) {
    const int64_t parts = (rows + kRows - 1) / kRows;
    for (int64_t i = 0; i < parts; ++i) {
        const int64_t first = i * rows / parts, last = (i + 1) * rows / parts;
        product_of<kRows, N>(last - first, a + first * a_row, a_row, a_k, a_block, b, b_k, b_vector, runs, length,
                             block, c + first * c_row, c_row, add);
    }
}

// A map as cells, each of `runs` runs of `length` floats: a pixel, or 2×2 pixels where `runs` is 2.
struct Cells {
    float* data;
    int64_t height, width, channels;  // of the map
    int64_t runs;

    int64_t length() const { return runs * channels; }
    int64_t row() const { return runs * width * channels; }  // from a cell to the one below
    int64_t size() const { return runs * runs * channels; }
    // Vectors that hold a run, and floats of those that hold a cell.
    int64_t blocks() const { return (length() + kLanes - 1) / kLanes; }
    int64_t padded() const { return runs * blocks() * kLanes; }
};

struct Place {  // one run of one cell
    float* data;
    int64_t before, inside;  // floats of it outside the map, then inside
};

inline Place place(const Cells& cells, int64_t image, int64_t p, int64_t q, int64_t run) {
    const bool pairs = cells.runs == 2;
    const int64_t y = pairs ? 2 * p - 1 + run : p, x = pairs ? 2 * q - 1 : q;
    const int64_t begin = x < 0 ? 0 : x, end = x + cells.runs < cells.width ? x + cells.runs : cells.width;
    if (y < 0 || y >= cells.height || begin >= end) return {nullptr, 0, 0};
    float* data = cells.data + ((image * cells.height + y) * cells.width + begin) * cells.channels;
    return {data, (begin - x) * cells.channels, (end - begin) * cells.channels};
}

// The first of n×n runs, none of which leaves the map; null where one does.
inline float* square(const Cells& cells, int64_t image, int64_t p, int64_t q, int64_t run, int n) {
    const int64_t offset = cells.runs == 2 ? 1 : 0, y = cells.runs * p - offset + run, x = cells.runs * q - offset;
    const bool inside = y >= 0 && x >= 0 && y + cells.runs * (n - 1) < cells.height && x + cells.runs * n <= cells.width;
    return inside ? cells.data + ((image * cells.height + y) * cells.width + x) * cells.channels : nullptr;
}

struct Problem {
    Cells in, out;        // out: of the weight's gradient, the gradient of the convolution's output
    int64_t origin;       // of the first tile's inputs, in cells
    int64_t tiles_y, tiles_x, count;  // of an image, of all
    int64_t chunks;
    const float* weight;  // [O, 4, 4, C]
    const float* bias;    // [O] or null
    const float* gate;    // as the output, or null: where it is not positive, the output is multiplied by `slope`
    float slope;
    bool relu;            // leaky: the output itself is the gate
    bool turned;
    float* u;             // [F][channels of `in`][u_row]
    int64_t u_row, u_stride;
    float* of_weight;     // [O, 4, 4, C]
    float* sums;          // [groups][F][O][channels of `in`]
    int64_t groups;
    char* scratch;        // of each worker
    int64_t scratch_stride;
};

// From one frequency to the next: not a multiple of a page, so that a tile's frequencies differ in their cache sets.
constexpr int64_t apart(int64_t floats) { return floats + 16; }

struct Tile {
    int64_t image, p, q;
};

inline Tile tile_of(const Problem& p, int64_t index) {
    const int64_t each = p.tiles_y * p.tiles_x, within = index % each;
    return {index / each, within / p.tiles_x * W::m, within % p.tiles_x * W::m};
}

// What the next tile needs of the row of cells that goes through `cell`: too short a run for the processor to foresee.
template <int Write>
inline void prefetch_next(const float* cell, int64_t length) {
    const char* next = reinterpret_cast<const char*>(cell + W::m * length);
    for (int64_t byte = 0; byte < 4 * W::m * length; byte += 64) __builtin_prefetch(next + byte, Write);
}

// V of `count` tiles: [F][vectors of a cell][count][kLanes]. edge: for n² cells, as they look with zeros around the map.
void input_tiles(const Problem& p, int64_t first, int64_t count, float* v, int64_t stride, float* edge) {
    const Cells& in = p.in;
    const int64_t length = in.length(), blocks = in.blocks();
    Vi tail;  // moves the last lanes of a run to the front, zeros after them
    for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t lanes = length - (blocks - 1) * kLanes;
        tail[lane] = lane < lanes ? static_cast<int32_t>(kLanes - lanes) + lane : kLanes;
    }
    for (int64_t t = 0; t < count; ++t) {
        const Tile tile = tile_of(p, first + t);
        for (int64_t run = 0; run < in.runs; ++run) {
            const float* from[W::n][W::n];
            const float* start = square(in, tile.image, tile.p + p.origin, tile.q + p.origin, run, W::n);
            for (int i = 0; i < W::n; ++i)
                for (int j = 0; j < W::n; ++j) {
                    if (start) {
                        from[i][j] = start + i * in.row() + j * length;
                        continue;
                    }
                    const Place at = place(in, tile.image, tile.p + p.origin + i, tile.q + p.origin + j, run);
                    from[i][j] = at.data;
                    if (at.inside == length) continue;
                    float* copy = edge + (i * W::n + j) * length;
                    std::memset(copy, 0, 4 * length);
                    if (at.data) std::memcpy(copy + at.before, at.data, 4 * at.inside);
                    from[i][j] = copy;
                }
            for (int i = 0; i < W::n; ++i) prefetch_next<0>(from[i][1], length);
            for (int64_t block = 0; block < blocks; ++block) {
                const bool last = (block + 1) * kLanes > length;
                const int64_t c = last ? length - kLanes : block * kLanes;
                Vf middle[W::n][W::n], column[W::n], row[W::n];
                for (int j = 0; j < W::n; ++j) {
                    for (int i = 0; i < W::n; ++i) column[i] = load(from[i][j] + c);
                    if (last)
                        for (int i = 0; i < W::n; ++i) column[i] = FASTASS_BLEND(column[i], Vf{}, tail);
                    W::input(column, row);
                    for (int i = 0; i < W::n; ++i) middle[i][j] = row[i];
                }
                float* to = v + ((run * blocks + block) * count + t) * kLanes;
                for (int i = 0; i < W::n; ++i) {
                    W::input(middle[i], row);
                    for (int j = 0; j < W::n; ++j) store(to + (i * W::n + j) * stride, row[j]);
                }
            }
        }
    }
}

// step(c) for the vectors of a run, the last of which may overlap the one before.
template <typename Step>
inline void every_vector(int64_t length, const Step& step) {
    for (int64_t c = 0; c + kLanes < length; c += kLanes) step(c);
    step(length - kLanes);
}

}  // namespace
