// The 4×4 convolution of stride 2 and padding 1, channels-last, float32, in Winograd's form: output, gradient of the
// input and gradient of the weight.
//
// Two neighbours of each dimension make a cell of 4C channels, so that it is a 2×2 convolution of stride 1 on cells:
// F(3×3, 2×2) takes 16 products of channels for 9 outputs instead of 36. A cell is two runs of 2C floats, which lie in
// two rows of the map: nothing is copied. The gradient of the input is the same with the roles of x and y exchanged.
//   output:  M[f] = V[f] U[f],   V = Bᵀ x B, U = G w Gᵀ, y = Aᵀ M A + bias
//   weight:  S[f] = Z[f]ᵀ V[f],  Z = A g Aᵀ, dw = Gᵀ S G
// A task is a chunk of tiles, whose V and M (or Z) never leave a cache. Tasks and the order of each sum follow from
// the shapes: the result does not depend on the number of threads.
#include "conv4x4_stride2_tiles.h"

namespace {

// U for kLanes outputs: of y [F][4C][O].
void output_weights(void* context, int64_t task, int) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t length = p.in.length(), channels = p.in.channels, o = task * kLanes;
    for (int64_t run = 0; run < 2; ++run)
        every_vector(length, [&](int64_t c) {
            Vf tap[4][kLanes];  // of kLanes inputs, each a vector of outputs
            for (int k = 0; k < 4; ++k) {
                const int64_t y = k / 2 * 2 + run, x = k % 2 * 2;
                for (int lane = 0; lane < kLanes; ++lane)
                    tap[k][lane] = load(p.weight + (((o + lane) * 4 + y) * 4 + x) * channels + c);
                transpose(tap[k]);
            }
            for (int lane = 0; lane < kLanes; ++lane) {
                Vf left[W::n], right[W::n], row[W::n], column[2];
                column[0] = tap[0][lane], column[1] = tap[2][lane];
                W::weight(column, left);
                column[0] = tap[1][lane], column[1] = tap[3][lane];
                W::weight(column, right);
                for (int i = 0; i < W::n; ++i) {
                    column[0] = left[i], column[1] = right[i];
                    W::weight(column, row);
                    for (int j = 0; j < W::n; ++j)
                        store(p.u + (i * W::n + j) * p.u_stride + (run * length + c + lane) * p.u_row + o, row[j]);
                }
            }
        });
}

// U for one row: of the input's gradient [F][O][4C], the taps turned round.
void input_weights(void* context, int64_t o, int) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t length = p.out.length(), channels = p.out.channels;
    for (int64_t run = 0; run < 2; ++run)
        every_vector(length, [&](int64_t c) {
            const float* from = p.weight + (o * 4 + run) * 4 * channels + c;
            Vf left[W::n], right[W::n], row[W::n], column[2];
            column[0] = load(from + 10 * channels), column[1] = load(from + 2 * channels);
            W::weight(column, left);
            column[0] = load(from + 8 * channels), column[1] = load(from);
            W::weight(column, right);
            for (int i = 0; i < W::n; ++i) {
                column[0] = left[i], column[1] = right[i];
                W::weight(column, row);
                for (int j = 0; j < W::n; ++j)
                    store(p.u + (i * W::n + j) * p.u_stride + o * p.u_row + run * length + c, row[j]);
            }
        });
}

inline Vf gated(Vf value, Vf gate, Vf slope) { return gate > Vf{} ? value : value * slope; }

