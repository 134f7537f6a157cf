// Sizes of the register tiles, and the two products that are made of them.
//
// Rows of a block lie in panels of P coordinates, [D / P][R][P]: both products read them in order, and no two rows fall
// into one set of the first cache however long they are.
#pragma once
#include "simd.hpp"

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
};

// Memory that will be read soon, asked for a line at a time while something else is computed.
struct Ahead {
    static constexpr int64_t line = 64;
    const char *at = nullptr, *end = nullptr;

    // Asks for the next line; where there is none, for one that was asked for before.
    ORACLE_MEMBER void next() {
        __builtin_prefetch(at, 0, 2);
        at += at + line < end ? line : 0;
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

// Adds <x_r, q> over the panels [first, last) to a tile of logits, which panel 0 begins anew.
template <class Real, int VECTORS>
ORACLE_APART void score_tile(const ScoreOperands<Real>& of, int64_t first, int64_t last, Ahead& ahead) {
    using V = Vector<Real>;
    constexpr int W = Tile<Real>::lanes, P = Tile<Real>::panel, ROWS = Tile<Real>::rows;
    V sums[ROWS][VECTORS] = {};
    Ahead soon = ahead;
    for (int64_t p = first; p < last; ++p) {
        const Real* x = of.rows + p * of.stride;
        const Real* q = of.queries + p * P * VECTORS * W;
        const int64_t count = of.dim - p * P < P ? of.dim - p * P : P;
        for (int64_t k = 0; k < count; ++k) {
            soon.next();
            V column[VECTORS];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) column[v] = load(q + (k * VECTORS + v) * W);
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; ++v) sums[r][v] += broadcast(x[r * P + k]) * column[v];
        }
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

// Adds the weighted sums of some rows of a panel to those of a tile of queries.
// panel: [R][P]. index: the rows, [count]. weights: [count][queries]. sums: [queries][P].
template <class Real, int VECTORS>
ORACLE_APART void weigh_tile(const Real* panel, const int32_t* index, const Real* weights, int64_t count, Real* sums) {
    using V = Vector<Real>;
    constexpr int W = Tile<Real>::lanes, P = Tile<Real>::panel, QUERIES = Tile<Real>::queries;
    V total[QUERIES][VECTORS];
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) total[q][v] = load(sums + q * P + v * W);
    for (int64_t i = 0; i < count; ++i) {
        // the sums of the tile that comes next
        __builtin_prefetch(reinterpret_cast<const char*>(sums + QUERIES * P) + i * Ahead::line, 1);
        const Real* x = panel + static_cast<int64_t>(index[i]) * P;
        V row[VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) row[v] = load(x + v * W);
#pragma GCC unroll 8
        for (int q = 0; q < QUERIES; ++q) {
            const V weight = broadcast(weights[i * QUERIES + q]);
#pragma GCC unroll 3
            for (int v = 0; v < VECTORS; ++v) total[q][v] += weight * row[v];
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) store(sums + q * P + v * W, total[q][v]);
}

}  // namespace oracle
