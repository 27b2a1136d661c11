// All blocks of a world model for a few new positions in one call: what StepDecoder.extend does in some 45 torch operations a block.
// Built and called by fused.py; the same sums in the same order however many rows come together, so that a batch equals its singles.
//
// R rows = worlds x new positions, D width, H heads, d = D / H, M width of the feed-forward part, N positions that the cache has room for.
// A matrix of (out, in) lies in panels of PANEL outputs: (out / PANEL, in, PANEL) float32, or (out / PANEL, in / 4, PANEL, 4) int8.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, MOST_ROWS = 6;
#else
constexpr int LANES = 8, MOST_ROWS = 3;
#endif
constexpr int VECTORS = 4, PANEL = VECTORS * LANES;
constexpr float EPSILON = 1e-6f;

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

inline Lanes load(const float* from) {
    Lanes found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

inline void store(float* to, Lanes values) { std::memcpy(to, &values, sizeof values); }

inline float total(Lanes values) {
    typedef float Four __attribute__((vector_size(16)));
    Four sum = {}, part;
    for (int i = 0; i < LANES / 4; i++) {
        std::memcpy(&part, reinterpret_cast<const char*>(&values) + 16 * i, 16);
        sum += part;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Products of ROWS rows, `stride` apart, with one `other`, over the first `count` of `room` numbers and as many more as fill a vector: where
// the rows hold zeros there, the sums are the same to the bit however far they go.
template <int ROWS> inline void dots(const float* rows, int64_t stride, const float* other, int count, int room, float* out, int64_t apart) {
    Lanes sums[ROWS][2] = {};
    const int chunks = (count + LANES - 1) / LANES, whole = std::min(chunks, room / LANES);
    int i = 0;
    for (; i + 2 <= whole; i += 2) {
        const Lanes first = load(other + i * LANES), second = load(other + (i + 1) * LANES);
        for (int r = 0; r < ROWS; r++) {
            sums[r][0] += load(rows + r * stride + i * LANES) * first;
            sums[r][1] += load(rows + r * stride + (i + 1) * LANES) * second;
        }
    }
    for (; i < chunks; i++) {
        Lanes rest = {};
        std::memcpy(&rest, other + i * LANES, std::min(LANES, room - i * LANES) * sizeof(float));
        for (int r = 0; r < ROWS; r++) {
            Lanes part = {};
            std::memcpy(&part, rows + r * stride + i * LANES, std::min(LANES, room - i * LANES) * sizeof(float));
            sums[r][i % 2] += part * rest;
        }
    }
    for (int r = 0; r < ROWS; r++) out[r * apart] = total(sums[r][0] + sums[r][1]);
}

// e to the power of x, as far as float32 holds it: 2^n times a polynomial over half an octave to each side (Cephes, expf.c).
inline Lanes exponential(Lanes x) {
    x = x < -87.0f ? Lanes{} - 87.0f : x > 88.0f ? Lanes{} + 88.0f : x;
    const Lanes shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Lanes p = Lanes{} + 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = p * r + c;
    p = p * r * r + r + 1.0f;
    const Whole power = (__builtin_convertvector(n, Whole) + 127) << 23;
    Lanes scale;
    std::memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

// Applies f to whole vectors of `count` numbers; the last, where they do not fill it, is filled with zeros.
template <class F> inline void each(float* values, int count, F f) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) store(values + i, f(load(values + i)));
    if (i < count) {
        Lanes rest = {};
        std::memcpy(&rest, values + i, (count - i) * sizeof(float));
        rest = f(rest);
        std::memcpy(values + i, &rest, (count - i) * sizeof(float));
    }
}

// The sum of f over `count` numbers.
template <class F> inline float sum_of(const float* values, int count, F f) {
    Lanes sums = {};
    int i = 0;
    for (; i + LANES <= count; i += LANES) sums += f(load(values + i));
    float sum = total(sums);
    for (; i < count; i++) sum += f(Lanes{} + values[i])[0];
    return sum;
}

inline float largest_of(const float* values, int count) {
    Lanes most = Lanes{} - INFINITY;
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Lanes here = load(values + i);
        most = here > most ? here : most;
    }
    float found = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) found = std::max(found, most[lane]);
    for (; i < count; i++) found = std::max(found, values[i]);
    return found;
}