// The outputs of `count` tiles from M [F][count][m_row].
void output_tiles(const Problem& p, int64_t first, int64_t count, const float* m, int64_t m_row, int64_t stride,
                  float* edge) {
    const Cells& out = p.out;
    const int64_t length = out.length();
    const Vf slope = splat(p.slope);
    for (int64_t t = 0; t < count; ++t) {
        const Tile tile = tile_of(p, first + t);
        for (int64_t run = 0; run < out.runs; ++run) {
            Place at[W::m][W::m];
            float* to[W::m][W::m];
            const float* gate[W::m][W::m];
            float* start = square(out, tile.image, tile.p, tile.q, run, W::m);
            for (int i = 0; i < W::m; ++i)
                for (int j = 0; j < W::m; ++j) {
                    if (start) {
                        to[i][j] = start + i * out.row() + j * length;
                        gate[i][j] = p.gate ? p.gate + (to[i][j] - out.data) : nullptr;
                        continue;
                    }
                    at[i][j] = place(out, tile.image, tile.p + i, tile.q + j, run);
                    const bool whole = at[i][j].inside == length;
                    to[i][j] = whole ? at[i][j].data : edge + (i * W::m + j) * length;
                    gate[i][j] = whole && p.gate ? p.gate + (to[i][j] - out.data) : nullptr;
                }
            for (int i = 0; i < W::m; ++i) prefetch_next<1>(to[i][0], length);
            every_vector(length, [&](int64_t c) {
                const Vf bias = p.bias ? load(p.bias + c) : Vf{};
                const float* from = m + t * m_row + run * length + c;
                Vf middle[W::m][W::n], column[W::n], row[W::m];
                for (int j = 0; j < W::n; ++j) {
                    for (int i = 0; i < W::n; ++i) column[i] = load(from + (i * W::n + j) * stride);
                    W::output(column, row);
                    for (int i = 0; i < W::m; ++i) middle[i][j] = row[i];
                }
                for (int i = 0; i < W::m; ++i) {
                    W::output(middle[i], row);
                    for (int j = 0; j < W::m; ++j) {
                        Vf value = row[j] + bias;
                        if (p.relu) value = gated(value, value, slope);
                        if (gate[i][j]) value = gated(value, load(gate[i][j] + c), slope);
                        store(to[i][j] + c, value);
                    }
                }
            });
            if (start) continue;
            for (int i = 0; i < W::m; ++i)
                for (int j = 0; j < W::m; ++j) {
                    const Place& where = at[i][j];
                    if (!where.data || where.inside == length) continue;
                    for (int64_t c = 0; c < where.inside; ++c) {
                        const float value = to[i][j][where.before + c];
                        const bool open = !p.gate || p.gate[where.data - out.data + c] > 0;
                        where.data[c] = open ? value : value * p.slope;
                    }
                }
        }
    }
}

inline int64_t outputs_row(const Cells& out) { return (out.size() + kLanes - 1) / kLanes * kLanes; }

void convolve_chunk(void* context, int64_t task, int worker) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t first = task * p.count / p.chunks, count = (task + 1) * p.count / p.chunks - first;
    const int64_t m_row = outputs_row(p.out), v_stride = apart(p.in.padded() * count), m_stride = apart(m_row * count);
    float* edge = reinterpret_cast<float*>(p.scratch + worker * p.scratch_stride);
    float* v = edge + kFrequencies * (p.in.length() + p.out.length());
    float* m = v + kFrequencies * v_stride;
    input_tiles(p, first, count, v, v_stride, edge);
    for (int f = 0; f < kFrequencies; ++f)
        for (int64_t n = 0; n < m_row; n += 2 * kLanes) {
            const float *a = v + f * v_stride, *b = p.u + f * p.u_stride + n;
            float* c = m + f * m_stride + n;
            const auto all = m_row - n > kLanes ? rows_of<2> : rows_of<1>;
            all(count, a, kLanes, 1, count * kLanes, b, p.u_row, kLanes, p.in.runs, p.in.length(), kLanes, c, m_row,
                false);
        }
    output_tiles(p, first, count, m, m_row, m_stride, edge);
}

// Z of `count` tiles: [F][count][O].
void gradient_tiles(const Problem& p, int64_t first, int64_t count, float* z, int64_t stride) {
    const int64_t outputs = p.out.channels;
    for (int64_t t = 0; t < count; ++t) {
        const Tile tile = tile_of(p, first + t);
        const float* from[W::m][W::m];
        for (int i = 0; i < W::m; ++i)
            for (int j = 0; j < W::m; ++j) from[i][j] = place(p.out, tile.image, tile.p + i, tile.q + j, 0).data;
        for (int64_t c = 0; c < outputs; c += kLanes) {
            Vf middle[W::n][W::m], column[W::m], row[W::n];
            for (int j = 0; j < W::m; ++j) {
                for (int i = 0; i < W::m; ++i) column[i] = from[i][j] ? load(from[i][j] + c) : Vf{};
                W::gradient(column, row);
                for (int i = 0; i < W::n; ++i) middle[i][j] = row[i];
            }
            for (int i = 0; i < W::n; ++i) {
                W::gradient(middle[i], row);
                for (int j = 0; j < W::n; ++j) store(z + (i * W::n + j) * stride + t * outputs + c, row[j]);
            }
        }
    }
}

