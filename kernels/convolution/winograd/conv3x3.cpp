// The stride-1 3×3 convolution with padding = dilation, channels-last, float32, in Winograd's form: output,
// gradient of the input (the same with the weight turned round) and gradient of the weight.
//
// A tile is m×m outputs and the (m+2)² inputs that they read, d pixels apart at dilation d. Both, and the weight,
// are transformed to F = (m+2)² frequencies, where the convolution is F independent matrix products:
//   output:  M[f] = V[f] U[f],   V = Bᵀ x B, U = G w Gᵀ, y = Aᵀ M A + bias          (Lavin & Gray 2016)
//   weight:  S[f] = Z[f]ᵀ V[f],  Z = A g Aᵀ, dw = Gᵀ S G                            (its adjoint)
// V and Z hold panels of kPanel channels, [F][panel][tile][kPanel]: contiguous for the products. They are made for
// a batch of tiles at a time, which bounds the scratch memory; U, M and S exist for one task alone. Narrow layers are
// bound by memory otherwise: there U is made once, V and Z for one task alone, and S is that of all channels.
// Tasks and the order of each sum follow from the shapes: the result does not depend on the number of threads.
#include "conv3x3_tiles.h"

namespace {

// y of `count` tiles from `first` on, in the channels of one panel. v: their inputs, `v_count` tiles from one panel of
// channels to the next; m [F][kChunk][kPanel]: scratch.
template <typename W>
void output_chunk(const Problem& p, int64_t panel, int64_t first, int64_t count, const float* v, int64_t v_stride,
                  int64_t v_count, const float* u, float* m) {
    const int64_t inputs = p.in.channels, u_stride = frequency_stride(inputs);
    constexpr int64_t m_stride = frequency_stride(kChunk);
    for (int f = 0; f < W::n * W::n; ++f)
        for (int64_t c = 0; c < inputs; c += kDepth) {
            const int64_t depth = inputs - c < kDepth ? inputs - c : kDepth;
            for (int64_t t = 0; t < count; t += kRows) {
                const int64_t rows = count - t < kRows ? count - t : kRows;
                product_of<kRows>(rows, v + f * v_stride + (c / kPanel * v_count + t) * kPanel, kPanel, 1,
                                  v_count * kPanel, u + f * u_stride + c * kPanel, depth / kPanel, kPanel,
                                  m + f * m_stride + t * kPanel, c > 0);
            }
        }
    const int64_t height = p.in.height, width = p.in.width;
    for (int64_t o = 0; o < kPanel; o += kLanes) {
        const int64_t channel = panel * kPanel + o;
        const Vf bias = p.bias ? load(p.bias + channel) : Vf{};
        for (int64_t t = 0; t < count; ++t) {
            Vf middle[W::m][W::n], column[W::n], row[W::m];
            for (int j = 0; j < W::n; ++j) {
                for (int i = 0; i < W::n; ++i) column[i] = load(m + (i * W::n + j) * m_stride + t * kPanel + o);
                W::output(column, row);
                for (int i = 0; i < W::m; ++i) middle[i][j] = row[i];
            }
            const Tile& tile = p.tiles[first + t];
            for (int i = 0; i < W::m; ++i) {
                const int64_t y = tile.y + i * p.dilation;
                if (y >= height) break;
                W::output(middle[i], row);
                for (int j = 0; j < W::m; ++j) {
                    const int64_t x = tile.x + j * p.dilation;
                    if (x < width)
                        store(p.out + ((tile.image * height + y) * width + x) * p.outputs + channel, row[j] + bias);
                }
            }
        }
    }
}

// Task: one panel of outputs for one of `groups` parts of the tiles.
template <typename W>
void output_panel(void* context, int64_t task, int worker) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t panel = task / p.groups, begin = task % p.groups * p.count / p.groups;
    const int64_t end = (task % p.groups + 1) * p.count / p.groups, chunks = (end - begin + kChunk - 1) / kChunk;
    float* u = reinterpret_cast<float*>(p.scratch + worker * p.scratch_stride);
    transform_weight<W>(p, panel, u);
    for (int64_t i = 0; i < chunks; ++i) {
        const int64_t first = begin + i * (end - begin) / chunks, last = begin + (i + 1) * (end - begin) / chunks;
        output_chunk<W>(p, panel, first, last - first, p.v + first * kPanel, p.stride_in, p.count, u,
                        u + W::n * W::n * frequency_stride(p.in.channels));
    }
}

