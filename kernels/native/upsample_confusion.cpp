// Confusion counts of bilinearly upsampled scores: kernels/upsample_confusion.py holds the contract.
#include "upsample.h"

namespace {

constexpr int kHistograms = 4;  // neighbouring pixels often hit one bin: spread them, or each waits for the last
constexpr int kRows = 4;        // output rows whose running maxima stay in registers
constexpr int kSlack = 64;      // bytes around a line of predictions: slot -1 in front, whole vectors behind

typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

struct Job {
    Scores scores;
    const uint8_t* labels;
    Axis rows, columns;
    Blocks blocks;
    int ignore_index;
    int shift;         // a histogram's row is 2^shift bins: bin = truth << shift | prediction
    size_t bins;       // of one histogram: (classes + 1) << shift; the last row counts what is ignored
    size_t line;       // bytes of one row's predictions, with slack
    size_t row_bytes, corner_bytes, edge_bytes, line_bytes, histogram_bytes;  // of one worker; multiples of 64
    uint8_t* memory;
    int* refused;      // [workers]: labels out of range

    size_t worker_bytes() const { return 2 * row_bytes + corner_bytes + edge_bytes + line_bytes + histogram_bytes; }
};

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

// The winning class of every pixel of one block of cells, into lines of bytes.
void predict_block(const Job& job, const float* corners, float* edge, uint8_t* lines, int cell_row, int block) {
    const int classes = job.scores.classes;
    const int y_begin = job.rows.first[cell_row], rows = job.rows.first[cell_row + 1] - y_begin;
    const size_t line = job.line;
    uint8_t* const out = lines + kSlack + job.blocks.first[block];
    for (int phase = job.blocks.phase[block]; phase < job.blocks.phase[block + 1]; ++phase) {
        int slot[kLanes];  // a copy: bytes that are stored may alias anything that is not local
        std::memcpy(slot, job.blocks.slot + static_cast<size_t>(phase) * kLanes, sizeof slot);
        const Vf tx = load(job.blocks.weight + static_cast<size_t>(phase) * kLanes);
        for (int c = 0; c < classes; ++c) {  // this column of pixels: value(ty) = edge[c][0] + ty edge[c][1]
            const float* p = corners + 4 * c * kLanes;
            store(edge + 2 * c * kLanes, load(p) + tx * load(p + kLanes));
            store(edge + (2 * c + 1) * kLanes, load(p + 2 * kLanes) + tx * load(p + 3 * kLanes));
        }
        for (int y = 0; y < rows; y += kRows) {
            Vf best[kRows], ty[kRows];
            Vi winner[kRows];
            for (int i = 0; i < kRows; ++i) {
                ty[i] = splat(job.rows.weight[y_begin + (y + i < rows ? y + i : y)]);
                best[i] = load(edge) + ty[i] * load(edge + kLanes);
                winner[i] = Vi{};
            }
            for (int c = 1; c < classes; ++c) {
                const Vf upper = load(edge + 2 * c * kLanes), step = load(edge + (2 * c + 1) * kLanes);
                const Vi index = splat_int(c);
                for (int i = 0; i < kRows; ++i) {
                    const Vf value = upper + ty[i] * step;
                    const Vi candidate = (value > best[i]) & index;  // c exceeds every earlier winner
                    best[i] = value > best[i] ? value : best[i];
                    winner[i] = candidate > winner[i] ? candidate : winner[i];
                }
            }
            for (int i = 0; i < kRows && y + i < rows; ++i) {
                const Bytes narrow = __builtin_convertvector(winner[i], Bytes);
                for (int lane = 0; lane < kLanes; ++lane) out[(y + i) * line + slot[lane]] = narrow[lane];
            }
        }
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
        if (held < kChunk) {  // never read beyond the line: the tensor may end there
            std::memset(truth, ignored, kChunk);
            std::memcpy(truth, from, held);
            from = truth;
        }
        for (int i = 0; i < kChunk; ++i) {
            const uint8_t skip = from[i] == ignored, outside = from[i] >= classes;
            refused |= outside & (skip ^ 1);
            const uint16_t row = (skip | outside) ? classes : from[i];
            bins[i] = static_cast<uint16_t>((row << job.shift) | predictions[begin + i]);
        }
        int i = 0;
        for (; i + kHistograms <= held; i += kHistograms)
            for (int part = 0; part < kHistograms; ++part) ++histogram[part * job.bins + bins[i + part]];
        for (; i < held; ++i) ++histogram[bins[i]];
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
    uint8_t* lines = memory + 2 * job.row_bytes + job.corner_bytes + job.edge_bytes;
    uint32_t* histogram = reinterpret_cast<uint32_t*>(lines + job.line_bytes);
    const uint8_t* labels = job.labels + static_cast<size_t>(image) * job.rows.out * width;
    job.scores.read_row(top, job.blocks.padded, image, begin);
    for (int cell_row = begin; cell_row < end; ++cell_row) {
        const int below = cell_row + 1 < job.rows.in ? cell_row + 1 : cell_row;
        job.scores.read_row(bottom, job.blocks.padded, image, below);
        // From right to left: what a block writes to slot -1, its left neighbour then overwrites.
        for (int block = job.blocks.count - 1; block >= 0; --block) {
            read_corners(corners, top + block * kLanes, bottom + block * kLanes, job.scores.classes,
                         job.blocks.padded);
            predict_block(job, corners, edge, lines, cell_row, block);
        }
        for (int y = job.rows.first[cell_row]; y < job.rows.first[cell_row + 1]; ++y) {
            const uint8_t* line = lines + (y - job.rows.first[cell_row]) * job.line + kSlack;
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
    if (batch < 1 || classes < 1 || classes > 128 || in_height < 1 || in_width < 1 || height < 1 || width < 1)
        return kBadArgument;
    if (static_cast<double>(batch) * height * width >= 4294967296.0) return kBadArgument;
    if (ignore_index < 0 || ignore_index > 255) return kBadArgument;
    Job job;
    job.scores = {scores, static_cast<Element>(type), batch, classes, in_height, in_width,
                  stride_b, stride_c, stride_h, stride_w};
    job.labels = labels;
    job.ignore_index = ignore_index;
    Scratch row_axis(Axis::bytes(in_height, height)), column_axis(Axis::bytes(in_width, width));
    if (!row_axis.memory || !column_axis.memory) return kNoMemory;
    job.rows.build(row_axis.memory, in_height, height, align_corners);
    job.columns.build(column_axis.memory, in_width, width, align_corners);
    Scratch block_memory(Blocks::bytes(job.columns));
    if (!block_memory.memory) return kNoMemory;
    job.blocks.build(block_memory.memory, job.columns);

    const int64_t tasks = batch * bands_of(job.rows.cells);
    threads = threads < 1 ? 1 : threads > tasks ? static_cast<int>(tasks) : threads;
    for (job.shift = 0; 1 << job.shift < classes;) ++job.shift;
    job.bins = static_cast<size_t>(classes + 1) << job.shift;
    job.line = rounded(job.columns.out) + 2 * kSlack;
    job.row_bytes = rounded(sizeof(float) * classes * job.blocks.padded);
    job.corner_bytes = rounded(sizeof(float) * 4 * classes * kLanes);
    job.edge_bytes = rounded(sizeof(float) * 2 * classes * kLanes);
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
