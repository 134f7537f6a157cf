// What a thread does with its share of the rows: block by block both products and the softmax between them.
#pragma once
#include "blocks/sift.hpp"
#include "blocks/softmax.hpp"
#include "blocks/sums.hpp"
#include "blocks/weight_changes.hpp"
#include "digits/digit_tiles.hpp"
#include "digits/weigh_digits.hpp"
#include "products/few.hpp"
#include "products/rows.hpp"

namespace oracle {

// panels of coordinates that one pass of the first product sums: its operands stay in the first cache
constexpr int64_t kPanelsTogether = 5;

// rows summed in single precision before the sums are emptied into double precision
constexpr int32_t kLongestSum = 1024;

template <class Real, class Stored>
class Worker {
  public:
    static constexpr int64_t W = Tile<Real>::lanes, P = Tile<Real>::panel, Q = Tile<Real>::queries;

    Worker(const ScanProblem& problem, const Shape<Real>& shape, const Shared<Real>& shared, Memory<Real>& memory)
        : problem_(problem),
          shape_(shape),
          queries_(shared.queries),
          centre_(shared.centre),
          shared_(shared),
          memory_(memory),
          rows_(static_cast<const Stored*>(problem.rows)),
          use_(shared.use) {}

    // Adds the rows [start, stop).
    void run(int64_t start, int64_t stop) {
        for (Block block{start, 0}; block.first < stop; block.first += block.count) {
            block.count = std::min(rows_at_once(), stop - block.first);
            prepare(block);
            const int64_t next = block.first + block.count;
            look_ahead(next, std::min(next + block.count, stop));
            if (problem_.few) {
                few(block);
            } else {
                many(block);
            }
            *memory_.seen += block.count;
        }
    }

  private:
    const ScanProblem& problem_;
    const Shape<Real>& shape_;
    const Real *queries_, *centre_;
    const Shared<Real>& shared_;
    Memory<Real>& memory_;
    const Stored* rows_;
    const DigitUse use_;
    bool packed_ = false;  // whether the block lies in panels
    Ahead ahead_;

    // Rows of the next block: those of a short one as long as leading digits may tell that few of them matter.
    int64_t rows_at_once() const {
        int64_t whole = shape_.block;
        for (int64_t v = 0; use_.leading && v < shape_.vectors; v += 2)
            whole = std::min(whole, memory_.patience[v].left * problem_.short_block);
        return whole < shape_.block ? problem_.short_block : whole;
    }

    // The next block is fetched while this one is computed with.
    void look_ahead(int64_t start, int64_t stop) {
        ahead_ = {reinterpret_cast<const char*>(rows_ + start * shape_.dim),
                  reinterpret_cast<const char*>(rows_ + stop * shape_.dim)};
    }

    void prepare(const Block& block) {
        for (int64_t r = 0; r < block.count; ++r) {
            memory_.half_norms[r] = static_cast<Real>(problem_.half_norms[block.first + r]);
            const bool equal = problem_.log_weights == nullptr;
            memory_.log_weights[r] = equal ? Real(0) : static_cast<Real>(problem_.log_weights[block.first + r]);
        }
        for (int64_t r = 0; use_.leading && r < block.count; ++r) {
            memory_.norms[r] = static_cast<Real>(std::sqrt(2.0 * problem_.half_norms[block.first + r]) * kNormUpward);
            memory_.scales[r] = 1, memory_.errors[r] = 0;
        }
    }

    void many(const Block& block) {
        const Stored* rows = rows_ + block.first * shape_.dim;
        packed_ = false;
        if (use_.codes) make_codes(rows, block);
        bool some = false;
        for (int64_t v = 0; v < shape_.vectors; v += 2) {
            memory_.whole[v] = !use_.leading || !few_matter(rows, block, v);
            some = some || memory_.whole[v];
        }
        if (some) score(rows, block);
        soften(block);
        const bool any = std::any_of(memory_.count, memory_.count + shape_.tiles, [](int32_t count) { return count; });
        if (!problem_.wants_mean || !any) return;
        if (shared_.directions) change_weights(rows, block);
        weigh(rows, block);
    }