// For narrow layers, whose transformed weight fits a cache as a whole: a task is all channels of a chunk of tiles,
// whose V and M never leave the cache.
template <typename W>
void weight_panel(void* context, int64_t panel, int) {
    const Problem& p = *static_cast<const Problem*>(context);
    transform_weight<W>(p, panel, p.u + panel * W::n * W::n * frequency_stride(p.in.channels));
}

template <typename W>
void output_tiles(void* context, int64_t task, int worker) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t first = task * p.count / p.groups, count = (task + 1) * p.count / p.groups - first;
    const int64_t stride = frequency_stride(p.panels_in * count), frequencies = W::n * W::n;
    float* v = reinterpret_cast<float*>(p.scratch + worker * p.scratch_stride);
    float* m = v + frequencies * frequency_stride(p.panels_in * kNarrowChunk);
    input_tiles<W>(p, first, first + count, v, stride, count);
    for (int64_t panel = 0; panel < p.panels_out; ++panel)
        output_chunk<W>(p, panel, first, count, v, stride, count,
                        p.u + panel * frequencies * frequency_stride(p.in.channels), m);
}

constexpr int64_t kSumsStride = frequency_stride(kPanel);  // of S, [F][outputs][inputs] of one panel each

// S (+)= Zᵀ V of one frequency and one panel of each, over `depth` tiles.
inline void weight_product(const float* z, const float* v, int64_t depth, float* s, bool add) {
    for (int64_t o = 0; o < kPanel; o += kRows) {
        const int64_t rows = kPanel - o < kRows ? kPanel - o : kRows;
        product_of<kRows>(rows, z + o, 1, kPanel, 0, v, 1, depth, s + o * kPanel, add);
    }
}

// The gradient of one panel of outputs × one panel of inputs from S, to the sums of a group.
void weight_output(const Problem& p, int64_t group, int64_t panel_out, int64_t panel_in, const float* s) {
    using W = WeightTile;
    for (int64_t o = 0; o < kPanel; ++o)
        for (int64_t i = 0; i < kPanel; i += kLanes) {
            Vf middle[3][W::n], column[W::n], row[3];
            for (int x = 0; x < W::n; ++x) {
                for (int y = 0; y < W::n; ++y) column[y] = load(s + (y * W::n + x) * kSumsStride + o * kPanel + i);
                W::weight_gradient(column, row);
                for (int y = 0; y < 3; ++y) middle[y][x] = row[y];
            }
            const int64_t output = group * p.outputs + panel_out * kPanel + o;
            float* to = p.sums + 9 * output * p.in.channels + panel_in * kPanel + i;
            for (int y = 0; y < 3; ++y) {
                W::weight_gradient(middle[y], row);
                for (int x = 0; x < 3; ++x) {
                    float* at = to + (3 * y + x) * p.in.channels;
                    store(at, p.add ? load(at) + row[x] : row[x]);
                }
            }
        }
}

// One panel of outputs × one panel of inputs of the weight's gradient, from one of `groups` parts of the tiles.
void weight_block(void* context, int64_t task, int worker) {
    using W = WeightTile;
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t group = task % p.groups, panel_out = task / p.groups / p.panels_in;
    const int64_t panel_in = task / p.groups % p.panels_in;
    const int64_t begin = group * p.count / p.groups, end = (group + 1) * p.count / p.groups;
    float* s = reinterpret_cast<float*>(p.scratch + worker * p.scratch_stride);
    for (int f = 0; f < W::n * W::n; ++f)
        for (int64_t t = begin; t < end; t += kDepth)
            weight_product(p.z + f * p.stride_out + (panel_out * p.count + t) * kPanel,
                           p.v + f * p.stride_in + (panel_in * p.count + t) * kPanel,
                           end - t < kDepth ? end - t : kDepth, s + f * kSumsStride, t > begin);
    weight_output(p, group, panel_out, panel_in, s);
}

