// Sizes of the register tiles, and the two products that are made of them.
//
// Rows of a block lie in panels of P coordinates, [D / P][R][P]: both products read them in order, and no two rows fall
// into one set of the first cache however long they are.
#pragma once
#include "core/simd.hpp"

namespace oracle {

template <class Real>
struct Tile {
    static constexpr int lanes = Simd<Real>::lanes;
    // coordinates of a panel
    static constexpr int panel_vectors = 3;
    static constexpr int panel = panel_vectors * lanes;
    // rows of a tile of logits, whose columns are one or two vectors of queries
    static constexpr int rows = kVectorBytes == 32 ? 6 : 12;
    // queries of a tile of weighted sums
    static constexpr int queries = (kVectorBytes == 64 ? 8 : 4) < lanes ? (kVectorBytes == 64 ? 8 : 4) : lanes;
    // coordinates of a tile of logits, and rows of one of weighted sums, that a turn of a loop multiplies: where tiles
    // are small, what else a turn does would keep a core that two threads share from its products
    static constexpr int coordinates_at_once = kVectorBytes == 32 ? 12 : 1;
    static constexpr int rows_at_once = kVectorBytes == 32 ? 4 : 1;
};

// Memory that will be read soon, asked for a line at a time while something else is computed.
struct Ahead {
    static constexpr int64_t line = 64;
    const char *at = nullptr, *end = nullptr;

    // Asks for the next lines; where there are none, for some that were asked for before.
    template <int LINES = 1>
    ORACLE_MEMBER void next() {
#pragma GCC unroll 8
        for (int i = 0; i < LINES; ++i) __builtin_prefetch(at + i * line, 0, 2);
        at += at + LINES * line < end ? LINES * line : 0;
    }

    // Asks for so many lines, or as many as there are.
    ORACLE_MEMBER void next(int lines) {
        for (int i = 0; i < lines && at < end; ++i, at += line) __builtin_prefetch(at, 0, 2);
    }
};

// Operands of a tile of logits, a tile of rows with VECTORS vectors of queries.
// rows: the first row of the tile in panel 0, panels `stride` apart. queries: [D][VECTORS * lanes].
// out: the logits of the first row, vectors `out_stride` apart, [VECTORS][R][lanes].
template <class Real>
struct ScoreOperands {
    const Real *rows, *queries;
    int64_t stride, dim;
    Real* out;
    int64_t out_stride;
};

// Adds the products of COUNT coordinates of a tile of rows, from x on, with those of its queries, from q on.
template <class Real, int VECTORS, int COUNT>
ORACLE_INLINE void add_products(const Real* x, const Real* q, Vector<Real> (&sums)[Tile<Real>::rows][VECTORS]) {
    constexpr int W = Tile<Real>::lanes, P = Tile<Real>::panel;
#pragma GCC unroll 12
    for (int k = 0; k < COUNT; ++k) {
        Vector<Real> column[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) column[v] = load(q + (k * VECTORS + v) * W);
#pragma GCC unroll 12
        for (int r = 0; r < Tile<Real>::rows; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += broadcast(x[r * P + k]) * column[v];
    }
}

// Adds <x_r, q> over the panels [first, last) to a tile of logits, which panel 0 begins anew.
template <class Real, int VECTORS>
ORACLE_APART void score_tile(const ScoreOperands<Real>& of, int64_t first, int64_t last, Ahead& ahead) {
    constexpr int W = Tile<Real>::lanes, P = Tile<Real>::panel, ROWS = Tile<Real>::rows;
    constexpr int AT_ONCE = Tile<Real>::coordinates_at_once;
    Vector<Real> sums[ROWS][VECTORS] = {};
    Ahead soon = ahead;
    for (int64_t p = first; p < last; ++p) {
        const Real* x = of.rows + p * of.stride;
        const Real* q = of.queries + p * P * VECTORS * W;
        const int64_t count = of.dim - p * P < P ? of.dim - p * P : P;
        int64_t k = 0;
        for (; k + AT_ONCE <= count; k += AT_ONCE) {
            soon.next<(AT_ONCE + 1) / 2>();
            add_products<Real, VECTORS, AT_ONCE>(x + k, q + k * VECTORS * W, sums);
        }
        for (; k < count; ++k) add_products<Real, VECTORS, 1>(x + k, q + k * VECTORS * W, sums);
    }
    ahead = soon;
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) {
            Real* at = of.out + v * of.out_stride + r * W;
            store(at, first ? load(at) + sums[r][v] : sums[r][v]);
        }
}

// Adds the products of one row of a panel with the weights of a tile of queries.
template <class Real, int VECTORS>
ORACLE_INLINE void add_row(const Real* x, const Real* weights, Vector<Real> (&total)[Tile<Real>::queries][VECTORS]) {
    Vector<Real> row[VECTORS];
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; ++v) row[v] = load(x + v * Tile<Real>::lanes);
#pragma GCC unroll 8
    for (int q = 0; q < Tile<Real>::queries; ++q) {
        const Vector<Real> weight = broadcast(weights[q]);
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) total[q][v] += weight * row[v];
    }
}

// Adds the weighted sums of some rows of a panel to those of a tile of queries.
// panel: [R][P]. index: the rows, [count]; not read where they are ALL of them, in order. weights: [count][queries].
// sums: [queries][P].
template <class Real, int VECTORS, bool ALL>
ORACLE_APART void weigh_tile(const Real* panel, const int32_t* index, const Real* weights, int64_t count, Real* sums) {
    constexpr int W = Tile<Real>::lanes, P = Tile<Real>::panel, QUERIES = Tile<Real>::queries;
    constexpr int AT_ONCE = Tile<Real>::rows_at_once;
    Vector<Real> total[QUERIES][VECTORS];
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) total[q][v] = load(sums + q * P + v * W);
    // the sums of the tile that comes next
    const char* next = reinterpret_cast<const char*>(sums + QUERIES * P);
    int64_t i = 0;
    for (; i + AT_ONCE <= count; i += AT_ONCE, next += Ahead::line) {
        __builtin_prefetch(next, 1);
#pragma GCC unroll 4
        for (int r = 0; r < AT_ONCE; ++r) {
            const int64_t row = ALL ? i + r : index[i + r];
            add_row<Real, VECTORS>(panel + row * P, weights + (i + r) * QUERIES, total);
        }
    }
    for (; i < count; ++i) add_row<Real, VECTORS>(panel + (ALL ? i : index[i]) * P, weights + i * QUERIES, total);
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) store(sums + q * P + v * W, total[q][v]);
}

// The same over `left` vectors of a panel; all: whether the rows are all that it has, in order.
template <class Real>
void weigh_panel_tile(const Real* panel, const int32_t* index, const Real* weights, int64_t count, int64_t left,
                      bool all, Real* sums) {
    if (left == 3)
        all ? weigh_tile<Real, 3, true>(panel, index, weights, count, sums)
            : weigh_tile<Real, 3, false>(panel, index, weights, count, sums);
    else if (left == 2)
        all ? weigh_tile<Real, 2, true>(panel, index, weights, count, sums)
            : weigh_tile<Real, 2, false>(panel, index, weights, count, sums);
    else
        all ? weigh_tile<Real, 1, true>(panel, index, weights, count, sums)
            : weigh_tile<Real, 1, false>(panel, index, weights, count, sums);
}

}  // namespace oracle