    // Multiplies the weights of a block with what logits change by along the directions.
    void change_weights(const Stored* rows, const Block& block) {
        pack(rows, block);
        for (int64_t v = 0; v < shape_.vectors; v += 2) {
            const int32_t* count = memory_.count + v * W / Q;
            const int64_t tiles = std::min<int64_t>(2, shape_.vectors - v) * W / Q;
            memory_.whole[v] = std::any_of(count, count + tiles, [](int32_t some) { return some > 0; });
        }
        score_whole(block, shared_.directions);
        for (int64_t t = 0; t < shape_.tiles; ++t)
            if (memory_.count[t] > 0) WeightChanges<Real>(problem_, shape_, memory_, t).multiply();
    }

    void pack(const Stored* rows, const Block& block) {
        if (!packed_) pack_rows(rows, block.count, shape_, centre_, memory_.rows);
        packed_ = true;
    }

    // Brings rows into codes where leading digits are multiplied first for some queries.
    void make_codes(const Stored* rows, const Block& block) {
        bool some = false;
        for (int64_t v = 0; v < shape_.vectors; v += 2) some = some || memory_.patience[v].left == 0;
#if defined(__AVX2__)
        if constexpr (std::is_same<Real, float>::value && sizeof(Stored) > 1)
            if (some) code_rows(rows, block.count, shape_.dim, centre_, memory_);
#else
        (void)rows, (void)block, (void)some;
#endif
    }

    // Scores the rows of a block that may matter to a pair of vectors of queries, and returns true if these are few.
    bool few_matter(const Stored* rows, const Block& block, int64_t v) {
        Patience& patience = memory_.patience[v];
        const int32_t short_blocks =
            static_cast<int32_t>((block.count + problem_.short_block - 1) / problem_.short_block);
        if (patience.left > 0) return patience.left -= std::min(patience.left, short_blocks), false;
        const int64_t closed = close_pairs(rows, block, v, std::min(v + 2, shape_.vectors));
        // the first rows fill lists of the heaviest ones, whatever their time
        const int32_t growth = shape_.top > 0 ? 2 : 4;
        patience = closed >= 0 ? Patience{0, kLeastPatience}
                               : Patience{patience.next, std::min(growth * patience.next, kMostPatience)};
        *memory_.closed += std::max<int64_t>(closed, 0);
        return closed >= 0;
    }

    // Returns how many pairs of rows with the vectors [v, last) leading digits close; -1 where these are too few.
    int64_t close_pairs(const Stored* rows, const Block& block, int64_t v, int64_t last) {
        int64_t closed = 0;
#if defined(__AVX2__)
        if constexpr (std::is_same<Real, float>::value) {
            score_leading_digits(rows, block, v, last);
            for (; v < last; ++v) {
                const int64_t own = Sift<Stored>(problem_, shape_, shared_, memory_, v).keep_few(rows, block);
                if (own < 0) return -1;
                closed += own;
            }
        }
#else
        (void)rows, (void)block, (void)v, (void)last;
#endif
        return closed;
    }

#if defined(__AVX2__)
    void score_leading_digits(const Stored* rows, const Block& block, int64_t v, int64_t last) {
        if constexpr (sizeof(Stored) == 1)
            score_leading_bytes(rows, shape_.dim, block, v, last);
        else
            score_leading_bytes(static_cast<const uint8_t*>(memory_.codes), code_stride(shape_.dim), block, v, last);
    }

    template <class Byte>
    void score_leading_bytes(const Byte* rows, int64_t stride, const Block& block, int64_t v, int64_t last) {
        const int64_t size = padded(shape_.dim, kTogether) * W, step = shape_.block * W;
        const int8_t* panel = shared_.digit_panels + (v * kDigits + kDigits - 1) * size;
        const LeadingOperands<Byte> of{rows,
                                       memory_.scales,
                                       stride,
                                       shape_.dim,
                                       panel,
                                       kDigits * size,
                                       shared_.in_digits + v * W,
                                       memory_.logits + v * step,
                                       step};
        last - v == 2 ? score_leading<2>(of, block.count, ahead_) : score_leading<1>(of, block.count, ahead_);
    }
#endif