// For narrow layers: a task is all channels of a group of tiles. V and Z of a few tiles and S stay in a cache.
void weight_group(void* context, int64_t group, int worker) {
    using W = WeightTile;
    constexpr int64_t frequencies = W::n * W::n;
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t begin = group * p.count / p.groups, end = (group + 1) * p.count / p.groups;
    const int64_t chunks = (end - begin + kDepth - 1) / kDepth, blocks = p.panels_out * p.panels_in;
    float* v = reinterpret_cast<float*>(p.scratch + worker * p.scratch_stride);
    float* z = v + frequencies * frequency_stride(p.panels_in * kDepth);
    float* s = z + frequencies * frequency_stride(p.panels_out * kDepth);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = begin + chunk * (end - begin) / chunks;
        const int64_t last = begin + (chunk + 1) * (end - begin) / chunks, count = last - first;
        const int64_t v_stride = frequency_stride(p.panels_in * count);
        const int64_t z_stride = frequency_stride(p.panels_out * count);
        input_tiles<W>(p, first, last, v, v_stride, count);
        gradient_tiles(p, first, last, z, z_stride, count);
        for (int64_t block = 0; block < blocks; ++block)
            for (int f = 0; f < frequencies; ++f)
                weight_product(z + f * z_stride + block / p.panels_in * count * kPanel,
                               v + f * v_stride + block % p.panels_in * count * kPanel, count,
                               s + (block * frequencies + f) * kSumsStride, chunk > 0);
    }
    for (int64_t block = 0; block < blocks; ++block)
        weight_output(p, group, block / p.panels_in, block % p.panels_in, s + block * frequencies * kSumsStride);
}

// The weight's gradient of one output from those of the groups.
void add_groups(void* context, int64_t output, int) {
    const Problem& p = *static_cast<const Problem*>(context);
    const int64_t size = 9 * p.in.channels;
    for (int64_t i = 0; i < size; i += kLanes) {
        Vf sum = load(p.sums + output * size + i);
        for (int64_t group = 1; group < p.groups; ++group)
            sum += load(p.sums + (group * p.outputs + output) * size + i);
        store(p.out + output * size + i, sum);
    }
}

// All tiles of a map: those of one phase of the dilation's grid after those of another.
template <typename W>
int64_t list_tiles(int64_t batch, int64_t height, int64_t width, int64_t d, Tile* tiles) {
    int64_t count = 0;
    for (int64_t image = 0; image < batch; ++image)
        for (int64_t py = 0; py < d && py < height; ++py)
            for (int64_t px = 0; px < d && px < width; ++px)
                for (int64_t y = py; y < height; y += W::m * d)
                    for (int64_t x = px; x < width; x += W::m * d, ++count)
                        if (tiles) tiles[count] = {image, y, x};
    return count;
}

