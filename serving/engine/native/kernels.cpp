// One pass over a tile of tokens: what follows a frozen linear, what precedes the next one, and the
// operators of every sample's own adapter on both sides. Knows the normal form's operators as small
// programs (../program.py writes them), and neither torch, nor methods, nor tasks.
//
// Built twice, for AVX512 with bfloat16 products and for AVX2; the same source, other flags.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <type_traits>
#include <vector>
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
#endif

namespace {

constexpr int LANES = 16;  // numbers in a vector
constexpr int TILE = 16;   // tokens in a tile

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint8_t vb __attribute__((vector_size(16)));
typedef uint16_t vh __attribute__((vector_size(32)));

// Programs. Offsets count bytes of the adapter's row; places count numbers of a tile's row.
enum Kind : int32_t { CODE = 0, MIX = 1, UP = 2, SCALE = 3, SHIFT = 4, BOTH = 5 };

struct Instruction {
    int32_t kind;
    int32_t reps;              // blocks that are done alike
    int32_t k;                 // inner length; of MIX, blocks that are added up
    int32_t n;                 // outputs; of CODE and MIX, a multiple of LANES
    int32_t src, src_step;     // where a block is read
    int32_t dst, dst_step;     // where it is written
    int32_t offset;            // of its factor
    int32_t add;               // 1: to what is there
    union {
        int32_t from_code;     // CODE reads codes, not tokens
        int32_t added_to;      // MIX: another will add to it
    };
    union {
        int32_t terms;         // UP: offset + 1 of scales and shifts of its outputs, or 0
        int32_t paired;        // CODE: for MIX
    };
};

struct Program {
    int32_t count;
    int32_t width;  // numbers in a token's codes
    int32_t keep;   // of these, the first so many go to the target's other side
    int32_t unused;
    Instruction instructions[1];
};

inline vf splat(float x) { return vf{} + x; }

// ---- elements: floats, or the upper halves of floats

inline vf widen(vh x) { return (vf)(__builtin_convertvector(x, vu) << 16); }

inline vh narrow(vf x) {
#if WIDE
    __m256bh half = _mm512_cvtneps_pbh((__m512)x);
    vh out;
    std::memcpy(&out, &half, 32);
    return out;
#else
    vu bits = (vu)x;
    vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vu nan = (vu)(x != x);
    rounded = (rounded & ~nan) | (0x7fc0 & nan);
    return __builtin_convertvector(rounded, vh);
#endif
}

inline vf load(const float* p) { vf x; std::memcpy(&x, p, 64); return x; }
inline vf load(const uint16_t* p) { vh x; std::memcpy(&x, p, 32); return widen(x); }
inline void store(float* p, vf x) { std::memcpy(p, &x, 64); }
inline void store(uint16_t* p, vf x) { vh y = narrow(x); std::memcpy(p, &y, 32); }

#if WIDE
inline __mmask16 first(int n) { return (__mmask16)((1u << n) - 1); }
inline vf load_some(const float* p, int n) { return (vf)_mm512_maskz_loadu_ps(first(n), p); }
inline vf load_some(const uint16_t* p, int n) {
    __m256i half = _mm256_maskz_loadu_epi16(first(n), p);
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
}
inline void store_some(float* p, vf x, int n) { _mm512_mask_storeu_ps(p, first(n), (__m512)x); }
inline void store_some(uint16_t* p, vf x, int n) {
    _mm256_mask_storeu_epi16(p, first(n), (__m256i)_mm512_cvtneps_pbh((__m512)x));
}
#else
template <class E> inline vf load_some(const E* p, int n) {
    alignas(64) E all[LANES] = {};
    std::memcpy(all, p, n * sizeof(E));
    return load(all);
}
template <class E> inline void store_some(E* p, vf x, int n) {
    alignas(64) E all[LANES];
    store(all, x);
    std::memcpy(p, all, n * sizeof(E));
}
#endif

// ---- products: acc[m][v] += tokens[m] · factor[v]; factors are packed by ../program.py, lanes
// innermost, and for bfloat16 two inner steps side by side, as one instruction eats them

template <class E> constexpr int STEP = std::is_same_v<E, float> ? 1 : 2;

inline vf product(vf acc, const float* token, const float* factor) {
    return acc + splat(*token) * load(factor);
}

inline vf product(vf acc, const uint16_t* token, const uint16_t* factor) {
    int32_t pair;
    std::memcpy(&pair, token, 4);
#if WIDE
    __m512i f = _mm512_loadu_si512(factor);
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)f);
#else
    vi f, t = vi{} + pair;
    std::memcpy(&f, factor, 64);
    acc += (vf)(t << 16) * (vf)(f << 16);
    return acc + (vf)(t & (int32_t)0xffff0000) * (vf)(f & (int32_t)0xffff0000);