    // Scores all rows of a block for the pairs of vectors of queries that are multiplied whole.
    void score(const Stored* rows, const Block& block) {
        if (use_.rows && by_digit_tiles<Real, Stored>(shape_.dim)) {
            for (int64_t v = 0; v < shape_.vectors; ++v)
                if (memory_.whole[v / 2 * 2]) score_digits_of(rows, block, v);
            return;
        }
        pack(rows, block);
        score_whole(block, queries_);
    }

    // Writes the products of the packed rows with those pairs of vectors of `operands` that are multiplied whole.
    void score_whole(const Block& block, const Real* operands) {
        // some panels of the rows, for all queries: they stay in the second cache, however many rows there are
        for (int64_t first = 0; first < shape_.panels; first += kPanelsTogether)
            for (int64_t v = 0; v < shape_.vectors; v += 2)
                if (memory_.whole[v]) score_panels(block, operands, v, first);
    }

    // Adds the products of some panels of a block, from `first` on, with a pair of vectors to their logits.
    void score_panels(const Block& block, const Real* operands, int64_t v, int64_t first) {
        const int64_t length = shape_.panels * P, step = shape_.block * W;
        const int64_t stop = std::min(first + kPanelsTogether, shape_.panels);
        for (int64_t r = 0; r < block.count; r += Tile<Real>::rows) {
            const ScoreOperands<Real> of{memory_.rows + r * P, operands + v * W * length,         shape_.block * P,
                                         shape_.dim,           memory_.logits + v * step + r * W, step};
            v + 1 < shape_.vectors ? score_tile<Real, 2>(of, first, stop, ahead_)
                                   : score_tile<Real, 1>(of, first, stop, ahead_);
        }
    }

    void score_digits_of(const Stored* rows, const Block& block, int64_t v) {
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value && sizeof(Stored) == 1)
            for (int64_t r = 0; r < block.count; r += kDigitRows)
                score_digit_tile(rows + r * shape_.dim, block.count - r, shape_.dim,
                                 shared_.digit_panels + v * kDigits * shape_.dim * W, shared_.offsets + v * W,
                                 shared_.units + v * W, memory_.logits + (v * shape_.block + r) * W, ahead_);
#else
        (void)rows, (void)block, (void)v;
#endif
    }

    void soften(const Block& block) {
        for (int64_t v = 0; v < shape_.vectors; ++v) VectorSoftmax<Real>(problem_, shape_, memory_, v).add(block);
    }

    void weigh(const Stored* rows, const Block& block) {
        bool all = true, some = false;
        for (int64_t t = 0; t < shape_.tiles; ++t) {
            const bool used = use_digits(block, t);
            all = all && (used || memory_.count[t] == 0), some = some || used;
        }
        if (!all) pack(rows, block);
        if (some) group(rows, block);
        for (int64_t p = 0; p < shape_.panels; ++p)
            for (int64_t t = 0; t < shape_.tiles; ++t)
                if (some && memory_.digit_weights[t].used)
                    weigh_digits(block, p, t);
                else if (memory_.count[t] == block.count)
                    weigh_panel<true>(p, t);
                else if (memory_.count[t] > 0)
                    weigh_panel<false>(p, t);
        for (int64_t t = 0; t < shape_.tiles; ++t) count_pending(t);
    }

