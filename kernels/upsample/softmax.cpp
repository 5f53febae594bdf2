// Softmax of bilinearly upsampled scores, its cross-entropy against labels, and gradients:
// kernels/upsample/cross_entropy.py and kernels/upsample/softmax.py hold the contracts.
//
// One cell row of one image is done block by block (upsample.h), a column of pixels of each cell at a time. The
// scores are taken less the largest corner of the cell, so that a pixel's exponentials need no maximum: one
// multiply-add and one e^x each. The gradient with respect to the corners is gathered as moments: the adjoint of
// value = p0 + tx p1 + ty (p2 + tx p3) sums g, tx g, ty g and tx ty g.
#include "softmax_pixels.h"

namespace {

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
    if (job.winners) write_winners(job, w, image, px, totals);
    if (!job.labels) return;
    if (job.full) read_full(job, image, px);
    add_losses(job, w, image, px, totals);
    if (!job.gradient) return;
    for (int i = 0; i < R; ++i) {
        weight[i] = px.label[i] < classes ? px.inverse[i] : Vf{};
        if (job.full) weight[i] *= px.full[i] ? splat(1.0f) : splat(job.scale[image]);
    }
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
        job.refused[index] = totals.refused;
    }
    if (job.valid) job.valid[index] = totals.valid;
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
// [B][h][w][C]: of the sum of losses) may be null. full (bool [B][H][W]) and scale (float [B]) may be null: every
// pixel has weight 1; else `full` ones have weight 1 and the others their image's scale. loss and valid receive
// the weighted sum over the counted pixels and their number.
FASTASS_ROUTINE(upsample_softmax_forward)
(const void* scores, int type, int64_t stride_b, int64_t stride_c, int64_t stride_h, int64_t stride_w,
 const uint8_t* labels, const uint8_t* full, const float* scale, void* probabilities, int64_t p_stride_b,
 int64_t p_stride_c, int64_t p_stride_h, int64_t p_stride_w, float* gradient, double* loss, int64_t* valid, int batch,
 int classes, int in_height, int in_width, int height, int width, int align_corners, int ignore_index, int threads) {
    Job job = {};
    job.scores = {scores, static_cast<Element>(type), batch, classes, in_height, in_width,
                  stride_b, stride_c, stride_h, stride_w};
    if (!sound(job.scores, height, width) || (gradient && !labels)) return kBadArgument;
    if ((full != nullptr) != (scale != nullptr) || (full && !labels)) return kBadArgument;
    job.labels = labels;
    job.full = full;
    job.scale = scale;
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

// winners (uint8 [B][H][W]) receives the class of the largest upsampled score of each pixel, the first of equals;
// confident (int64 [B]) the number of pixels of each image with P of that class above `threshold`.
FASTASS_ROUTINE(upsample_pseudo_labels)
(const void* scores, int type, int64_t stride_b, int64_t stride_c, int64_t stride_h, int64_t stride_w,
 uint8_t* winners, int64_t* confident, float threshold, int batch, int classes, int in_height, int in_width,
 int height, int width, int align_corners, int threads) {
    Job job = {};
    job.scores = {scores, static_cast<Element>(type), batch, classes, in_height, in_width,
                  stride_b, stride_c, stride_h, stride_w};
    if (!sound(job.scores, height, width) || !winners || !confident) return kBadArgument;
    job.winners = winners;
    job.threshold = threshold;
    const int64_t bands = bands_of(in_height > 1 ? in_height - 1 : 1), tasks = batch * bands;
    Scratch counts(tasks * sizeof(int64_t));
    if (!counts.memory) return kNoMemory;
    job.valid = counts.as<int64_t>();
    const int status = run(job, height, width, align_corners, threads);
    if (status != kOk) return status;
    for (int image = 0; image < batch; ++image) {
        confident[image] = 0;
        for (int64_t band = 0; band < bands; ++band) confident[image] += job.valid[image * bands + band];
    }
    return kOk;
}
