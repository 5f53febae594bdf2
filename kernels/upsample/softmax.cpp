// Softmax of bilinearly upsampled scores, its cross-entropy against labels, and gradients:
// kernels/upsample/cross_entropy.py and kernels/upsample/softmax.py hold the contracts.
//
// One cell row of one image is done block by block (upsample.h), a column of pixels of each cell at a time. The
// scores are taken less the largest corner of the cell, so that a pixel's exponentials need no maximum: one
// multiply-add and one e^x each. The gradient with respect to the corners is gathered as moments: the adjoint of
// value = p0 + tx p1 + ty (p2 + tx p3) sums g, tx g, ty g and tx ty g.
#include <math.h>

#include "exponential.h"
#include "upsample.h"

namespace {

constexpr int kRows = 8;                // output rows that are in flight together, at most
constexpr float kTinySum = 0x1p-60f;    // below this the cell's largest corner was too loose a bound
constexpr float kTinyTerms = 0x1p-100f; // below this a product of four terms is not divided by
constexpr float kExponentRange = 87.0f; // a block whose corners span less needs no clamping

// A full-resolution tensor [B][C][H][W] of any strides.
struct Map {
    void* data;
    int64_t stride_b, stride_c, stride_h, stride_w;
};

struct Job {
    Scores scores;
    const uint8_t* labels;   // forward: null where only P is wanted
    uint16_t lookup[256];    // label -> class, or `classes` where ignored; + 256 where out of range
    Map probabilities;       // forward: P, written if data; backward: the gradient of P
    float* gradient;         // [B][h][w][C], or null
    float* carry;            // [tasks][w][C]: the gradient of the first row below each band
    double* loss;            // [tasks]
    int64_t* valid;          // [tasks]
    int* refused;            // [tasks]
    Axis rows, columns;
    Blocks blocks;
    bool backward;
    size_t row_floats, worker_floats;
    float* memory;
};

// The buffers of one worker.
struct Worker {
    float *top, *bottom;            // scores [C][padded]
    float *grad_top, *grad_bottom;  // their gradients
    float *corners, *moments;       // [C][4][kLanes]
    float *terms;     // [C + 1][R][kLanes]: exponentials, then the scores' gradient; one more class takes the ignored
    float *incoming;  // [C][R][kLanes]: backward: the gradient of P
    float *zeros;     // [C]: the gradient of P where there is no pixel

    static size_t floats(int classes, size_t row_floats) {
        return 4 * row_floats + static_cast<size_t>(classes + 1) * kLanes * (8 + 2 * kRows + 1);
    }