#endif
}

// Two steps of sixteen sums: acc[lane] += a[lane, 0] · b[lane, 0] + a[lane, 1] · b[lane, 1].
inline vf pairs(vf acc, const uint16_t* a, const uint16_t* b) {
#if WIDE
    __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, (__m512bh)y);
#else
    vi x, y;
    std::memcpy(&x, a, 64);
    std::memcpy(&y, b, 64);
    acc += (vf)(x << 16) * (vf)(y << 16);
    return acc + (vf)(x & (int32_t)0xffff0000) * (vf)(y & (int32_t)0xffff0000);
#endif
}

inline void store_pairs(uint16_t* p, vf a, vf b) {
    vu x = __builtin_convertvector(narrow(a), vu) | (__builtin_convertvector(narrow(b), vu) << 16);
    std::memcpy(p, &x, 64);
}

template <int M, int V, class E>
inline void multiply(vf (&acc)[M][V], const E* tokens, int64_t stride, const E* factor, int k) {
    const int64_t panel = (int64_t)k * LANES;
    for (int i = 0; i < k; i += STEP<E>) {
#pragma GCC unroll 16
        for (int m = 0; m < M; m++)
#pragma GCC unroll 3
            for (int v = 0; v < V; v++)
                acc[m][v] = product(acc[m][v], tokens + m * stride + i, factor + v * panel + i * LANES);
    }
}

// Rows of tokens by columns of outputs, in blocks that fit the registers.
template <int M, int V, class E, class From, class To>
inline void block(const E* tokens, int64_t stride, const E* factor, int k, From from, To to) {
    vf acc[M][V];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 3
        for (int v = 0; v < V; v++) acc[m][v] = from(m, v);
    multiply<M, V>(acc, tokens, stride, factor, k);
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 3
        for (int v = 0; v < V; v++) to(m, v, acc[m][v]);
}

// The last few rows at once: rows apart would each wait for their own products.
template <class Go> inline void rest(int rows, Go&& go) {
    switch (rows) {
        case 1: go.template operator()<1>(); break;
        case 2: go.template operator()<2>(); break;
        case 3: go.template operator()<3>(); break;
        case 4: go.template operator()<4>(); break;
        case 5: go.template operator()<5>(); break;
        case 6: go.template operator()<6>(); break;
        case 7: go.template operator()<7>(); break;
    }
}

template <int V, int MOST, class E, class From, class To>
inline void panel(int rows, int j, const E* tokens, int64_t stride, const E* factor, int k, From from,
                  To to) {
    int m = 0;
    auto go = [&]<int M>() {
        block<M, V>(tokens + m * stride, stride, factor + (int64_t)j * k * LANES, k,
                    [&](int a, int v) { return from(m + a, j + v); },
                    [&](int a, int v, vf x) { to(m + a, j + v, x); });
        m += M;
    };
    if constexpr (MOST == 16)
        while (rows - m >= 16) go.template operator()<16>();
    while (rows - m >= 8) go.template operator()<8>();
    rest(rows - m, go);
}

// Enough sums at a time to hide how long a product takes, and few enough for the registers.
template <class E, class From, class To>
inline void blocks(int rows, int panels, const E* tokens, int64_t stride, const E* factor, int k,
                   From from, To to) {
    int j = 0;
    for (; WIDE && panels - j >= 3 && panels - j != 4; j += 3)
        panel<3, 8>(rows, j, tokens, stride, factor, k, from, to);
    for (; panels - j >= 2; j += 2) panel<2, 8>(rows, j, tokens, stride, factor, k, from, to);
    if (j < panels) panel<1, 16>(rows, j, tokens, stride, factor, k, from, to);
}

