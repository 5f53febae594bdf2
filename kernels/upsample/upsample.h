// Bilinear upsampling, organised for vectors without gathers: the output pixels are grouped by the cell of
// the low-resolution grid that they lie in. A vector holds one pixel from each of kLanes neighbouring cells, so
// its four corner scores are contiguous loads from a [class][column] row, and the adjoint (adding gradients to
// the corners) is four contiguous vector sums: nothing is gathered, scattered or added atomically.
#pragma once

#include "routine.h"

namespace {

// One axis: output i lies in cell c at weight t, value = (1 - t) in[c] + t in[c + 1]. Outputs beyond the first
// and last centre (align_corners=false) belong to the outermost cells with t = 0 or 1.
// Weights are computed in double from integers: closer to the definition than torch's float32 products.
struct Axis {
    int in, out, cells;
    int* first;     // [cells + 1]: cell c holds the outputs first[c] .. first[c + 1] - 1
    float* weight;  // [out]: t
    int most;       // outputs of the cell that has the most

    static size_t bytes(int in, int out) { return sizeof(int) * (in + 1) + sizeof(float) * out; }

    void build(void* memory, int inputs, int outputs, bool align_corners) {
        in = inputs, out = outputs, cells = in > 1 ? in - 1 : 1;
        first = static_cast<int*>(memory);
        weight = reinterpret_cast<float*>(first + in + 1);
        int cell = 0;
        first[0] = 0;
        for (int i = 0; i < out; ++i) {
            double at = 0;
            if (!align_corners)
                at = (static_cast<double>(2 * i + 1) * in - out) / (2.0 * out);
            else if (out > 1)
                at = static_cast<double>(i) * (in - 1) / (out - 1);
            at = at < 0 ? 0 : at > in - 1 ? in - 1 : at;
            while (cell + 1 < cells && at >= cell + 1) first[++cell] = i;
            weight[i] = static_cast<float>(at - cell);
        }
        while (cell < cells) first[++cell] = out;
        most = 0;
        for (cell = 0; cell < cells; ++cell)
            most = first[cell + 1] - first[cell] > most ? first[cell + 1] - first[cell] : most;
    }
};

// The columns' axis cut into blocks of kLanes cells. Phase k of a block is the k-th pixel of each of its cells.
struct Blocks {
    int count, padded;  // blocks; columns of a row buffer: count * kLanes + 1 and some alignment
    int* phase;         // [count + 1]: block b has the phases phase[b] .. phase[b + 1] - 1
    int* first;         // [count + 1]: block b has the output columns first[b] .. first[b + 1] - 1
    int* slot;          // [phases][kLanes]: the output column less first[b], or -1 where the cell has no such pixel
    float* weight;      // [phases][kLanes]: t of that column

    static int blocks_of(const Axis& axis) { return (axis.cells + kLanes - 1) / kLanes; }

    static int phases_of(const Axis& axis, int block) {
        int most = 0;
        for (int cell = block * kLanes; cell < (block + 1) * kLanes && cell < axis.cells; ++cell) {
            const int held = axis.first[cell + 1] - axis.first[cell];
            most = held > most ? held : most;
        }
        return most;
    }

    static size_t bytes(const Axis& axis) {
        size_t phases = 0;
        const int count = blocks_of(axis);
        for (int block = 0; block < count; ++block) phases += phases_of(axis, block);
        return 2 * sizeof(int) * (count + 1) + (sizeof(int) + sizeof(float)) * kLanes * phases;
    }