    // Brings the weights of a tile of queries into digits where these serve; returns whether they do.
    bool use_digits(const Block& block, int64_t t) {
        if (memory_.digit_weights == nullptr) return false;
        DigitWeights& weights = memory_.digit_weights[t];
        weights.used = false;
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value) {
            const int64_t count = memory_.count[t];
            const bool dense = count >= kDense * static_cast<double>(block.count) && block.count <= kMostWeighed;
            if (!dense || !by_digit_tiles<Real, Stored>(shape_.dim)) return false;
            const float* packed = memory_.packed + t * shape_.block * Q;
            set_units(packed, count, weights);
            weights.used = fine(block, t, weights);
            if (weights.used)
                write_weights(block.first, memory_.index + t * shape_.block, packed, count,
                              padded(block.count, kRowsAtOnce) / kRowsAtOnce, weights);
        }
#else
        (void)block;
#endif
        return weights.used;
    }

    // Whether what digits leave of the weights of a block is too little to show in a mean; if so, it is kept in mind.
    bool fine(const Block& block, int64_t t, const DigitWeights& weights) {
        double left[Q];
        const int64_t queries = std::min<int64_t>(Q, shape_.batch - t * Q);
        for (int64_t q = 0; q < queries; ++q) {
            const double each = kHalfDigit * weights.unit[q];
            left[q] = memory_.rounded[t * Q + q] + block.count * each * each;
            const double most = kFineMean * memory_.mass[t * Q + q];
            if (!(left[q] <= most * most)) return false;
        }
        std::copy_n(left, queries, memory_.rounded + t * Q);
        return true;
    }

    void group(const Stored* rows, const Block& block) {
#if defined(__AVX512VNNI__)
        if constexpr (sizeof(Stored) == 1) group_rows(rows, block.count, shape_.dim, memory_.groups);
#else
        (void)rows, (void)block;
#endif
    }

    void weigh_digits(const Block& block, int64_t p, int64_t t) {
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value) {
            const int64_t groups = padded(block.count, kRowsAtOnce) / kRowsAtOnce;
            const uint8_t* panel = memory_.groups + p * groups * Tile<Real>::panel_vectors * 64;
            float* sums = memory_.sums + shape_.offset(p, t * Q);
            for (int first = 0; first < Q; first += 4)
                weigh_digit_tile(panel, groups, memory_.digit_weights[t], first, shared_.whole_centre + p * P,
                                 sums + first * P);
            if (p == 0) *memory_.weighed += block.count * std::min<int64_t>(Q, shape_.batch - t * Q);
        }
#else
        (void)block, (void)p, (void)t;
#endif
    }

    template <bool ALL>
    void weigh_panel(int64_t p, int64_t t) {
        const int64_t left = padded(std::min(P, shape_.dim - p * P), W) / W, count = memory_.count[t];
        const Real* panel = memory_.rows + p * shape_.block * P;
        const int32_t* index = memory_.index + t * shape_.block;
        const Real* weights = memory_.packed + t * shape_.block * Q;
        Real* sums = memory_.sums + shape_.offset(p, t * Q);
        if (left == 3)
            weigh_tile<Real, 3, ALL>(panel, index, weights, count, sums);
        else if (left == 2)
            weigh_tile<Real, 2, ALL>(panel, index, weights, count, sums);
        else
            weigh_tile<Real, 1, ALL>(panel, index, weights, count, sums);
    }

    void count_pending(int64_t tile) {
        memory_.pending[tile] += memory_.count[tile];
        if (memory_.pending[tile] < kLongestSum) return;
        empty_sums(shape_, memory_, tile);
    }

    void few(const Block& block) {
        const Stored* rows = rows_ + block.first * shape_.dim;
        score_few_rows(rows, block);
        for (int64_t b = 0; b < shape_.batch; ++b) {
            RowSoftmax<Real>(problem_, shape_, memory_, b).add(block);
            const int64_t count = memory_.count[b], list = b * shape_.block;
            if (!problem_.wants_mean || count == 0) continue;
            weigh_few(rows, memory_.index + list, memory_.packed + list, count, shape_, centre_,
                      memory_.sums + shape_.offset(0, b));
            count_pending(b);
        }
    }

    // See few_queries() for how many there may be.
    void score_few_rows(const Stored* rows, const Block& block) {
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value && sizeof(Stored) == 1) {
            if (shared_.digits != nullptr && fits_digits(shape_.dim)) {
                for (int64_t b = 0; b < shape_.batch; ++b)
                    score_digits(rows, block.count, shape_.dim, shared_.in_digits[b],
                                 memory_.logits + b * shape_.rows());
                return;
            }
        }
#endif
        if (shape_.batch == 1)
            score_few<Real, Stored, 1>(rows, block.count, shape_, centre_, queries_, memory_.logits);
        else
            score_few<Real, Stored, 2>(rows, block.count, shape_, centre_, queries_, memory_.logits);
    }
};

}  // namespace oracle