// ---- one program on one tile

template <class E> struct Scratch {
    std::vector<float> sums;
    std::vector<E> codes;
    void fit(int width) {
        size_t n = (size_t)TILE * width;
        if (sums.size() < n) { sums.resize(n); codes.resize(n); }
    }
};

template <class E>
void code(const Instruction& a, const char* row, const E* tokens, int64_t stride, int rows,
          float* sums, E* codes, int width) {
    const E* factor = (const E*)(row + a.offset);
    const E* source = a.from_code ? codes : tokens;
    const int64_t apart = a.from_code ? width : stride;
    for (int rep = 0; rep < a.reps; rep++) {
        float* s = sums + a.dst + rep * a.dst_step;
        E* c = codes + a.dst + rep * a.dst_step;
        auto to = [&](int m, int j, vf x) {
            store(s + (int64_t)m * width + j * LANES, x);
            if (!a.paired) store(c + (int64_t)m * width + j * LANES, x);
        };
        const E* from = source + a.src + rep * a.src_step;
        if (a.add)
            blocks(rows, a.n / LANES, from, apart, factor, a.k,
                   [&](int m, int j) { return load(s + (int64_t)m * width + j * LANES); }, to);
        else
            blocks(rows, a.n / LANES, from, apart, factor, a.k, [](int, int) { return vf{}; }, to);
    }
    if constexpr (STEP<E> == 2) {
        if (!a.paired) return;
        // Codes of blocks that MIX adds up: of two blocks side by side, lane by lane.
        for (int m = 0; m < rows; m++)
            for (int q = 0; q < a.reps; q += 2)
                for (int j = 0; j < a.n; j += LANES) {
                    const float* s = sums + (int64_t)m * width + a.dst + q * a.dst_step + j;
                    store_pairs(codes + (int64_t)m * width + a.dst + q * a.dst_step + 2 * j, load(s),
                                q + 1 < a.reps ? load(s + a.dst_step) : vf{});
                }
    }
}

// Sums over blocks for M tokens at a time, which share the load of a weight.
template <int M, class E>
void mix_some(const Instruction& a, const E* weights, float* sums, E* codes, int width) {
    for (int j = 0; j < a.n; j += LANES)
        for (int p = 0; p < a.reps; p++) {
            const int64_t out = a.dst + p * a.dst_step + j;
            vf acc[M];
#pragma GCC unroll 16
            for (int m = 0; m < M; m++) acc[m] = a.add ? load(sums + (int64_t)m * width + out) : vf{};
            const int steps = (a.k + STEP<E> - 1) / STEP<E>;
            for (int q = 0; q < steps; q++) {
                const E* w = weights + (((int64_t)p * steps + q) * a.n + j) * STEP<E>;
                const int64_t from = a.src + (q * a.src_step + j) * STEP<E>;
#pragma GCC unroll 16
                for (int m = 0; m < M; m++)
                    if constexpr (STEP<E> == 2)
                        acc[m] = pairs(acc[m], codes + (int64_t)m * width + from, w);
                    else
                        acc[m] += load(w) * load(sums + (int64_t)m * width + from);
            }
#pragma GCC unroll 16
            for (int m = 0; m < M; m++) {
                if (a.added_to) store(sums + (int64_t)m * width + out, acc[m]);
                store(codes + (int64_t)m * width + out, acc[m]);
            }
        }
}

template <class E>
void mix(const Instruction& a, const char* row, int rows, float* sums, E* codes, int width) {
    const E* weights = (const E*)(row + a.offset);  // [reps, k / STEP, n, STEP]
    int m = 0;
    auto go = [&]<int M>() {
        mix_some<M>(a, weights, sums + (int64_t)m * width, codes + (int64_t)m * width, width);
        m += M;
    };
    while (rows - m >= 16) go.template operator()<16>();
    if (rows - m >= 8) go.template operator()<8>();
    rest(rows - m, go);
}