void norm(const float* x, float* out, int count) {
    const float mean = sum_of(x, count, [](Lanes v) { return v; }) / count;
    const float spread = sum_of(x, count, [=](Lanes v) { return (v - mean) * (v - mean); }) / count;
    const float scale = 1 / std::sqrt(spread + EPSILON);
    for (int i = 0; i < count; i++) out[i] = (x[i] - mean) * scale;
}

}  // namespace

extern "C" {

struct Matrix {
    const float* weights;
    const int8_t* rounded;  // null where the weights are float32
    const float* scales;    // of the rounded outputs
    const int32_t* sums;    // of the rounded weights of an output
    int64_t out, in;
};

struct Block {
    Matrix qkv, mix, gate_up, down;
};

struct Cache {
    float *raw_keys, *keys, *values;  // (B, H, N, d) twice, (B, H, d, N), of the first block
    int64_t a_block;                  // numbers from one block's to the next one's
    int64_t room, filled;
};

int worldgpt_panel() { return PANEL; }

int worldgpt_int8() {
#if defined(__AVX512VNNI__)
    return 1;
#else
    return 0;
#endif
}

}  // extern "C"

namespace {

template <int ROWS> void panel_of(const float* x, const float* panel, int in, Lanes (*sums)[VECTORS]) {
    for (int k = 0; k < in; k++) {
        Lanes w[VECTORS];
        for (int v = 0; v < VECTORS; v++) w[v] = load(panel + k * PANEL + v * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++) sums[r][v] += w[v] * x[r * in + k];
    }
}

// Some outputs, from `first` on: out (R, out) = x (R, in) times the matrix, or is added to.
template <int ROWS> void multiply_rows(const Matrix& matrix, int first, const float* x, float* out, bool adds) {
    Lanes sums[ROWS][VECTORS] = {};
    panel_of<ROWS>(x, matrix.weights + first * matrix.in, matrix.in, sums);
    const int count = std::min<int>(PANEL, matrix.out - first);
    for (int r = 0; r < ROWS; r++) {
        float found[PANEL], *to = out + r * matrix.out + first;
        std::memcpy(found, sums[r], sizeof found);
        for (int i = 0; i < count; i++) to[i] = adds ? to[i] + found[i] : found[i];
    }
}

#if defined(__AVX512VNNI__)
template <int ROWS>
void multiply_rounded(const Matrix& matrix, int first, const uint8_t* x, const float* scales, float* out, bool adds) {
    const int8_t* panel = matrix.rounded + first * matrix.in;
    __m512i sums[ROWS][VECTORS] = {};
    for (int k = 0; k < matrix.in; k += 4) {
        __m512i w[VECTORS];
        for (int v = 0; v < VECTORS; v++) w[v] = _mm512_loadu_si512(panel + k * PANEL + v * LANES * 4);
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            std::memcpy(&four, x + r * matrix.in + k, 4);
            const __m512i same = _mm512_set1_epi32(four);
            for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], same, w[v]);
        }
    }
    const int count = std::min<int>(PANEL, matrix.out - first);
    for (int r = 0; r < ROWS; r++) {
        int32_t found[PANEL];
        std::memcpy(found, sums[r], sizeof found);
        float* to = out + r * matrix.out + first;
        for (int i = 0; i < count; i++) {
            const float value = (found[i] - 128 * matrix.sums[first + i]) * (scales[r] * matrix.scales[first + i]);
            to[i] = adds ? to[i] + value : value;
        }
    }
}

