// Confusion counts of bilinearly upsampled scores: kernels/upsample/confusion.py holds the contract.
#include "upsample.h"

namespace {

constexpr int kHistograms = 4;  // neighbouring pixels often hit one bin: spread them, or each waits for the last
constexpr int kRows = 4;        // output rows whose running maxima stay in registers
constexpr int kSlack = 64;      // bytes behind a line of predictions and behind the columns' weights, for whole vectors

constexpr int kRun = 16;        // pixels that are counted at once where they all fall into one bin
constexpr int kMaxClasses = 128;


struct Job {
    Scores scores;
    const uint8_t* labels;
    Axis rows, columns;
    int padded;        // columns of a row buffer: whole vectors of cells, and one corner more
    size_t edge;       // floats of a block's columns, with room for whole vectors
    int ignore_index;
    int shift;         // a histogram's row is 2^shift bins: bin = truth << shift | prediction
    size_t bins;       // of one histogram: (classes + 1) << shift; the last row counts what is ignored
    size_t line;       // bytes of one row's predictions, with slack
    size_t row_bytes, corner_bytes, edge_bytes, line_bytes, histogram_bytes;  // of one worker; multiples of 64
    uint8_t* memory;
    int* refused;      // [workers]: labels out of range

    size_t worker_bytes() const { return 2 * row_bytes + corner_bytes + edge_bytes + line_bytes + histogram_bytes; }
};

inline Vf higher(Vf a, Vf b) { return a > b ? a : b; }
inline Vf lower(Vf a, Vf b) { return a < b ? a : b; }

inline void store_int(int32_t* to, Vi value) { __builtin_memcpy(to, &value, sizeof value); }

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Which classes can win somewhere in a block of cells, in ascending order; returns how many. Values in a cell lie
// between its corners' but for rounding, so a class is beaten there if its largest corner is below another's
// smallest. `highest` is scratch, [classes][kLanes].
int contenders(const float* top, const float* bottom, int classes, int padded, float* highest, uint8_t* kept) {
    constexpr float kRounding = 8e-6f;  // far more than the few units in the last place of the largest corner
    Vf bound = splat(-__builtin_inff()), size = Vf{}, probe = Vf{};
    for (int c = 0; c < classes; ++c, top += padded, bottom += padded) {
        const Vf a = load(top), b = load(top + 1), d = load(bottom), e = load(bottom + 1);
        const Vf low = lower(lower(a, b), lower(d, e)), high = higher(higher(a, b), higher(d, e));
        store(highest + c * kLanes, high);
        bound = higher(low, bound);
        size = higher(higher(high, -low), size);
        probe += ((a - b) - (d - e)) * 0.0f;  // NaN where a corner is: then nothing is left out
    }
    const Vf floor = bound - kRounding * size;
    int count = 0;
    for (int first = 0; first < classes; first += 32) {
        const int held = classes - first < 32 ? classes - first : 32;
        Vi alive = probe != probe;
        for (int c = 0; c < held; ++c)
            alive |= ~(load(highest + (first + c) * kLanes) < floor) & splat_int(static_cast<int>(1u << c));
        uint32_t any = 0;
        for (int lane = 0; lane < kLanes; ++lane) any |= static_cast<uint32_t>(alive[lane]);
        for (int c = 0; c < held; ++c)
            if (any >> c & 1) kept[count++] = static_cast<uint8_t>(first + c);
    }
    return count;
}

// The winning class of every pixel of one block of cells, into lines of bytes. `kept`: the classes that can win.
// The pixels are in the order of the image: what a cell's or the block's last vector writes too far, its right
// neighbour overwrites.
void predict_block(const Job& job, const float* top, const float* bottom, const uint8_t* kept, int count,
                   float* corners, float* edge, int32_t* winners, uint8_t* lines, int cell_row, int block) {
    const int y_begin = job.rows.first[cell_row], rows = job.rows.first[cell_row + 1] - y_begin;
    const int cell_begin = block * kLanes;
    const int cell_end = cell_begin + kLanes < job.columns.cells ? cell_begin + kLanes : job.columns.cells;
    const int x_begin = job.columns.first[cell_begin], width = job.columns.first[cell_end] - x_begin;
    const size_t line = job.line, stride = job.edge;
    uint8_t* const out = lines + x_begin;
    if (count == 1) {
        for (int y = 0; y < rows; ++y) std::memset(out + y * line, kept[0], width);
        return;
    }
    for (int k = 0; k < count; ++k) {
        const size_t at = static_cast<size_t>(kept[k]) * job.padded;
        read_corners(corners + 4 * k * kLanes, top + at, bottom + at, 1, job.padded);
    }
    for (int cell = cell_begin; cell < cell_end; ++cell) {  // at column x: value(ty) = edge[k][0][x] + ty edge[k][1][x]
        for (int x = job.columns.first[cell]; x < job.columns.first[cell + 1]; x += kLanes) {
            const Vf tx = load(job.columns.weight + x);
            const float* p = corners + cell - cell_begin;
            float* to = edge + x - x_begin;
            for (int k = 0; k < count; ++k, p += 4 * kLanes, to += 2 * stride) {
                store(to, p[0] + tx * p[kLanes]);
                store(to + stride, p[2 * kLanes] + tx * p[3 * kLanes]);
            }
        }
    }
    for (int y = 0; y < rows; y += kRows) {
        Vf ty[kRows];
        for (int i = 0; i < kRows; ++i) ty[i] = splat(job.rows.weight[y_begin + (y + i < rows ? y + i : y)]);
        for (int x = 0; x < width; x += kLanes) {
            const float* from = edge + x;
            Vf best[kRows];
            Vi winner[kRows];
            for (int i = 0; i < kRows; ++i) {
                best[i] = load(from) + ty[i] * load(from + stride);
                winner[i] = splat_int(kept[0]);
            }
            for (int k = 1; k < count; ++k) {
                from += 2 * stride;
                const Vf upper = load(from), step = load(from + stride);
                const Vi index = splat_int(kept[k]);
                for (int i = 0; i < kRows; ++i) {
                    // The maximum's bits change where the value is larger: compared as integers, which leaves the
                    // floating-point units to the rest. The index exceeds every earlier winner.
                    const Vf most = higher(upper + ty[i] * step, best[i]);
                    const Vi candidate = ~((Vi)most == (Vi)best[i]) & index;
                    best[i] = most;
                    winner[i] = candidate > winner[i] ? candidate : winner[i];
                }
            }
            for (int i = 0; i < kRows; ++i) store_int(winners + i * stride + x, winner[i]);
        }
        for (int i = 0; i < kRows && y + i < rows; ++i)
            for (int x = 0; x < width; ++x) out[(y + i) * line + x] = static_cast<uint8_t>(winners[i * stride + x]);
    }
}

// Adds one line of predictions to the histogram; true if a label is neither a class nor ignored.
bool count_line(const Job& job, const uint8_t* labels, const uint8_t* predictions, int pixels,
                uint32_t* histogram) {
    constexpr int kChunk = 64;
    const uint8_t ignored = static_cast<uint8_t>(job.ignore_index);
    const uint8_t classes = static_cast<uint8_t>(job.scores.classes);
    uint8_t truth[kChunk], refused = 0;
    uint16_t bins[kChunk];
    for (int begin = 0; begin < pixels; begin += kChunk) {
        const int held = pixels - begin < kChunk ? pixels - begin : kChunk;
        const uint8_t* from = labels + begin;
        if (held < kChunk) {  // never read beyond the line: the tensor may end there; the rest is ignored
            std::memset(truth, ignored, kChunk);
            std::memcpy(truth, from, held);
            from = truth;
        }
        for (int i = 0; i < kChunk; ++i) {
            const uint8_t skip = from[i] == ignored, outside = from[i] >= classes;
            refused |= outside & (skip ^ 1);
            const uint8_t left = skip | outside, guess = predictions[begin + i];
            const uint16_t row = left ? classes : from[i], column = left ? 0 : guess;
            bins[i] = static_cast<uint16_t>((row << job.shift) | column);
        }
        for (int i = 0; i < kChunk; i += kRun) {
            uint64_t words[kRun / 4], difference = 0;
            std::memcpy(words, bins + i, sizeof words);
            for (uint64_t word : words) difference |= word ^ (bins[i] * 0x0001000100010001u);
            if (difference == 0) {
                histogram[bins[i]] += kRun;
            } else {
                for (int j = i; j < i + kRun; j += kHistograms)
                    for (int part = 0; part < kHistograms; ++part) ++histogram[part * job.bins + bins[j + part]];
            }
        }
    }
    return refused;
}

void count_band(void* context, int64_t index, int worker) {
    const Job& job = *static_cast<const Job*>(context);
    const int64_t bands = bands_of(job.rows.cells);
    const int image = static_cast<int>(index / bands);
    const int begin = static_cast<int>(index % bands) * kBand;
    const int end = begin + kBand < job.rows.cells ? begin + kBand : job.rows.cells;
    const int width = job.columns.out;
    uint8_t* memory = job.memory + worker * job.worker_bytes();
    float* top = reinterpret_cast<float*>(memory);
    float* bottom = reinterpret_cast<float*>(memory + job.row_bytes);
    float* corners = reinterpret_cast<float*>(memory + 2 * job.row_bytes);
    float* edge = reinterpret_cast<float*>(memory + 2 * job.row_bytes + job.corner_bytes);
    int32_t* winners = reinterpret_cast<int32_t*>(edge + 2 * job.edge * job.scores.classes);
    uint8_t* lines = memory + 2 * job.row_bytes + job.corner_bytes + job.edge_bytes;
    uint32_t* histogram = reinterpret_cast<uint32_t*>(lines + job.line_bytes);
    const uint8_t* labels = job.labels + static_cast<size_t>(image) * job.rows.out * width;
    job.scores.read_row(top, job.padded, image, begin);
    for (int cell_row = begin; cell_row < end; ++cell_row) {
        const int below = cell_row + 1 < job.rows.in ? cell_row + 1 : cell_row;
        job.scores.read_row(bottom, job.padded, image, below);
        for (int block = 0; block * kLanes < job.columns.cells; ++block) {
            const float *above = top + block * kLanes, *under = bottom + block * kLanes;
            uint8_t kept[kMaxClasses];
            const int count = contenders(above, under, job.scores.classes, job.padded, corners, kept);
            predict_block(job, above, under, kept, count, corners, edge, winners, lines, cell_row, block);
        }
        for (int y = job.rows.first[cell_row]; y < job.rows.first[cell_row + 1]; ++y) {
            const uint8_t* line = lines + (y - job.rows.first[cell_row]) * job.line;
            const uint8_t* truth = labels + static_cast<size_t>(y) * width;
            if (count_line(job, truth, line, width, histogram)) job.refused[worker] = 1;
        }
        float* spare = top;
        top = bottom, bottom = spare;
    }
}

}  // namespace

