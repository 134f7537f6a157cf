// Both products for few queries, straight from the rows as they are stored: one read of the memory decides their time.
#pragma once
#include "scan.hpp"

namespace oracle {

// The value of a row at one vector of coordinates, of which the last may have fewer than `lanes`.
template <class Real, class Stored>
ORACLE_INLINE Vector<Real> row_vector(const Stored* row, int64_t d, int64_t dim, const Real* centre) {
    constexpr int64_t W = Tile<Real>::lanes;
    Vector<Real> value{};
    if (d + W <= dim) {
        value = load_widened<Real>(row + d);
    } else {
        for (int64_t lane = 0; d + lane < dim; ++lane) value[lane] = static_cast<Real>(widened(row[d + lane]));
    }
    return value - load(centre + d);
}

// Writes <x_r, q_b> of the rows of a block to logits, [B / lanes][block][lanes]. queries: [B][width].
template <class Real, class Stored, int BATCH>
ORACLE_APART void score_few(const Stored* rows, int64_t count, const Shape<Real>& shape, const Real* centre,
                            const Real* queries, Real* logits) {
    constexpr int64_t W = Tile<Real>::lanes;
    constexpr int PARTS = BATCH == 1 ? 4 : BATCH == 2 ? 2 : 1;
    for (int64_t r = 0; r < count; ++r) {
        const Stored* row = rows + r * shape.dim;
        Vector<Real> sums[BATCH][PARTS] = {};
        const int64_t whole = shape.dim / (W * PARTS) * (W * PARTS);
        for (int64_t d = 0; d < whole; d += W * PARTS)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; ++part) {
                const Vector<Real> x = row_vector<Real>(row, d + part * W, shape.dim, centre);
#pragma GCC unroll 8
                for (int b = 0; b < BATCH; ++b) sums[b][part] += x * load(queries + b * shape.width + d + part * W);
            }
        for (int64_t d = whole; d < shape.dim; d += W) {
            const Vector<Real> x = row_vector<Real>(row, d, shape.dim, centre);
            for (int b = 0; b < BATCH; ++b) sums[b][0] += x * load(queries + b * shape.width + d);
        }
        for (int b = 0; b < BATCH; ++b) {
            for (int part = 1; part < PARTS; ++part) sums[b][0] += sums[b][part];
            Real total = 0;
            for (int lane = 0; lane < W; ++lane) total += sums[b][0][lane];
            logits[(b / W * shape.block + r) * W + b % W] = total;
        }
    }
}

// Adds the weighted sums of the rows that a tile of queries lists. weights: [count][Q]. sums: [BATCH][width].
template <class Real, class Stored, int BATCH>
ORACLE_APART void weigh_few(const Stored* rows, const int32_t* index, const Real* weights, int64_t count,
                            const Shape<Real>& shape, const Real* centre, Real* sums) {
    constexpr int64_t W = Tile<Real>::lanes, Q = Tile<Real>::queries;
    constexpr int WIDE = BATCH == 1 ? 8 : BATCH == 2 ? 6 : 3;
    int64_t d = 0;
    for (; d + W * WIDE <= shape.dim; d += W * WIDE) {
        Vector<Real> total[BATCH][WIDE];
        for (int b = 0; b < BATCH; ++b)
            for (int v = 0; v < WIDE; ++v) total[b][v] = load(sums + b * shape.width + d + v * W);
        for (int64_t i = 0; i < count; ++i) {
            const Stored* row = rows + index[i] * shape.dim;
#pragma GCC unroll 8
            for (int v = 0; v < WIDE; ++v) {
                const Vector<Real> x = row_vector<Real>(row, d + v * W, shape.dim, centre);
#pragma GCC unroll 8
                for (int b = 0; b < BATCH; ++b) total[b][v] += x * broadcast(weights[i * Q + b]);
            }
        }
        for (int b = 0; b < BATCH; ++b)
            for (int v = 0; v < WIDE; ++v) store(sums + b * shape.width + d + v * W, total[b][v]);
    }
    for (; d < shape.dim; d += W)
        for (int64_t i = 0; i < count; ++i) {
            const Vector<Real> x = row_vector<Real>(rows + index[i] * shape.dim, d, shape.dim, centre);
            for (int b = 0; b < BATCH; ++b) {
                Real* at = sums + b * shape.width + d;
                store(at, load(at) + x * broadcast(weights[i * Q + b]));
            }
        }
}

}  // namespace oracle