template <bool TERMS, class E>
void up(const Instruction& a, const char* row, E* out, int64_t stride, int rows, const E* codes,
        int64_t width) {
    const E* factor = (const E*)(row + a.offset);
    const int whole = a.n / LANES, left = a.n % LANES;
    const float* scales = TERMS ? (const float*)(row + a.terms - 1) : nullptr;
    const float* shifts = TERMS ? scales + a.reps * a.n : nullptr;
    const auto get = [&](auto* p, int j) { return j < whole ? load(p) : load_some(p, left); };
    for (int rep = 0; rep < a.reps; rep++) {
        E* y = out + a.dst + rep * a.dst_step;
        const int at = rep * a.n;
        blocks(rows, whole + (left > 0), codes + a.src + rep * a.src_step, width, factor, a.k,
               [&](int m, int j) { return get(y + m * stride + j * LANES, j); },
               [&](int m, int j, vf x) {
                   if constexpr (TERMS)
                       x = x * get(scales + at + j * LANES, j) + get(shifts + at + j * LANES, j);
                   if (j < whole) store(y + m * stride + j * LANES, x);
                   else store_some(y + m * stride + j * LANES, x, left);
               });
    }
}

// Affine terms; of BOTH, shifts lie right behind scales.
template <Kind KIND, class E>
void affine(const Instruction& a, const char* row, E* out, int64_t stride, int rows) {
    const float *scale = (const float*)(row + a.offset), *shift = scale + (KIND == BOTH ? a.k : 0);
    auto f = [&](vf x, vf by, vf to) {
        return KIND == SCALE ? x * by : KIND == SHIFT ? x + to : x * by + to;
    };
    int j = 0;
    for (; j + LANES <= a.n; j += LANES) {
        const vf by = load(scale + j), to = load(shift + j);
        for (int m = 0; m < rows; m++) store(out + m * stride + j, f(load(out + m * stride + j), by, to));
    }
    if (const int n = a.n - j; n > 0) {
        const vf by = load_some(scale + j, n), to = load_some(shift + j, n);
        for (int m = 0; m < rows; m++)
            store_some(out + m * stride + j, f(load_some(out + m * stride + j, n), by, to), n);
    }
}

// `codes` come from the target's other side when `scratch` is null.
template <class E>
void run(const Program* program, const char* row, E* tile, int64_t stride, int rows, const E* given,
         int64_t given_width, Scratch<E>* scratch) {
    float* sums = nullptr;
    E* codes = nullptr;
    if (scratch) {
        scratch->fit(program->width);
        sums = scratch->sums.data();
        codes = scratch->codes.data();
    }
    const E* read = scratch ? codes : given;
    const int64_t width = scratch ? program->width : given_width;
    for (int i = 0; i < program->count; i++) {
        const Instruction& a = program->instructions[i];
        switch (a.kind) {
            case CODE: code(a, row, tile, stride, rows, sums, codes, program->width); break;
            case MIX: mix(a, row, rows, sums, codes, program->width); break;
            case UP:
                if (a.terms) up<true>(a, row, tile, stride, rows, read, width);
                else up<false>(a, row, tile, stride, rows, read, width);
                break;
            case SCALE: affine<SCALE>(a, row, tile, stride, rows); break;
            case SHIFT: affine<SHIFT>(a, row, tile, stride, rows); break;
            case BOTH: affine<BOTH>(a, row, tile, stride, rows); break;
        }
    }
}

// ---- what stands between two linears