    void build(void* memory, const Axis& axis) {
        count = blocks_of(axis);
        padded = (count + 1) * kLanes;
        phase = static_cast<int*>(memory);
        first = phase + count + 1;
        slot = first + count + 1;
        phase[0] = first[0] = 0;
        for (int block = 0; block < count; ++block) {
            const int end = (block + 1) * kLanes < axis.cells ? (block + 1) * kLanes : axis.cells;
            phase[block + 1] = phase[block] + phases_of(axis, block);
            first[block + 1] = axis.first[end];
        }
        weight = reinterpret_cast<float*>(slot + static_cast<size_t>(phase[count]) * kLanes);
        for (int block = 0; block < count; ++block)
            for (int p = phase[block]; p < phase[block + 1]; ++p)
                for (int lane = 0; lane < kLanes; ++lane) {
                    const int cell = block * kLanes + lane;
                    const int at = cell < axis.cells ? axis.first[cell] + p - phase[block] : axis.out;
                    const bool held = cell < axis.cells && at < axis.first[cell + 1];
                    slot[p * kLanes + lane] = held ? at - first[block] : -1;
                    weight[p * kLanes + lane] = held ? axis.weight[at] : 0.0f;
                }
    }
};

// Low-resolution scores as they arrive: any strides (in elements), any element type.
struct Scores {
    const void* data;
    Element type;
    int batch, classes, height, width;
    int64_t stride_b, stride_c, stride_h, stride_w;

    // Row y of image b as float [classes][padded], the last column repeated into the padding.
    // Minus infinity becomes a large finite number: between two such corners the difference must be 0, not NaN.
    void read_row(float* row, int padded, int b, int y) const {
        const int64_t base = b * stride_b + y * stride_h;
        if (type == kFloat32)
            read<float>(row, padded, base, [](float value) { return value; });
        else if (type == kFloat16)
            read<uint16_t>(row, padded, base, [](uint16_t bits) { return float_of_float16(bits); });
        else
            read<uint16_t>(row, padded, base, [](uint16_t bits) { return float_of_bfloat16(bits); });
    }

    template <typename T, typename Convert>
    void read(float* row, int padded, int64_t base, Convert convert) const {
        const T* from = static_cast<const T*>(data) + base;
        const bool whole = type == kFloat32 && stride_c == 1 && classes >= kLanes;
        const int square = whole ? width / kLanes * kLanes : 0;  // columns that are read as squares, not one by one
        if (whole) read_squares(row, padded, reinterpret_cast<const float*>(from), square);
        for (int c = 0; c < classes; ++c, from += stride_c) {
            float* to = row + static_cast<size_t>(c) * padded;
            for (int x = square; x < width; ++x) to[x] = convert(from[x * stride_w]);
            for (int x = 0; x < width; ++x) to[x] = to[x] < -1e38f ? -1e38f : to[x];
            for (int x = width; x < padded; ++x) to[x] = to[width - 1];
        }
    }

    // Channels last: kLanes pixels by kLanes classes at a time; the last square of classes overlaps its neighbour.
    void read_squares(float* row, int padded, const float* from, int columns) const {
        for (int x = 0; x < columns; x += kLanes)
            for (int c = 0; c < classes; c += kLanes) {
                const int first = c + kLanes < classes ? c : classes - kLanes;
                Vf square[kLanes];
                for (int i = 0; i < kLanes; ++i) square[i] = load(from + (x + i) * stride_w + first);
                transpose(square);
                for (int i = 0; i < kLanes; ++i) store(row + static_cast<size_t>(first + i) * padded + x, square[i]);
            }
    }
};

// The corners of one block of cells as a polynomial: value(tx, ty) = p0 + tx p1 + ty (p2 + tx p3).
// Stored [classes][4][kLanes].
inline void read_corners(float* corners, const float* top, const float* bottom, int classes, int padded) {
    for (int c = 0; c < classes; ++c, corners += 4 * kLanes, top += padded, bottom += padded) {
        const Vf p0 = load(top), p1 = load(top + 1) - p0;
        const Vf q0 = load(bottom), q1 = load(bottom + 1) - q0;
        store(corners, p0);
        store(corners + kLanes, p1);
        store(corners + 2 * kLanes, q0 - p0);
        store(corners + 3 * kLanes, q1 - p1);
    }
}

// Cell rows that one task does: independent of the number of threads, so that the order of every sum is too.
constexpr int kBand = 8;

inline int64_t bands_of(int cell_rows) { return (cell_rows + kBand - 1) / kBand; }

}  // namespace
