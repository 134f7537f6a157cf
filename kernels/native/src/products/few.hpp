// Both products for few queries, straight from the rows as they are stored: one read of the memory decides their time.
#pragma once
#include "products/rows.hpp"

namespace oracle {

// Writes <x_r, q_b> of ROWS rows to logits, [BATCH][shape.rows()]. queries: [BATCH][width].
template <class Real, class Stored, int BATCH, int ROWS>
ORACLE_INLINE void score_rows(const Stored* rows, const Shape<Real>& shape, const Real* centre, const Real* queries,
                              Real* logits) {
    constexpr int64_t W = Tile<Real>::lanes;
    // eight sums side by side keep the units busy
    constexpr int PARTS = BATCH * ROWS >= 8 ? 1 : 8 / (BATCH * ROWS) > 4 ? 4 : 8 / (BATCH * ROWS);
    Vector<Real> sums[BATCH][PARTS][ROWS] = {};
    int64_t d = 0;
    for (; d + W * PARTS <= shape.dim; d += W * PARTS) {
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) fetch_ahead(rows + r * shape.dim + d, W * PARTS * sizeof(Stored));
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part)
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
                const Vector<Real> x = row_vector(rows + r * shape.dim, d + part * W, centre);
#pragma GCC unroll 2
                for (int b = 0; b < BATCH; ++b) sums[b][part][r] += x * load(queries + b * shape.width + d + part * W);
            }
    }
    for (; d < shape.dim; d += W)
        for (int r = 0; r < ROWS; ++r) {
            const Stored* row = rows + r * shape.dim;
            const bool whole = d + W <= shape.dim;
            const Vector<Real> x = whole ? row_vector(row, d, centre) : last_vector(row, d, shape.dim, centre);
            for (int b = 0; b < BATCH; ++b) sums[b][0][r] += x * load(queries + b * shape.width + d);
        }
    for (int b = 0; b < BATCH; ++b) {
        for (int part = 1; part < PARTS; ++part)
            for (int r = 0; r < ROWS; ++r) sums[b][0][r] += sums[b][part][r];
        lane_sums<Real, ROWS>(sums[b][0], logits + b * shape.rows());
    }
}

// Writes the products of a block, [BATCH][shape.rows()].
template <class Real, class Stored, int BATCH>
ORACLE_APART void score_few(const Stored* rows, int64_t count, const Shape<Real>& shape, const Real* centre,
                            const Real* queries, Real* logits) {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4)
        score_rows<Real, Stored, BATCH, 4>(rows + r * shape.dim, shape, centre, queries, logits + r);
    for (; r < count; ++r) score_rows<Real, Stored, BATCH, 1>(rows + r * shape.dim, shape, centre, queries, logits + r);
}

// vectors of a sum that stay in registers while rows pass by
constexpr int kWideSum = 8;

// Adds the weighted sum of rows over WIDE vectors of coordinates from d on.
template <class Real, class Stored, int WIDE>
ORACLE_INLINE void weigh_vectors(const Stored* rows, const int32_t* index, const Real* weights, int64_t count,
                                 const Shape<Real>& shape, const Real* centre, Real* sums, int64_t d) {
    constexpr int64_t W = Tile<Real>::lanes;
    Vector<Real> total[WIDE];
#pragma GCC unroll 8
    for (int v = 0; v < WIDE; ++v) total[v] = load(sums + d + v * W);
    for (int64_t i = 0; i < count; ++i) {
        const Stored* row = rows + index[i] * shape.dim;
        const Vector<Real> weight = broadcast(weights[i]);
#pragma GCC unroll 8
        for (int v = 0; v < WIDE; ++v) total[v] += row_vector(row, d + v * W, centre) * weight;
    }
#pragma GCC unroll 8
    for (int v = 0; v < WIDE; ++v) store(sums + d + v * W, total[v]);
}

// Adds the weighted sum of the rows that a query lists to `sums`, [width]. index, weights: [count].
template <class Real, class Stored>
ORACLE_APART void weigh_few(const Stored* rows, const int32_t* index, const Real* weights, int64_t count,
                            const Shape<Real>& shape, const Real* centre, Real* sums) {
    constexpr int64_t W = Tile<Real>::lanes;
    int64_t d = 0;
    for (; d + W * kWideSum <= shape.dim; d += W * kWideSum)
        weigh_vectors<Real, Stored, kWideSum>(rows, index, weights, count, shape, centre, sums, d);
    for (; d + W * 4 <= shape.dim; d += W * 4)
        weigh_vectors<Real, Stored, 4>(rows, index, weights, count, shape, centre, sums, d);
    for (; d + W <= shape.dim; d += W)
        weigh_vectors<Real, Stored, 1>(rows, index, weights, count, shape, centre, sums, d);
    if (d == shape.dim) return;
    Vector<Real> total = load(sums + d);
    for (int64_t i = 0; i < count; ++i)
        total += last_vector(rows + index[i] * shape.dim, d, shape.dim, centre) * broadcast(weights[i]);
    store(sums + d, total);
}

}  // namespace oracle