template <typename W>
Status run(Problem& p, int64_t images, int threads) {
    const bool of_weight = p.gradient.data;
    const int64_t inputs = p.in.channels, outputs = p.outputs, frequencies = W::n * W::n;
    p.panels_in = inputs / kPanel;
    p.panels_out = outputs / kPanel;
    const int64_t widest = inputs > outputs ? inputs : outputs;
    const int64_t total = list_tiles<W>(images, p.in.height, p.in.width, p.dilation, nullptr);
    const int64_t fitting = kBatchBytes / (4 * frequencies * (of_weight ? widest : inputs));
    const int64_t limit = fitting > kChunk ? fitting : kChunk, batches = (total + limit - 1) / limit;
    const int64_t smallest = total / batches, largest = (total + batches - 1) / batches;
    const int64_t wanted = kTasks / (of_weight ? p.panels_in * p.panels_out : p.panels_out);
    const int64_t possible = smallest / (of_weight ? 2 * kDepth : kChunk);
    p.groups = wanted < possible ? wanted : possible;
    p.groups = p.groups > 1 ? p.groups : 1;
    const int64_t own = of_weight ? kSumsStride : frequency_stride(inputs) + frequency_stride(kChunk);
    p.scratch_stride = 4 * frequencies * own;

    Scratch tiles(total * sizeof(Tile)), zeros(4 * widest), scratch(threads * p.scratch_stride);
    Scratch v(4 * frequencies * frequency_stride(p.panels_in * largest));
    Scratch z(of_weight ? 4 * frequencies * frequency_stride(p.panels_out * largest) : 0);
    Scratch sums(of_weight && p.groups > 1 ? 4 * p.groups * outputs * 9 * inputs : 0);
    if (!tiles.memory || !zeros.memory || !scratch.memory || !v.memory || !z.memory || !sums.memory)
        return kNoMemory;
    list_tiles<W>(images, p.in.height, p.in.width, p.dilation, tiles.as<Tile>());
    std::memset(zeros.memory, 0, 4 * widest);
    p.v = v.as<float>();
    p.z = z.as<float>();
    p.sums = p.groups > 1 ? sums.as<float>() : p.out;
    p.zeros = zeros.as<float>();
    p.scratch = scratch.as<char>();

    for (int64_t b = 0; b < batches; ++b) {
        const int64_t first = b * total / batches;
        p.tiles = tiles.as<Tile>() + first;
        p.count = (b + 1) * total / batches - first;
        p.stride_in = frequency_stride(p.panels_in * p.count);
        p.stride_out = frequency_stride(p.panels_out * p.count);
        p.add = b > 0;
        const int64_t strips = (p.count + kStrip - 1) / kStrip;
        fastass::parallel_for(threads, strips, transform_input<W>, &p);
        if (of_weight) {
            fastass::parallel_for(threads, strips, transform_gradient, &p);
            fastass::parallel_for(threads, p.panels_out * p.panels_in * p.groups, weight_block, &p);
        } else {
            fastass::parallel_for(threads, p.panels_out * p.groups, output_panel<W>, &p);
        }
    }
    if (of_weight && p.groups > 1) fastass::parallel_for(threads, outputs, add_groups, &p);
    return kOk;
}

template <typename W>
Status run_narrow(Problem& p, int64_t images, int threads) {
    const int64_t inputs = p.in.channels, frequencies = W::n * W::n;
    p.panels_in = inputs / kPanel;
    p.panels_out = p.outputs / kPanel;
    p.count = list_tiles<W>(images, p.in.height, p.in.width, p.dilation, nullptr);
    p.groups = (p.count + kNarrowChunk - 1) / kNarrowChunk;
    p.scratch_stride = 4 * frequencies * (frequency_stride(p.panels_in * kNarrowChunk) + frequency_stride(kChunk));
    Scratch tiles(p.count * sizeof(Tile)), zeros(4 * inputs), scratch(threads * p.scratch_stride);
    Scratch u(4 * p.panels_out * frequencies * frequency_stride(inputs));
    if (!tiles.memory || !zeros.memory || !scratch.memory || !u.memory) return kNoMemory;
    list_tiles<W>(images, p.in.height, p.in.width, p.dilation, tiles.as<Tile>());
    std::memset(zeros.memory, 0, 4 * inputs);
    p.tiles = tiles.as<Tile>();
    p.zeros = zeros.as<float>();
    p.scratch = scratch.as<char>();
    p.u = u.as<float>();
    fastass::parallel_for(threads, p.panels_out, weight_panel<W>, &p);
    fastass::parallel_for(threads, p.groups, output_tiles<W>, &p);
    return kOk;
}