// Cody and Waite's reduction to [-ln2/2, ln2/2], then Taylor; relative error below 1e-7.
inline vf exponential(vf x) {
    x = x < -87.f ? splat(-87.f) : x;
    x = x > 88.f ? splat(88.f) : x;
    const vf magic = splat(12582912.f);
    vf n = (x * 1.44269504f + magic) - magic;
    vf f = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    vf y = splat(1.f / 720);
    y = y * f + 1.f / 120;
    y = y * f + 1.f / 24;
    y = y * f + 1.f / 6;
    y = y * f + .5f;
    y = y * f + 1.f;
    y = y * f + 1.f;
    return y * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

inline vf inverse(vf x) {
#if WIDE
    vf y = (vf)_mm512_rcp14_ps((__m512)x);
    return y * (2.f - x * y);  // one step of Newton's: 28 bits
#else
    return 1.f / x;
#endif
}

// x Φ(x) by Abramowitz and Stegun 7.1.26; absolute error of Φ below 1e-7.
inline vf gelu(vf x) {
    vf z = (x < 0 ? -x : x) * 0.70710678f;
    vf t = inverse(1.f + 0.3275911f * z);
    vf p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf tail = .5f * x * p * t * exponential(-z * z);
    return x < 0 ? tail : x - tail;
}

inline float total(vf x) {
    float s[8];
    for (int i = 0; i < 8; i++) s[i] = x[i] + x[i + 8];
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

template <class E>
void normalise(const E* x, E* y, const float* weight, const float* bias, float eps, int d) {
    vf sum{}, square{};
    for (int j = 0; j < d; j += LANES) sum += load(x + j);
    const float mean = total(sum) / d;
    for (int j = 0; j < d; j += LANES) {
        vf c = load(x + j) - mean;
        square += c * c;
    }
    const float scale = 1.f / std::sqrt(total(square) / d + eps);
    for (int j = 0; j < d; j += LANES)
        store(y + j, (load(x + j) - mean) * scale * load(weight + j) + load(bias + j));
}

enum Between : int64_t { NOTHING = 0, NORM = 1, GELU = 2 };

struct Stage {
    int64_t samples, tokens, width;       // of x: [samples, tokens, width]
    void* x;                              // out of the last linear, changed in place
    void* stream;                         // x is added to it, if there is one
    void* out;                            // may be x
    int64_t between;
    const float *weight, *bias;           // of the norm
    double eps;
    const int64_t *after, *before;        // programs of the last and the next target, by sample; 0: none
    const int64_t* rows;                  // of the samples' adapters
    const void* codes_in;                 // [samples, tokens, in_width]
    void* codes_out;                      // [samples, tokens, out_width]
    int64_t in_width, out_width;
};

template <class E> void stage(const Stage& s) {
    const int64_t tiles = (s.tokens + TILE - 1) / TILE, d = s.width;
#pragma omp parallel for schedule(static)
    for (int64_t w = 0; w < s.samples * tiles; w++) {
        thread_local Scratch<E> scratch;
        const int64_t b = w / tiles, first = (w % tiles) * TILE;
        const int rows = (int)std::min<int64_t>(TILE, s.tokens - first);
        const int64_t at = b * s.tokens + first;
        const char* row = s.rows ? (const char*)s.rows[b] : nullptr;
        E* x = (E*)s.x + at * d;
        E* out = (E*)s.out + at * d;
        if (s.after && s.after[b])
            run((const Program*)s.after[b], row, x, d, rows,
                (const E*)s.codes_in + at * s.in_width, s.in_width, (Scratch<E>*)nullptr);
        const E* source = x;
        if (s.stream) {
            E* stream = (E*)s.stream + at * d;
            for (int64_t j = 0; j < rows * d; j += LANES) store(stream + j, load(stream + j) + load(x + j));
            source = stream;
        }
        if (s.between == NORM)
            for (int m = 0; m < rows; m++)
                normalise(source + m * d, out + m * d, s.weight, s.bias, (float)s.eps, (int)d);
        else if (s.between == GELU)
            for (int64_t j = 0; j < rows * d; j += LANES) store(out + j, gelu(load(source + j)));
        else if (out != source)
            std::memcpy(out, source, rows * d * sizeof(E));
        if (s.before && s.before[b]) {
            const Program* program = (const Program*)s.before[b];
            run(program, row, out, d, rows, (const E*)nullptr, 0, &scratch);
            for (int m = 0; m < rows && program->keep; m++)
                std::memcpy((E*)s.codes_out + (at + m) * s.out_width,
                            scratch.codes.data() + (int64_t)m * program->width,
                            program->keep * sizeof(E));
        }
    }
}

// ---- attention: for one image and head at a time, keys and values packed like factors

struct Attention {
    int64_t samples, tokens, heads, width;  // width of one head
    int64_t queries;                        // the first so many tokens ask
    const void* in;                         // [samples, tokens, 3, heads, width]
    void* out;                              // [samples, queries, heads, width]
    double scale;
};

template <class E> struct Desk {
    std::vector<E> keys, values, weights;
    std::vector<float> scores;
};

inline float largest(vf x) {
    float s = x[0];
    for (int i = 1; i < LANES; i++) s = std::max(s, x[i]);
    return s;
}

template <class E>
void pack_keys(const E* k, int64_t stride, int tokens, int width, E* keys) {
    constexpr int S = STEP<E>;
    for (int n = 0; n < tokens; n++)  // [token / 16][width / S][16][S]
        for (int d = 0; d < width; d += S)
            std::memcpy(keys + (int64_t)(n / LANES) * LANES * width + d * LANES + (n % LANES) * S,
                        k + n * stride + d, S * sizeof(E));
}

template <class E>
void pack_values(const E* v, int64_t stride, int tokens, int width, E* values, int depth) {
    for (int d = 0; d < width; d += LANES)  // [width / 16][token / S][16][S]
        for (int n = 0; n < tokens; n += STEP<E>) {
            E* to = values + (int64_t)d * depth + n * LANES;
            if constexpr (STEP<E> == 2)
                store_pairs(to, load(v + n * stride + d),
                            n + 1 < tokens ? load(v + (n + 1) * stride + d) : vf{});
            else
                store(to, load(v + n * stride + d));
        }
}

// Rows of scores into rows of exp(scale · (score - largest)); what their sums are.
template <class E>
void soften(const float* scores, E* weights, int rows, int tokens, int room, float scale, float* sums) {
    for (int m = 0; m < rows; m++) {
        const float* s = scores + (int64_t)m * room;
        E* w = weights + (int64_t)m * room;
        const int whole = tokens / LANES * LANES, left = tokens - whole;
        vf top = splat(-INFINITY);
        for (int j = 0; j < whole; j += LANES) {
            const vf x = load(s + j);
            top = x > top ? x : top;
        }
        float most = largest(top);
        for (int j = whole; j < tokens; j++) most = std::max(most, s[j]);
        vf sum{};
        for (int j = 0; j < whole; j += LANES) {
            const vf e = exponential((load(s + j) - most) * scale);
            sum += e;
            store(w + j, e);
        }
        if (left) {
            vf e = exponential((load(s + whole) - most) * scale);
            for (int i = left; i < LANES; i++) e[i] = 0;
            sum += e;
            store(w + whole, e);
        }
        sums[m] = total(sum);
    }
}

template <class E> void attention(const Attention& a) {
    const int n = (int)a.tokens, width = (int)a.width;
    const int panels = (n + LANES - 1) / LANES, room = panels * LANES;
    const int depth = (n + STEP<E> - 1) / STEP<E> * STEP<E>;
    const int64_t stride = 3 * a.heads * width;
    const int tiles = (int)((a.queries + TILE - 1) / TILE);
    const int64_t pairs_of = a.samples * a.heads, threads = omp_get_max_threads();
    // Few heads for many threads: several threads share one, and each packs its keys again.
    const int64_t parts = threads == 1 ? 1 : std::clamp<int64_t>(4 * threads / pairs_of, 1, tiles);
#pragma omp parallel for schedule(static)
    for (int64_t w = 0; w < pairs_of * parts; w++) {
        thread_local Desk<E> desk;
        const int64_t b = w / parts / a.heads, h = w / parts % a.heads, part = w % parts;
        const E* q = (const E*)a.in + b * n * stride + h * width;
        const E* k = q + a.heads * width;
        desk.keys.resize((size_t)room * width);
        desk.values.resize((size_t)depth * width);
        desk.weights.resize((size_t)TILE * room);
        desk.scores.resize((size_t)TILE * room);
        pack_keys(k, stride, n, width, desk.keys.data());
        pack_values(k + a.heads * width, stride, n, width, desk.values.data(), depth);
        for (int64_t tile = part * tiles / parts; tile < (part + 1) * tiles / parts; tile++) {
            const int64_t first = tile * TILE;
            const int rows = (int)std::min<int64_t>(TILE, a.queries - first);
            float sums[TILE];
            float* scores = desk.scores.data();
            blocks(rows, panels, q + first * stride, stride, desk.keys.data(), width,
                   [](int, int) { return vf{}; },
                   [&](int m, int j, vf x) { store(scores + (int64_t)m * room + j * LANES, x); });
            soften(scores, desk.weights.data(), rows, n, room, (float)a.scale, sums);
            E* out = (E*)a.out + ((b * a.queries + first) * a.heads + h) * width;
            const int64_t apart = a.heads * width;
            blocks(rows, width / LANES, desk.weights.data(), room, desk.values.data(), depth,
                   [](int, int) { return vf{}; },
                   [&](int m, int j, vf x) { store(out + m * apart + j * LANES, x / sums[m]); });
        }
    }
}

// ---- pixels in, logits out

struct Pixels {
    int64_t samples, height, width;
    int64_t patch;        // 0: planes stay planes; else every patch becomes one token
    const uint8_t* in;    // [samples, 3, height, width]
    void* out;            // the same shape, or [samples, patches, 3 · patch · patch]
    const float *scale, *shift;  // [samples, 3]
};

template <class E> void pixels(const Pixels& s) {
    const int64_t run = s.patch ? s.patch : s.width, across = s.width / run;
    const int64_t height = s.patch ? s.height / run * run : s.height;  // a rest is left out
#pragma omp parallel for schedule(static)
    for (int64_t w = 0; w < s.samples * height; w++) {
        const int64_t b = w / height, y = w % height;
        for (int64_t c = 0; c < 3; c++) {
            const float scale = s.scale[b * 3 + c], shift = s.shift[b * 3 + c];
            const uint8_t* in = s.in + ((b * 3 + c) * s.height + y) * s.width;
            for (int64_t px = 0; px < across; px++) {
                const int64_t at =
                    s.patch ? ((b * (s.height / run) + y / run) * across + px) * 3 * run * run +
                                  (c * run + y % run) * run
                            : ((b * 3 + c) * height + y) * s.width;
                E* out = (E*)s.out + at;
                const uint8_t* from = in + px * run;
                int64_t x = 0;
                for (; x + LANES <= run; x += LANES) {
                    vb bytes;
                    std::memcpy(&bytes, from + x, 16);
                    store(out + x, __builtin_convertvector(bytes, vf) * scale + shift);
                }
                if (x < run) {
                    vf rest{};
                    for (int i = 0; x + i < run; i++) rest[i] = from[x + i];
                    store_some(out + x, rest * scale + shift, (int)(run - x));
                }
            }
        }
    }
}

struct Heads {
    int64_t samples, features;
    const float* in;               // [samples, features]
    const int64_t *weight, *bias;  // addresses of float [labels, features] and [labels]
    const int64_t* labels;
    const int64_t* start;          // of each sample's logits
    float* out;
};

inline void heads(const Heads& s) {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s.samples; b++) {
        const float *x = s.in + b * s.features, *bias = (const float*)s.bias[b];
        for (int64_t l = 0; l < s.labels[b]; l++) {
            const float* w = (const float*)s.weight[b] + l * s.features;
            vf acc{};
            int64_t j = 0;
            for (; j + LANES <= s.features; j += LANES) acc += load(x + j) * load(w + j);
            float sum = total(acc) + bias[l];
            for (; j < s.features; j++) sum += x[j] * w[j];
            s.out[s.start[b] + l] = sum;
        }
    }
}

}  // namespace

extern "C" {
void rootstock_pixels_fp32(const Pixels* s) { pixels<float>(*s); }
void rootstock_pixels_bf16(const Pixels* s) { pixels<uint16_t>(*s); }
void rootstock_heads(const Heads* s) { heads(*s); }
void rootstock_attention_fp32(const Attention* s) { attention<float>(*s); }
void rootstock_attention_bf16(const Attention* s) { attention<uint16_t>(*s); }
void rootstock_stage_fp32(const Stage* s) { stage<float>(*s); }
void rootstock_stage_bf16(const Stage* s) { stage<uint16_t>(*s); }
int rootstock_native_format() { return 4; }
}