    Worker(float* memory, int classes, size_t row_floats) {
        const size_t vectors = static_cast<size_t>(classes + 1) * kLanes;
        top = memory, bottom = top + row_floats;
        grad_top = bottom + row_floats, grad_bottom = grad_top + row_floats;
        corners = grad_bottom + row_floats;
        moments = corners + 4 * vectors;
        terms = moments + 4 * vectors;
        incoming = terms + kRows * vectors;
        zeros = incoming + kRows * vectors;
    }
};

struct Totals {
    Vf loss = {};
    int64_t valid = 0;
    int refused = 0;
};

// One phase of one block: R output rows of which `held` exist (the others repeat the first and do not count).
template <int R>
struct Pixels {
    int y, held, x0;
    const int* slot;  // [kLanes]: column less x0, or -1 where the cell has no such pixel
    Vf tx, ty[R], sum[R], inverse[R];
    Vi label[R];      // class, or `classes` where nothing counts
};

inline bool any(Vi mask) {
    int32_t found = 0;
    for (int lane = 0; lane < kLanes; ++lane) found |= mask[lane];
    return found != 0;
}

inline Vf value_at(const float* corners, int c, Vf tx, Vf ty) {
    const float* p = corners + 4 * c * kLanes;
    return load(p) + tx * load(p + kLanes) + ty * (load(p + 2 * kLanes) + tx * load(p + 3 * kLanes));
}

template <int R>
int read_labels(const Job& job, int image, Pixels<R>& px, Totals& totals) {
    const int classes = job.scores.classes, width = job.columns.out;
    int32_t found[R][kLanes];
    int counted = 0, flags = 0;
    for (int i = 0; i < R; ++i) {
        const uint8_t* row =
            job.labels + (static_cast<size_t>(image) * job.rows.out + px.y + (i < px.held ? i : 0)) * width + px.x0;
        for (int lane = 0; lane < kLanes; ++lane) {
            const int entry =
                i < px.held && px.slot[lane] >= 0 ? job.lookup[row[px.slot[lane]]] : classes;
            flags |= entry;
            found[i][lane] = entry & 255;
            counted += (entry & 255) < classes;
        }
    }
    std::memcpy(px.label, found, sizeof found);
    totals.valid += counted;
    totals.refused |= flags >> 8;
    return counted;
}

// terms = e^(score - bound), sum over the classes, 1 / sum.
template <int R, bool kClamp>
void exponentials(const Worker& w, int classes, Pixels<R>& px) {
    Vf sum[R];
    for (int i = 0; i < R; ++i) sum[i] = Vf{};
    for (int c = 0; c < classes; ++c) {
        const float* p = w.corners + 4 * c * kLanes;
        const Vf upper = load(p) + px.tx * load(p + kLanes);
        const Vf step = load(p + 2 * kLanes) + px.tx * load(p + 3 * kLanes);
        float* to = w.terms + c * R * kLanes;
        for (int i = 0; i < R; ++i) {
            const Vf term = exp_vector<kClamp>(upper + px.ty[i] * step);
            store(to + i * kLanes, term);
            sum[i] += term;
        }
    }
    for (int i = 0; i < R; ++i) {
        if (any(sum[i] < kTinySum)) {  // take the pixels' own maxima
            Vf largest = splat(-3.0e38f);
            for (int c = 0; c < classes; ++c) {
                const Vf value = value_at(w.corners, c, px.tx, px.ty[i]);
                largest = value > largest ? value : largest;
            }
            sum[i] = Vf{};
            for (int c = 0; c < classes; ++c) {
                const Vf term = exp_vector<true>(value_at(w.corners, c, px.tx, px.ty[i]) - largest);
                store(w.terms + (c * R + i) * kLanes, term);
                sum[i] += term;
            }
        }
        px.sum[i] = sum[i];
        px.inverse[i] = 1.0f / sum[i];
    }
}

// P = terms / sum, to wherever the pixels are.
template <int R>
void write_probabilities(const Job& job, const Worker& w, int image, const Pixels<R>& px) {
    const Map& map = job.probabilities;
    const int classes = job.scores.classes;
    for (int i = 0; i < px.held; ++i) {
        const int64_t row = image * map.stride_b + (px.y + i) * map.stride_h + px.x0 * map.stride_w;
        if (job.scores.type == kFloat32 && map.stride_c == 1 && classes >= kLanes) {
            float* to = static_cast<float*>(map.data) + row;
            for (int first = 0; first < classes; first += kLanes) {  // the last kLanes classes overlap
                const int c = first + kLanes <= classes ? first : classes - kLanes;
                Vf tile[kLanes];
                for (int k = 0; k < kLanes; ++k)
                    tile[k] = load(w.terms + ((c + k) * R + i) * kLanes) * px.inverse[i];
                transpose(tile);
                for (int lane = 0; lane < kLanes; ++lane)
                    if (px.slot[lane] >= 0) store(to + px.slot[lane] * map.stride_w + c, tile[lane]);
            }
        } else {
            for (int lane = 0; lane < kLanes; ++lane)
                for (int c = 0; c < classes && px.slot[lane] >= 0; ++c)
                    set_element(map.data, job.scores.type,
                                row + px.slot[lane] * map.stride_w + c * map.stride_c,
                                w.terms[(c * R + i) * kLanes + lane] * px.inverse[i][lane]);
        }
    }
}

// The reverse: the gradient of P, zero where there is no pixel.
template <int R>
void read_incoming(const Job& job, const Worker& w, int image, const Pixels<R>& px) {
    const Map& map = job.probabilities;
    const int classes = job.scores.classes;
    for (int i = 0; i < px.held; ++i) {
        const int64_t row = image * map.stride_b + (px.y + i) * map.stride_h + px.x0 * map.stride_w;
        if (job.scores.type == kFloat32 && map.stride_c == 1 && classes >= kLanes) {
            const float* from = static_cast<const float*>(map.data) + row;
            for (int first = 0; first < classes; first += kLanes) {
                const int c = first + kLanes <= classes ? first : classes - kLanes;
                Vf tile[kLanes];
                for (int lane = 0; lane < kLanes; ++lane)
                    tile[lane] = load((px.slot[lane] < 0 ? w.zeros : from + px.slot[lane] * map.stride_w) + c);
                transpose(tile);
                for (int k = 0; k < kLanes; ++k) store(w.incoming + ((c + k) * R + i) * kLanes, tile[k]);
            }
        } else {
            for (int lane = 0; lane < kLanes; ++lane)
                for (int c = 0; c < classes; ++c)
                    w.incoming[(c * R + i) * kLanes + lane] =
                        px.slot[lane] < 0 ? 0.0f
                                          : element(map.data, job.scores.type,
                                                    row + px.slot[lane] * map.stride_w + c * map.stride_c);
        }
    }
}

// The losses of one row of pixels where a term is too small to divide by: from the scores.
__attribute__((noinline)) Vf far_losses(const Worker& w, int classes, Vf tx, Vf ty, Vi label) {
    Vf largest = splat(-3.0e38f), own = {}, total = {};
    for (int c = 0; c < classes; ++c) {
        const Vf value = value_at(w.corners, c, tx, ty);
        largest = value > largest ? value : largest;
        own = label == splat_int(c) ? value : own;
    }
    for (int c = 0; c < classes; ++c) total += exp_vector(value_at(w.corners, c, tx, ty) - largest);
    return label < classes ? largest - own + log_vector(total) : Vf{};
}

// Adds the losses, and takes the sum from each label's term: (P - 1) sum is its score's gradient.
template <int R>
void add_losses(const Worker& w, int classes, const Pixels<R>& px, Totals& totals) {
    float picked[R][kLanes], sum[R][kLanes];
    int32_t label[R][kLanes];
    std::memcpy(sum, px.sum, sizeof sum);
    std::memcpy(label, px.label, sizeof label);
    for (int i = 0; i < R; ++i)
        for (int lane = 0; lane < kLanes; ++lane) {
            float* term = w.terms + (label[i][lane] * R + i) * kLanes + lane;
            picked[i][lane] = *term;
            *term -= sum[i][lane];
        }
    // The sum of four losses is one logarithm: ln(sum sum sum sum / term term term term).
    for (int begin = 0; begin < R; begin += 4) {
        Vf numerator = splat(1.0f), denominator = numerator;
        for (int i = begin; i < begin + 4; ++i) {
            const Vi counts = px.label[i] < classes;
            numerator *= counts ? px.sum[i] : splat(1.0f);
            denominator *= counts ? load(picked[i]) : splat(1.0f);
        }
        if (any((denominator < kTinyTerms) | (numerator < kTinyTerms)))
            for (int i = begin; i < begin + 4; ++i)
                totals.loss += far_losses(w, classes, px.tx, px.ty[i], px.label[i]);
        else
            totals.loss += log_vector(numerator / denominator);
    }
}

// Adds what the scores' gradients (terms times weight) give to the corners.
template <int R>
void add_moments(const Worker& w, int classes, const Pixels<R>& px, const Vf* weight) {
    Vf weight_ty[R];
    for (int i = 0; i < R; ++i) weight_ty[i] = weight[i] * px.ty[i];
    for (int c = 0; c < classes; c += 2) {  // two at a time share the weights; the row past an odd last is spare
        const float* terms = w.terms + c * R * kLanes;
        Vf g = {}, gy = {}, h = {}, hy = {};
        for (int i = 0; i < R; ++i) {
            const Vf term = load(terms + i * kLanes), next = load(terms + (R + i) * kLanes);
            g += term * weight[i];
            gy += term * weight_ty[i];
            h += next * weight[i];
            hy += next * weight_ty[i];
        }
        float* m = w.moments + 4 * c * kLanes;
        const Vf sums[8] = {g, px.tx * g, gy, px.tx * gy, h, px.tx * h, hy, px.tx * hy};
        for (int k = 0; k < 8; ++k) store(m + k * kLanes, load(m + k * kLanes) + sums[k]);
    }
}

template <int R, bool kClamp>
void do_rows(const Job& job, const Worker& w, int image, int block, int phase, int y, int held, Totals& totals) {
    const int classes = job.scores.classes;
    Pixels<R> px;
    px.y = y, px.held = held, px.x0 = job.blocks.first[block];
    px.slot = job.blocks.slot + static_cast<size_t>(phase) * kLanes;
    px.tx = load(job.blocks.weight + static_cast<size_t>(phase) * kLanes);
    for (int i = 0; i < R; ++i) px.ty[i] = splat(job.rows.weight[y + (i < held ? i : 0)]);

    Vf weight[R];
    if (job.backward) {
        read_incoming(job, w, image, px);
        exponentials<R, kClamp>(w, classes, px);
        Vf dot[R];
        for (int i = 0; i < R; ++i) dot[i] = Vf{};
        for (int c = 0; c < classes; ++c)
            for (int i = 0; i < R; ++i)
                dot[i] += load(w.terms + (c * R + i) * kLanes) * load(w.incoming + (c * R + i) * kLanes);
        for (int c = 0; c < classes; ++c)
            for (int i = 0; i < R; ++i) {
                float* term = w.terms + (c * R + i) * kLanes;
                const Vf incoming = load(w.incoming + (c * R + i) * kLanes);
                store(term, load(term) * (incoming - dot[i] * px.inverse[i]));
            }
        Vf inside;
        for (int lane = 0; lane < kLanes; ++lane) inside[lane] = px.slot[lane] >= 0;
        for (int i = 0; i < R; ++i) weight[i] = i < held ? inside * px.inverse[i] : Vf{};
        add_moments(w, classes, px, weight);
        return;
    }
    if (job.labels && !read_labels(job, image, px, totals) && !job.probabilities.data) return;
    exponentials<R, kClamp>(w, classes, px);
    if (job.probabilities.data) write_probabilities(job, w, image, px);
    if (!job.labels) return;
    add_losses(w, classes, px, totals);
    if (!job.gradient) return;
    for (int i = 0; i < R; ++i) weight[i] = px.label[i] < classes ? px.inverse[i] : Vf{};
    add_moments(w, classes, px, weight);
}

void do_block(const Job& job, const Worker& w, int image, int cell_row, int block, Totals& totals) {
    const int classes = job.scores.classes, padded = job.blocks.padded, at = block * kLanes;
    read_corners(w.corners, w.top + at, w.bottom + at, classes, padded);
    Vf largest = splat(-3.0e38f), smallest = splat(3.0e38f);
    for (int c = 0; c < classes; ++c)
        for (int corner = 0; corner < 4; ++corner) {
            const float* row = (corner < 2 ? w.top : w.bottom) + static_cast<size_t>(c) * padded;
            const Vf value = load(row + at + corner % 2);
            largest = value > largest ? value : largest;
            smallest = value < smallest ? value : smallest;
        }
    const bool clamp = any(largest - smallest > kExponentRange);
    for (int c = 0; c < classes; ++c) {
        float* p0 = w.corners + 4 * c * kLanes;
        store(p0, load(p0) - largest);
    }
    if (job.gradient) std::memset(w.moments, 0, sizeof(float) * classes * 4 * kLanes);

    const int y_end = job.rows.first[cell_row + 1];
    for (int phase = job.blocks.phase[block]; phase < job.blocks.phase[block + 1]; ++phase)
        for (int y = job.rows.first[cell_row]; y < y_end;) {
            const int left = y_end - y, rows = left > kRows / 2 ? kRows : kRows / 2, held = left < rows ? left : rows;
            if (rows == kRows)
                (clamp ? do_rows<kRows, true> : do_rows<kRows, false>)(job, w, image, block, phase, y, held, totals);
            else
                (clamp ? do_rows<kRows / 2, true>
                       : do_rows<kRows / 2, false>)(job, w, image, block, phase, y, held, totals);
            y += rows;
        }

    if (!job.gradient) return;
    for (int c = 0; c < classes; ++c) {
        const float* m = w.moments + 4 * c * kLanes;
        const Vf g = load(m), gx = load(m + kLanes), gy = load(m + 2 * kLanes), gxy = load(m + 3 * kLanes);
        float* top = w.grad_top + static_cast<size_t>(c) * padded + at;
        float* bottom = w.grad_bottom + static_cast<size_t>(c) * padded + at;
        store(top, load(top) + (g - gx - gy + gxy));
        store(top + 1, load(top + 1) + (gx - gxy));
        store(bottom, load(bottom) + (gy - gxy));
        store(bottom + 1, load(bottom + 1) + gxy);
    }
}

void write_gradient(float* to, const float* from, int classes, int width, int padded) {
    for (int x = 0; x < width; ++x)
        for (int c = 0; c < classes; ++c) to[static_cast<size_t>(x) * classes + c] = from[static_cast<size_t>(c) * padded + x];
}

void do_band(void* context, int64_t index, int worker) {
    const Job& job = *static_cast<const Job*>(context);
    const int classes = job.scores.classes, padded = job.blocks.padded;
    const int64_t bands = bands_of(job.rows.cells);
    const int image = static_cast<int>(index / bands);
    const int begin = static_cast<int>(index % bands) * kBand;
    const int end = begin + kBand < job.rows.cells ? begin + kBand : job.rows.cells;
    const size_t out_row = static_cast<size_t>(job.scores.width) * classes;
    Worker w(job.memory + worker * job.worker_floats, classes, job.row_floats);
    double loss = 0;
    Totals totals;
    if (job.gradient) std::memset(w.grad_top, 0, sizeof(float) * job.row_floats);
    job.scores.read_row(w.top, padded, image, begin);
    for (int cell_row = begin; cell_row < end; ++cell_row) {
        const int below = cell_row + 1 < job.rows.in ? cell_row + 1 : cell_row;
        job.scores.read_row(w.bottom, padded, image, below);
        if (job.gradient) std::memset(w.grad_bottom, 0, sizeof(float) * job.row_floats);
        for (int block = 0; block < job.blocks.count; ++block) {
            do_block(job, w, image, cell_row, block, totals);
            for (int lane = 0; lane < kLanes; ++lane) loss += totals.loss[lane];
            totals.loss = Vf{};
        }
        if (job.gradient)
            write_gradient(job.gradient + (static_cast<size_t>(image) * job.rows.in + cell_row) * out_row,
                           w.grad_top, classes, job.scores.width, padded);
        float* spare = w.top;
        w.top = w.bottom, w.bottom = spare;
        spare = w.grad_top;
        w.grad_top = w.grad_bottom, w.grad_bottom = spare;
    }
    if (job.gradient) write_gradient(job.carry + index * out_row, w.grad_top, classes, job.scores.width, padded);
    if (job.loss) {
        job.loss[index] = loss;
        job.valid[index] = totals.valid;
        job.refused[index] = totals.refused;
    }
}

// Sets up the grids and buffers of `job`, runs every band, and joins the bands' gradients in order.
int run(Job& job, int height, int width, int align_corners, int threads) {
    Scratch row_axis(Axis::bytes(job.scores.height, height)), column_axis(Axis::bytes(job.scores.width, width));
    if (!row_axis.memory || !column_axis.memory) return kNoMemory;
    job.rows.build(row_axis.memory, job.scores.height, height, align_corners);
    job.columns.build(column_axis.memory, job.scores.width, width, align_corners);
    Scratch block_memory(Blocks::bytes(job.columns));
    if (!block_memory.memory) return kNoMemory;
    job.blocks.build(block_memory.memory, job.columns);

    const int64_t bands = bands_of(job.rows.cells), tasks = job.scores.batch * bands;
    threads = threads < 1 ? 1 : threads > tasks ? static_cast<int>(tasks) : threads;
    job.row_floats = (static_cast<size_t>(job.scores.classes) * job.blocks.padded + 15) / 16 * 16;
    job.worker_floats = Worker::floats(job.scores.classes, job.row_floats);
    const size_t out_row = static_cast<size_t>(job.scores.width) * job.scores.classes;
    Scratch memory(sizeof(float) * threads * job.worker_floats);
    Scratch carry(job.gradient ? sizeof(float) * tasks * out_row : 0);
    if (!memory.memory || !carry.memory) return kNoMemory;
    std::memset(memory.memory, 0, sizeof(float) * threads * job.worker_floats);
    job.memory = memory.as<float>();
    job.carry = carry.as<float>();
    fastass::parallel_for(threads, tasks, do_band, &job);
    if (!job.gradient) return kOk;
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t image = task / bands;
        int64_t row = (task % bands + 1) * kBand;
        row = row < job.rows.cells ? row : job.rows.cells;
        float* to = job.gradient + (image * job.rows.in + row) * out_row;
        const float* from = job.carry + task * out_row;
        if (row == job.rows.in) continue;  // one row of scores: nothing below, and nothing was gathered
        if (row == job.rows.cells)
            std::memcpy(to, from, sizeof(float) * out_row);  // the last row has no cells of its own
        else
            for (size_t i = 0; i < out_row; ++i) to[i] += from[i];
    }
    return kOk;
}