Status run_narrow_weight(Problem& p, int64_t images, int threads) {
    using W = WeightTile;
    const int64_t inputs = p.in.channels, outputs = p.outputs, widest = inputs > outputs ? inputs : outputs;
    p.panels_in = inputs / kPanel;
    p.panels_out = outputs / kPanel;
    p.count = list_tiles<W>(images, p.in.height, p.in.width, p.dilation, nullptr);
    p.groups = p.count / kGroup < kTasks ? p.count / kGroup : kTasks;
    p.groups = p.groups > 1 ? p.groups : 1;
    const int64_t tile_stride = frequency_stride(p.panels_in * kDepth) + frequency_stride(p.panels_out * kDepth);
    p.scratch_stride = 4 * W::n * W::n * (tile_stride + p.panels_out * p.panels_in * kSumsStride);
    Scratch tiles(p.count * sizeof(Tile)), zeros(4 * widest), scratch(threads * p.scratch_stride);
    Scratch sums(p.groups > 1 ? 4 * p.groups * outputs * 9 * inputs : 0);
    if (!tiles.memory || !zeros.memory || !scratch.memory || !sums.memory) return kNoMemory;
    list_tiles<W>(images, p.in.height, p.in.width, p.dilation, tiles.as<Tile>());
    std::memset(zeros.memory, 0, 4 * widest);
    p.tiles = tiles.as<Tile>();
    p.sums = p.groups > 1 ? sums.as<float>() : p.out;
    p.zeros = zeros.as<float>();
    p.scratch = scratch.as<char>();
    fastass::parallel_for(threads, p.groups, weight_group, &p);
    if (p.groups > 1) fastass::parallel_for(threads, outputs, add_groups, &p);
    return kOk;
}

bool fits(const Problem& p) { return p.in.channels % kPanel == 0 && p.outputs % kPanel == 0; }

// Whether all of U, or S, fits a cache.
template <typename W>
bool narrow(const Problem& p) {
    return 4 * W::n * W::n * p.in.channels * p.outputs <= kNarrowBytes;
}

template <typename W>
Status convolve(Problem& p, int64_t images, int threads) {
    return narrow<W>(p) ? run_narrow<W>(p, images, threads) : run<W>(p, images, threads);
}

}  // namespace

// x [B, H, W, I], weight [O, 3, 3, I], bias [O] or null → out [B, H, W, O]. I and O are multiples of 32, tile (m)
// is 2 or 4. `turned`: weight is [I, 3, 3, O], with which an output's gradient x becomes the input's.
FASTASS_ROUTINE(convolution3x3)
(const float* x, const float* weight, const float* bias, float* out, int64_t batch, int64_t height, int64_t width,
 int64_t inputs, int64_t outputs, int64_t dilation, int turned, int tile, int threads) {
    Problem p{};
    p.in = {x, height, width, inputs};
    p.weight = weight;
    p.bias = bias;
    p.out = out;
    p.outputs = outputs;
    p.dilation = dilation;
    p.turned = turned;
    if (!fits(p) || (tile != 2 && tile != 4)) return kBadArgument;
    return tile == 2 ? convolve<Winograd2>(p, batch, threads) : convolve<Winograd4>(p, batch, threads);
}

// x [B, H, W, I], the output's gradient [B, H, W, O] → out [O, 3, 3, I], the weight's gradient.
FASTASS_ROUTINE(convolution3x3_weight)
(const float* x, const float* gradient, float* out, int64_t batch, int64_t height, int64_t width, int64_t inputs,
 int64_t outputs, int64_t dilation, int threads) {
    Problem p{};
    p.in = {x, height, width, inputs};
    p.gradient = {gradient, height, width, outputs};
    p.out = out;
    p.outputs = outputs;
    p.dilation = dilation;
    if (!fits(p)) return kBadArgument;
    return narrow<WeightTile>(p) ? run_narrow_weight(p, batch, threads) : run<WeightTile>(p, batch, threads);
}