// x (R, in) in 255 levels a row, 128 being 0.
void round_rows(const float* x, int rows, int in, std::vector<uint8_t>& rounded, std::vector<float>& scales) {
    static thread_local std::vector<float> magnitudes;
    rounded.resize(rows * in), scales.resize(rows);
    for (int r = 0; r < rows; r++) {
        magnitudes.resize(in);
        for (int i = 0; i < in; i++) magnitudes[i] = std::fabs(x[r * in + i]);
        const float largest = std::max(largest_of(magnitudes.data(), in), 1e-12f);
        scales[r] = largest / 127;
        for (int i = 0; i < in; i++) rounded[r * in + i] = static_cast<int>(x[r * in + i] * (127 / largest) + 128.5f);
    }
}
#endif

// Calls f with the number of rows, 1 to MOST_ROWS, as a constant.
template <int ROWS = MOST_ROWS, class F> inline void with_rows(int rows, F f) {
    if (rows == ROWS) return f(std::integral_constant<int, ROWS>());
    if constexpr (ROWS > 1) with_rows<ROWS - 1>(rows, f);
}

void multiply(const Matrix& matrix, const float* x, int rows, float* out, bool adds) {
    const int in = matrix.in;
#if defined(__AVX512VNNI__)
    static thread_local std::vector<uint8_t> rounded;
    static thread_local std::vector<float> scales;
    if (matrix.rounded) round_rows(x, rows, in, rounded, scales);
#endif
    for (int first = 0; first < matrix.out; first += PANEL)  // a panel stays near while all rows pass it
        for (int r = 0; r < rows; r += MOST_ROWS)
            with_rows(std::min(MOST_ROWS, rows - r), [&](auto some) {
                float* to = out + r * matrix.out;
#if defined(__AVX512VNNI__)
                if (matrix.rounded) return multiply_rounded<some>(matrix, first, rounded.data() + r * in, scales.data() + r, to, adds);
#endif
                multiply_rows<some>(matrix, first, x + r * in, to, adds);
            });
}

// Neighbouring numbers are a pair, turned as a complex number.
void turn(const float* x, const float* by, float* out, int count) {
    for (int i = 0; i < count; i += 2) {
        const float real = x[i] * by[i] - x[i + 1] * by[i + 1], imaginary = x[i] * by[i + 1] + x[i + 1] * by[i];
        out[i] = real, out[i + 1] = imaginary;
    }
}

// What ROWS queries (ROWS, d) find among keys (N, d) and values (d, N), of which each sees the first `sees`, the last one the most.
template <int ROWS>
void attend(const float* queries, const float* keys, const float* values, const int64_t* sees, int room, int d, float sharpness, float* shares, float* out,
            int64_t apart) {
    const int most = sees[ROWS - 1], end = std::min(room, (most + LANES - 1) / LANES * LANES);
    for (int j = 0; j < most; j++) dots<ROWS>(queries, d, keys + static_cast<int64_t>(j) * d, d, d, shares + j, room);
    float sums[ROWS];
    for (int r = 0; r < ROWS; r++) {
        float* row = shares + static_cast<int64_t>(r) * room;
        const int seen = sees[r];
        const float largest = sharpness * largest_of(row, seen);
        each(row, seen, [&](Lanes logits) { return exponential(sharpness * logits - largest); });
        sums[r] = sum_of(row, seen, [](Lanes v) { return v; });
        std::fill(row + seen, row + end, 0.0f);
    }
    for (int i = 0; i < d; i++) dots<ROWS>(shares, room, values + static_cast<int64_t>(i) * room, most, room, out + i, apart);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < d; i++) out[r * apart + i] /= sums[r];
}

}  // namespace