// counts int64 [classes][classes] (truth, prediction) is overwritten. B * H * W must be below 2^32.
FASTASS_ROUTINE(upsample_confusion)
(const void* scores, int type, int64_t stride_b, int64_t stride_c, int64_t stride_h, int64_t stride_w,
 const uint8_t* labels, int64_t* counts, int batch, int classes, int in_height, int in_width, int height,
 int width, int align_corners, int ignore_index, int threads) {
    if (batch < 1 || classes < 1 || classes > kMaxClasses || in_height < 1 || in_width < 1 || height < 1 || width < 1)
        return kBadArgument;
    if (static_cast<double>(batch) * height * width >= 4294967296.0) return kBadArgument;
    if (ignore_index < 0 || ignore_index > 255) return kBadArgument;
    Job job;
    job.scores = {scores, static_cast<Element>(type), batch, classes, in_height, in_width,
                  stride_b, stride_c, stride_h, stride_w};
    job.labels = labels;
    job.ignore_index = ignore_index;
    Scratch row_axis(Axis::bytes(in_height, height)), column_axis(Axis::bytes(in_width, width) + kSlack);
    if (!row_axis.memory || !column_axis.memory) return kNoMemory;
    std::memset(column_axis.memory, 0, Axis::bytes(in_width, width) + kSlack);
    job.rows.build(row_axis.memory, in_height, height, align_corners);
    job.columns.build(column_axis.memory, in_width, width, align_corners);
    job.padded = (job.columns.cells + kLanes - 1) / kLanes * kLanes + kLanes;
    job.edge = static_cast<size_t>(kLanes) * (job.columns.most + 1);

    const int64_t tasks = batch * bands_of(job.rows.cells);
    threads = threads < 1 ? 1 : threads > tasks ? static_cast<int>(tasks) : threads;
    for (job.shift = 0; 1 << job.shift < classes;) ++job.shift;
    job.bins = static_cast<size_t>(classes + 1) << job.shift;
    job.line = rounded(job.columns.out) + kSlack;
    job.row_bytes = rounded(sizeof(float) * classes * job.padded);
    job.corner_bytes = rounded(sizeof(float) * 4 * classes * kLanes);
    job.edge_bytes = rounded(4 * (2 * classes + kRows) * job.edge);
    job.line_bytes = job.line * job.rows.most;
    job.histogram_bytes = rounded(sizeof(uint32_t) * kHistograms * job.bins);
    Scratch memory(threads * job.worker_bytes()), refused(sizeof(int) * threads);
    if (!memory.memory || !refused.memory) return kNoMemory;
    std::memset(memory.memory, 0, threads * job.worker_bytes());
    std::memset(refused.memory, 0, sizeof(int) * threads);
    job.memory = memory.as<uint8_t>();
    job.refused = refused.as<int>();
    fastass::parallel_for(threads, tasks, count_band, &job);

    std::memset(counts, 0, sizeof(int64_t) * classes * classes);
    bool bad = false;
    for (int worker = 0; worker < threads; ++worker) {
        bad |= job.refused[worker] != 0;
        const uint8_t* end = job.memory + (worker + 1) * job.worker_bytes();
        const uint32_t* histogram = reinterpret_cast<const uint32_t*>(end - job.histogram_bytes);
        for (int part = 0; part < kHistograms; ++part, histogram += job.bins)
            for (int truth = 0; truth < classes; ++truth)
                for (int c = 0; c < classes; ++c)
                    counts[truth * classes + c] += histogram[(truth << job.shift) + c];
    }
    return bad ? kBadLabel : kOk;
}