bool sound(const Scores& scores, int height, int width) {
    return scores.batch >= 1 && scores.classes >= 1 && scores.classes <= 128 && scores.height >= 1 &&
           scores.width >= 1 && height >= 1 && width >= 1;
}

}  // namespace

// labels (uint8 [B][H][W]) may be null: P alone. P (the element type of the scores) and gradient (float
// [B][h][w][C]: of the sum of losses) may be null. loss and valid receive the sum over the counted pixels and
// their number.
FASTASS_ROUTINE(upsample_softmax_forward)
(const void* scores, int type, int64_t stride_b, int64_t stride_c, int64_t stride_h, int64_t stride_w,
 const uint8_t* labels, void* probabilities, int64_t p_stride_b, int64_t p_stride_c, int64_t p_stride_h,
 int64_t p_stride_w, float* gradient, double* loss, int64_t* valid, int batch, int classes, int in_height,
 int in_width, int height, int width, int align_corners, int ignore_index, int threads) {
    Job job = {};
    job.scores = {scores, static_cast<Element>(type), batch, classes, in_height, in_width,
                  stride_b, stride_c, stride_h, stride_w};
    if (!sound(job.scores, height, width) || (gradient && !labels)) return kBadArgument;
    job.labels = labels;
    for (int label = 0; label < 256; ++label)
        job.lookup[label] = static_cast<uint16_t>(label == ignore_index ? classes
                                                  : label < classes     ? label
                                                                        : classes + 256);
    job.probabilities = {probabilities, p_stride_b, p_stride_c, p_stride_h, p_stride_w};
    job.gradient = gradient;
    const int64_t tasks = static_cast<int64_t>(batch) * bands_of(in_height > 1 ? in_height - 1 : 1);
    Scratch totals(labels ? tasks * (sizeof(double) + sizeof(int64_t) + sizeof(int)) : 0);
    if (!totals.memory) return kNoMemory;
    if (labels) {
        std::memset(totals.memory, 0, tasks * (sizeof(double) + sizeof(int64_t) + sizeof(int)));
        job.loss = totals.as<double>();
        job.valid = reinterpret_cast<int64_t*>(job.loss + tasks);
        job.refused = reinterpret_cast<int*>(job.valid + tasks);
    }
    const int status = run(job, height, width, align_corners, threads);
    if (status != kOk || !labels) return status;
    *loss = 0, *valid = 0;
    int refused = 0;
    for (int64_t task = 0; task < tasks; ++task) {
        *loss += job.loss[task];
        *valid += job.valid[task];
        refused |= job.refused[task];
    }
    return refused ? kBadLabel : kOk;
}

// gradient (float [B][h][w][C]) receives the gradient with respect to the scores, given that of P.
FASTASS_ROUTINE(upsample_softmax_backward)
(const void* scores, int type, int64_t stride_b, int64_t stride_c, int64_t stride_h, int64_t stride_w,
 const void* incoming, int64_t p_stride_b, int64_t p_stride_c, int64_t p_stride_h, int64_t p_stride_w,
 float* gradient, int batch, int classes, int in_height, int in_width, int height, int width, int align_corners,
 int threads) {
    Job job = {};
    job.scores = {scores, static_cast<Element>(type), batch, classes, in_height, in_width,
                  stride_b, stride_c, stride_h, stride_w};
    if (!sound(job.scores, height, width) || !incoming || !gradient) return kBadArgument;
    job.probabilities = {const_cast<void*>(incoming), p_stride_b, p_stride_c, p_stride_h, p_stride_w};
    job.gradient = gradient;
    job.backward = true;
    return run(job, height, width, align_corners, threads);
}