extern "C" {

// The first `filled` of keys (L, B, H, N, d), turned from `raw` to their new places by (W, filled, d) pairs, W being B or 1 for all.
void worldgpt_turn(const float* raw, const float* by, float* keys, int64_t layers, int64_t worlds, int64_t heads, int64_t room, int64_t d, int64_t filled,
                   int64_t turns) {
    for (int64_t plane = 0; plane < layers * worlds * heads; plane++) {
        const float* turned = by + (turns > 1 ? plane / heads % worlds : 0) * filled * d;
        for (int64_t i = 0; i < filled; i++) turn(raw + (plane * room + i) * d, turned + i * d, keys + (plane * room + i) * d, d);
    }
}

// x (R, D) is read and replaced by the hidden states; by (n, d) pairs of cosine and sine; sees (n,) positions that each new one sees.
void worldgpt_blocks(const Block* blocks, int64_t count, const Cache* cache, float* x, const float* by, const int64_t* sees, int64_t worlds, int64_t fresh,
                     int64_t heads, float sharpness) {
    const int rows = worlds * fresh, width = blocks[0].qkv.in, d = width / heads, middle = blocks[0].down.in;
    const int64_t room = cache->room;
    static thread_local std::vector<float> buffer;
    buffer.resize(static_cast<size_t>(rows) * (5 * width + 3 * middle) + MOST_ROWS * (room + d) + d);
    float *normed = buffer.data(), *qkv = normed + rows * width, *mixed = qkv + rows * 3 * width, *gate_up = mixed + rows * width;
    float *lit = gate_up + rows * 2 * middle, *shares = lit + rows * middle, *queries = shares + MOST_ROWS * room, *query = queries + MOST_ROWS * d;
    for (int64_t layer = 0; layer < count; layer++) {
        const Block& block = blocks[layer];
        float *raw_keys = cache->raw_keys + layer * cache->a_block, *keys = cache->keys + layer * cache->a_block;
        float* values = cache->values + layer * cache->a_block;
        for (int r = 0; r < rows; r++) norm(x + r * width, normed + r * width, width);
        multiply(block.qkv, normed, rows, qkv, false);
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < heads; h++) {
                const int64_t row = (r / fresh * heads + h) * room, place = cache->filled + r % fresh;
                const float *from = qkv + r * 3 * width + width + h * d, *value = from + width;
                float* raw = raw_keys + (row + place) * d;
                norm(from, raw, d);
                turn(raw, by + r % fresh * d, keys + (row + place) * d, d);
                for (int i = 0; i < d; i++) values[row * d + i * room + place] = value[i];
            }
        for (int r = 0; r < rows;) {
            const int some = std::min<int>(MOST_ROWS, fresh - r % fresh);  // of one world
            for (int h = 0; h < heads; h++) {
                const int64_t row = (r / fresh * heads + h) * room;
                for (int i = 0; i < some; i++) {
                    norm(qkv + (r + i) * 3 * width + h * d, query, d);
                    turn(query, by + (r + i) % fresh * d, queries + i * d, d);
                }
                with_rows(some, [&](auto constant) {
                    float* to = mixed + r * width + h * d;
                    attend<constant>(queries, keys + row * d, values + row * d, sees + r % fresh, room, d, sharpness, shares, to, width);
                });
            }
            r += some;
        }
        multiply(block.mix, mixed, rows, x, true);
        for (int r = 0; r < rows; r++) norm(x + r * width, normed + r * width, width);
        multiply(block.gate_up, normed, rows, gate_up, false);
        for (int r = 0; r < rows; r++) {
            const float *gate = gate_up + r * 2 * middle, *up = gate + middle;
            float* to = lit + r * middle;
            std::memcpy(to, gate, middle * sizeof(float));
            each(to, middle, [](Lanes g) { return g / (1.0f + exponential(-g)); });
            for (int i = 0; i < middle; i++) to[i] *= up[i];
        }
        multiply(block.down, lit, rows, x, true);
    }
    for (int r = 0; r < rows; r++) {
        norm(x + r * width, normed, width);
        std::memcpy(x + r * width, normed, width * sizeof(float));
    }
}

}  // extern "C"
