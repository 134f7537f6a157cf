// What a thread does with its share of the rows: block by block both products and the softmax between them.
#pragma once
#include "blocks/digit_scores.hpp"
#include "blocks/sift.hpp"
#include "blocks/softmax.hpp"
#include "blocks/sums.hpp"
#include "blocks/weighed_digits.hpp"
#include "blocks/weight_changes.hpp"
#include "products/few.hpp"
#include "products/rows.hpp"
#include "products/stored_tiles.hpp"

namespace oracle {

// panels of coordinates that one pass of the first product sums: its operands stay in the first cache
constexpr int64_t kPanelsTogether = 5;

// From so many pairs of a row that has weight with a tile of queries on, for each row of a block, it pays to bring all
// of these into panels: one that is read as it is stored costs a third more than one of a panel.
constexpr int64_t kWorthPanels = 1;

// rows summed in single precision before the sums are emptied into double precision
constexpr int32_t kMostPending = 1024;

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
          use_(shared.use),
          digits_(shape, shared, memory) {}

    // Adds the rows [start, stop).
    void run(int64_t start, int64_t stop) {
        const MatrixUnit unit;
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
    DigitScores<Real, Stored> digits_;
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
        for (int64_t r = 0; use_.any() && r < block.count; ++r) {
            memory_.norms[r] = static_cast<Real>(std::sqrt(2.0 * problem_.half_norms[block.first + r]) * kNormUpward);
            memory_.scales[r] = 1, memory_.errors[r] = 0;
        }
    }

    void many(const Block& block) {
        const Stored* rows = rows_ + block.first * shape_.dim;
        packed_ = false;
        if (use_.any()) digits_.begin(rows, block, some_leading());
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

    // Whether leading digits are multiplied first for some queries.
    bool some_leading() const {
        for (int64_t v = 0; v < shape_.vectors; v += 2)
            if (memory_.patience[v].left == 0) return true;
        return false;
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
            digits_.leading(rows, block, v, last, ahead_);
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

    // Scores all rows of a block for the pairs of vectors of queries that are multiplied whole.
    void score(const Stored* rows, const Block& block) {
        if (use_.rows && by_digit_tiles<Real, Stored>(shape_.dim)) {
            for (int64_t v = 0; v < shape_.vectors; ++v)
                if (memory_.whole[v / 2 * 2]) digits_.whole(rows, block, v, ahead_);
            return;
        }
        if (digits_.planes_serve()) {
            digits_.refine(rows, block);
            for (int64_t v = 0; v < shape_.vectors; ++v)
                if (memory_.whole[v / 2 * 2]) digits_.planes(block, v);
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

    void soften(const Block& block) {
        for (int64_t v = 0; v < shape_.vectors; ++v) VectorSoftmax<Real>(problem_, shape_, memory_, v).add(block);
    }

    void weigh(const Stored* rows, const Block& block) {
        WeighedDigits<Real, Stored> digits(problem_, shape_, shared_, memory_, block);
        // pairs of a row that has weight with a tile of queries
        int64_t pairs = 0;
        bool some = false;
        for (int64_t t = 0; t < shape_.tiles; ++t) {
            const bool used = (!use_.planes || digits_.planes_serve()) && digits.take(t);
            pairs += used ? 0 : memory_.count[t], some = some || used;
        }
        if (pairs >= kWorthPanels * block.count) pack(rows, block);
        if (some && digits_.planes_serve()) digits_.refine(rows, block);
        for (int64_t p = 0; p < shape_.panels; ++p) {
            if (some) digits.group(rows, p);
            for (int64_t v = 0; some && v < shape_.vectors; ++v) digits.weigh(p, v);
            for (int64_t t = 0; pairs > 0 && t < shape_.tiles; ++t)
                if (!some || !memory_.digit_weights[t].used) weigh_panel(rows, block, p, t);
        }
        for (int64_t t = 0; t < shape_.tiles; ++t) count_pending(t);
    }

    // Adds the weighted sums of a panel to those of a tile of queries.
    void weigh_panel(const Stored* rows, const Block& block, int64_t p, int64_t t) {
        const int64_t count = memory_.count[t], left = padded(std::min(P, shape_.dim - p * P), W) / W;
        if (count == 0) return;
        const int32_t* index = memory_.index + t * shape_.block;
        const Real* weights = memory_.packed + t * shape_.block * Q;
        Real* sums = memory_.sums + shape_.offset(p, t * Q);
        if (packed_)
            weigh_panel_tile<Real>(memory_.rows + p * shape_.block * P, index, weights, count, left,
                                   count == block.count, sums);
        else
            weigh_stored_tile(rows, p * P, left, shape_, centre_, index, weights, count, sums);
    }

    void count_pending(int64_t tile) {
        memory_.pending[tile] += memory_.count[tile];
        if (memory_.pending[tile] < kMostPending) return;
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