// S of one group of tiles.
void weight_group(void* context, int64_t group, int worker) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t begin = group * p.count / p.groups, end = (group + 1) * p.count / p.groups;
    const int64_t most = p.chunks, chunks = (end - begin + most - 1) / most;  // here, `chunks` is a chunk's tiles
    const int64_t outputs = p.out.channels, inputs = p.in.padded();
    float* edge = reinterpret_cast<float*>(p.scratch + worker * p.scratch_stride);
    float* v = edge + kFrequencies * (p.in.length() + p.out.length());
    float* z = v + kFrequencies * apart(inputs * most);
    float* sums = p.sums + group * kFrequencies * outputs * inputs;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = begin + chunk * (end - begin) / chunks;
        const int64_t count = begin + (chunk + 1) * (end - begin) / chunks - first;
        const int64_t v_stride = apart(inputs * count), z_stride = apart(outputs * count);
        input_tiles(p, first, count, v, v_stride, edge);
        gradient_tiles(p, first, count, z, z_stride);
        for (int f = 0; f < kFrequencies; ++f)
            for (int64_t k = 0; k < inputs; k += 2 * kLanes) {
                const float *a = z + f * z_stride, *b = v + f * v_stride + k * count;
                float* c = sums + f * outputs * inputs + k;
                const auto all = inputs - k > kLanes ? rows_of<2> : rows_of<1>;
                all(outputs, a, 1, outputs, 0, b, kLanes, count * kLanes, 1, count, count, c, inputs, chunk > 0);
            }
    }
}

// The weight's gradient of one output from the groups' S.
void join_groups(void* context, int64_t o, int) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t outputs = p.out.channels, inputs = p.in.padded(), length = p.in.length();
    const int64_t frequency = outputs * inputs;
    for (int64_t run = 0; run < 2; ++run)
        every_vector(length, [&](int64_t c) {
            const float* from = p.sums + o * inputs + run * p.in.blocks() * kLanes + c;
            Vf left[W::n], right[W::n], column[W::n], taps[2];
            for (int i = 0; i < W::n; ++i) {
                for (int j = 0; j < W::n; ++j) {
                    const float* at = from + (i * W::n + j) * frequency;
                    column[j] = load(at);
                    for (int64_t group = 1; group < p.groups; ++group)
                        column[j] += load(at + group * kFrequencies * frequency);
                }
                W::weight_gradient(column, taps);
                left[i] = taps[0], right[i] = taps[1];
            }
            float* to = p.of_weight + (o * 4 + run) * 4 * p.in.channels + c;
            W::weight_gradient(left, taps);
            store(to, taps[0]), store(to + 8 * p.in.channels, taps[1]);
            W::weight_gradient(right, taps);
            store(to + 2 * p.in.channels, taps[0]), store(to + 10 * p.in.channels, taps[1]);
        });
}

bool fits(int64_t height, int64_t width, int64_t inputs, int64_t outputs) {
    return height > 1 && width > 1 && 2 * inputs >= kLanes && outputs >= kLanes && outputs % kLanes == 0;
}

Status convolve(Problem& p, int64_t images, int64_t height, int64_t width, int threads) {
    // height, width: of the map of y, in whose cells tiles are counted; the cells of x are one more.
    const int64_t more = p.turned ? 1 : 0;
    p.origin = -more;
    p.tiles_y = (height + more + W::m - 1) / W::m;
    p.tiles_x = (width + more + W::m - 1) / W::m;
    p.count = images * p.tiles_y * p.tiles_x;
    const int64_t m_row = outputs_row(p.out);
    int64_t most = kCached / (p.in.padded() + m_row);
    most = most < kRows ? kRows : most > kMostTiles ? kMostTiles : most;
    p.chunks = (p.count + most - 1) / most;
    p.chunks = (p.chunks + 3) / 4 * 4;  // as many for each thread
    p.chunks = p.chunks < p.count ? p.chunks : p.count;
    p.u_row = m_row + kLanes;
    p.u_stride = apart(p.in.size() * p.u_row);
    p.scratch_stride = 4 * kFrequencies * (p.in.length() + p.out.length() + apart(p.in.padded() * most) +
                                           apart(m_row * most));
    Scratch scratch(threads * p.scratch_stride), u(4 * kFrequencies * p.u_stride);
    if (!scratch.memory || !u.memory) return kNoMemory;
    p.scratch = scratch.as<char>();
    p.u = u.as<float>();
    // What pads the channels is multiplied with and thrown away, but must be numbers.
    if (m_row != p.out.size()) std::memset(p.u, 0, 4 * kFrequencies * p.u_stride);
    if (p.turned)
        fastass::parallel_for(threads, p.in.channels, input_weights, &p);
    else
        fastass::parallel_for(threads, p.out.channels / kLanes, output_weights, &p);
    fastass::parallel_for(threads, p.chunks, convolve_chunk, &p);
    return kOk;
}

}  // namespace

// x [B, H, W, C], weight [O, 4, 4, C], bias [O] or null → y [B, H/2, W/2, O], after a leaky ReLU of `slope` (1: none).
// 2C is at least 16; O is a multiple of 16.
FASTASS_ROUTINE(convolution4x4)
(const float* x, const float* weight, const float* bias, float* y, int64_t batch, int64_t height, int64_t width,
 int64_t inputs, int64_t outputs, float slope, int threads) {
    if (!fits(height, width, inputs, outputs)) return kBadArgument;
    Problem p{};
    p.in = {const_cast<float*>(x), height, width, inputs, 2};
    p.out = {y, height / 2, width / 2, outputs, 1};
    p.weight = weight;
    p.bias = bias;
    p.slope = slope;
    p.relu = slope != 1;
    return convolve(p, batch, height / 2, width / 2, threads);
}

// The gradient of y [B, H/2, W/2, O] → that of x [B, H, W, C]. gate, as x, or null: the output of a leaky ReLU of
// `slope`, of whose input the gradient is then.
FASTASS_ROUTINE(convolution4x4_input)
(const float* gradient, const float* weight, const float* gate, float* of_x, int64_t batch, int64_t height,
 int64_t width, int64_t inputs, int64_t outputs, float slope, int threads) {
    if (!fits(height, width, inputs, outputs)) return kBadArgument;
    Problem p{};
    p.in = {const_cast<float*>(gradient), height / 2, width / 2, outputs, 1};
    p.out = {of_x, height, width, inputs, 2};
    p.weight = weight;
    p.gate = gate;
    p.slope = slope;
    p.turned = true;
    return convolve(p, batch, height / 2, width / 2, threads);
}

// x [B, H, W, C], the gradient of y [B, H/2, W/2, O] → that of the weight [O, 4, 4, C].
FASTASS_ROUTINE(convolution4x4_weight)
(const float* x, const float* gradient, float* of_weight, int64_t batch, int64_t height, int64_t width,
 int64_t inputs, int64_t outputs, int threads) {
    if (!fits(height, width, inputs, outputs)) return kBadArgument;
    Problem p{};
    p.in = {const_cast<float*>(x), height, width, inputs, 2};
    p.out = {const_cast<float*>(gradient), height / 2, width / 2, outputs, 1};
    p.of_weight = of_weight;
    p.tiles_y = (height / 2 + W::m - 1) / W::m;
    p.tiles_x = (width / 2 + W::m - 1) / W::m;
    p.count = batch * p.tiles_y * p.tiles_x;
    const int64_t sums_bytes = 4 * kFrequencies * outputs * p.in.padded();
    const int64_t fitting = kGroupsBytes / sums_bytes, most_groups = fitting < 2 ? 2 : fitting > 8 ? 8 : fitting;
    p.groups = p.count / kGroupTiles;
    p.groups = p.groups < 1 ? 1 : p.groups > most_groups ? most_groups : p.groups;
    int64_t most = kCached / (p.in.padded() + outputs);
    most = most < kGroupTiles ? kGroupTiles : most > kMostTiles ? kMostTiles : most;  // S passes once a chunk
    p.chunks = most;
    const int64_t channels = p.in.length() + p.out.length() + apart(p.in.padded() * most) + apart(outputs * most);
    p.scratch_stride = 4 * kFrequencies * channels;
    Scratch scratch(threads * p.scratch_stride), sums(p.groups * sums_bytes);
    if (!scratch.memory || !sums.memory) return kNoMemory;
    p.scratch = scratch.as<char>();
    p.sums = sums.as<float>();
    fastass::parallel_for(threads, p.groups, weight_group, &p);
    fastass::parallel_for(threads, outputs, join_groups, &p);
    return kOk;
}
