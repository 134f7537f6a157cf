// The running softmax of a scan: from the products of a block with a vector of queries to the rows that have weight.
#pragma once
#include <numeric>

#include "products/scan.hpp"

namespace oracle {

// weights may exceed one by e^20 before the sums are rescaled
constexpr double kSlack = 20.0;

// rows with weight along a direction that are listed, as well as uncertain ones: so many, and a share of those before
constexpr double kFewListed = 8.0, kSparse = 0.1;

// A block of rows [first, first + count) of the data.
struct Block {
    int64_t first, count;
};

// One query's logits or weights of a block: those of row r at [r * step].
template <class Real>
struct Column {
    int64_t query;
    Real *logits, *weights;
    int64_t step;
};

// What a query does with the logits of a block, one by one: rows that are excluded, named or listed.
template <class Real>
class QuerySoftmax {
  public:
    QuerySoftmax(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>& memory)
        : problem_(problem), shape_(shape), memory_(memory) {}

  protected:
    const ScanProblem& problem_;
    const Shape<Real>& shape_;
    Memory<Real>& memory_;

    void exclude(const Block& block, const Column<Real>& of) {
        for (int64_t h = 0; h < problem_.ranges; ++h) {
            const int64_t* range = problem_.excluded + (of.query * problem_.ranges + h) * 2;
            const int64_t start = std::max(range[0] - block.first, int64_t{0});
            const int64_t stop = std::min(range[1] - block.first, block.count);
            for (int64_t r = start; r < stop; ++r) of.logits[r * of.step] = -std::numeric_limits<Real>::infinity();
        }
    }

    // Keeps the rows of the largest logits, in falling order; top: the largest of the block.
    void offer_top(const Block& block, const Column<Real>& of, Real top) {
        const int64_t most = shape_.top;
        Real* logits = memory_.top_logits + of.query * most;
        int64_t* rows = memory_.top_rows + of.query * most;
        if (!(top > logits[most - 1])) return;
        for (int64_t r = 0; r < block.count; ++r) {
            const Real logit = of.logits[r * of.step];
            if (!(logit > logits[most - 1])) continue;
            int64_t place = most - 1;
            for (; place > 0 && logit > logits[place - 1]; --place)
                logits[place] = logits[place - 1], rows[place] = rows[place - 1];
            logits[place] = logit, rows[place] = block.first + r;
        }
    }

    // Moves a reference that the largest logit has left behind, and rescales the sums of the query.
    void raise_reference(int64_t b, Real top) {
        Real& reference = memory_.reference[b];
        if (!(top > reference + Real(kSlack))) return;
        const double step = memory_.met[b] > 0.0 ? double(reference) - double(top) : 0.0;
        reference = top;
        if (step == 0.0) return;
        const double factor = std::exp(step);
        memory_.first_logit[b] = factor * (memory_.first_logit[b] + step * memory_.mass[b]);
        memory_.met[b] *= factor, memory_.mass[b] *= factor, memory_.half_norm[b] *= factor;
        memory_.squares[b] *= factor * factor, memory_.rounded[b] *= factor * factor;
        memory_.shares[b] *= factor;
        if (problem_.wants_mean) rescale(b, factor);
    }

    // Moves the floor below which rows have no weight, and returns the logit from which on rounding would show;
    // infinite where no row of a block with the largest logit `top` reaches it, or where too many are listed already.
    Real move_windows(int64_t b, Real top) {
        const double known = double(memory_.reference[b]) + std::log(memory_.met[b]);
        const double partition = least_partition(problem_, b, std::max(known, double(top)));
        const Windows window = windows_at(problem_.scan, problem_.law[b], partition);
        memory_.floor[b] = std::max(memory_.floor[b], static_cast<Real>(partition - window.weight));
        Real floor = static_cast<Real>(partition - window.rescore);
        if (problem_.changes.vector) floor = listed_from(b, floor);
        const bool some = top >= floor && memory_.list_count[b] <= shape_.listed;
        return some ? floor : std::numeric_limits<Real>::infinity();
    }

    // Lists row r of a block, which has no weight among the rows that are summed; one too many is counted only.
    void list(const Block& block, const Column<Real>& of, int64_t r) {
        const int64_t place = memory_.list_count[of.query];
        if (place > shape_.listed || (problem_.changes.vector && summed(of.query, of.logits[r * of.step]))) return;
        ++memory_.list_count[of.query];
        if (place == shape_.listed) return;
        memory_.list_rows[of.query * shape_.listed + place] = block.first + r;
        memory_.list_logits[of.query * shape_.listed + place] = of.logits[r * of.step];
        of.weights[r * of.step] = 0;
    }

  private:
    // Along directions rows are listed from the `uncertain` logits on, or whatever has weight as long as this is
    // little: to sum few differences costs less than products of all rows with the directions.
    Real listed_from(int64_t b, Real uncertain) {
        memory_.uncertain[b] = uncertain;
        return memory_.sparse[b] ? memory_.floor[b] : uncertain;
    }

    // Whether a row with weight is left to the sums.
    bool summed(int64_t b, Real logit) {
        if (logit >= memory_.uncertain[b]) return false;
        const double most = kFewListed + kSparse * *memory_.seen;
        memory_.sparse[b] = memory_.sparse[b] && memory_.list_count[b] < most;
        return !memory_.sparse[b];
    }

    void rescale(int64_t b, double factor) {
        const bool emptied = memory_.total != nullptr && memory_.emptied[b / shape_.of_tile];
        for (int64_t p = 0; p < shape_.panels; ++p) {
            const int64_t at = shape_.offset(p, b);
            for (int64_t d = 0; d < shape_.width; ++d) memory_.sums[at + d] *= static_cast<Real>(factor);
            for (int64_t d = 0; emptied && d < shape_.width; ++d) memory_.total[at + d] *= factor;
        }
    }
};

// One vector of queries against the blocks of a thread's share: a lane is a query.
template <class Real>
class VectorSoftmax : QuerySoftmax<Real> {
  public:
    using V = Vector<Real>;
    using Mask = typename Simd<Real>::Mask;
    static constexpr int W = Tile<Real>::lanes, Q = Tile<Real>::queries, TILES = W / Q;

    VectorSoftmax(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>& memory, int64_t vector)
        : QuerySoftmax<Real>(problem, shape, memory),
          first_(vector * W),
          logits_(memory.logits + vector * W * shape.block),
          weights_(memory.weights) {}

    // Turns products into weights, and lists, for every tile of queries, the rows that have any.
    __attribute__((noinline)) void add(const Block& block) {
        const auto [top, least] = finish_logits(block);
        const Mask active = top >= load(memory_.floor + first_);
        for (int tile = 0; tile < W / Q; ++tile) memory_.count[first_ / Q + tile] = 0;
        for (int lane = 0; shape_.top && lane < W; ++lane) this->offer_top(block, column(lane), top[lane]);
        if (!any<Real>(active)) return;
        for (int lane = 0; lane < W; ++lane)
            if (active[lane]) this->raise_reference(first_ + lane, top[lane]);
        exponentiate(block, active);
        list_rows(block, active, top);
        sum(block, least);
    }

  private:
    // The largest and the smallest logits of a block.
    struct Ends {
        V top, least;
    };

    using QuerySoftmax<Real>::problem_;
    using QuerySoftmax<Real>::shape_;
    using QuerySoftmax<Real>::memory_;
    const int64_t first_;
    Real *logits_, *weights_;

    Column<Real> column(int lane) const { return {first_ + lane, logits_ + lane, weights_ + lane, W}; }

    // Adds norms and weights to the products, takes out what is excluded, and returns the ends of the logits.
    Ends finish_logits(const Block& block) {
        const V infinite = broadcast(std::numeric_limits<Real>::infinity());
        V bias, top = -infinite, least = infinite;
        for (int lane = 0; lane < W; ++lane) {
            const bool real = first_ + lane < shape_.batch;
            bias[lane] = real ? static_cast<Real>(problem_.bias[first_ + lane]) : Real(0);
            if (real) this->exclude(block, column(lane));
        }
        for (int64_t r = 0; r < block.count; ++r) {
            const V shift = bias * memory_.half_norms[r] + memory_.log_weights[r];
            const V logit = load(logits_ + r * W) + shift;
            store(logits_ + r * W, logit);
            top = larger<Real>(logit, top), least = smaller<Real>(logit, least);
        }
        return {top, least};
    }

    // Weights of all rows, and their sums into what was met.
    void exponentiate(const Block& block, Mask active) {
        const V infinite = broadcast(std::numeric_limits<Real>::infinity());
        const V reference = select<Real>(active, load(memory_.reference + first_), infinite);
        V mass{};
        const int64_t count = block.count;
        for (int64_t r = 0; r < count; ++r) {
            const V weight = exponential(load(logits_ + r * W) - reference);
            store(weights_ + r * W, weight);
            mass += weight;
        }
        for (int lane = 0; lane < W; ++lane) memory_.met[first_ + lane] += mass[lane];
    }

    void list_rows(const Block& block, Mask active, V top) {
        V floor = broadcast(std::numeric_limits<Real>::infinity());
        for (int lane = 0; lane < W; ++lane)
            if (active[lane]) floor[lane] = this->move_windows(first_ + lane, top[lane]);
        if (!any<Real>(top >= floor)) return;
        for (int64_t r = 0; r < block.count; ++r)
            for (uint32_t some = lanes_of<Real>(load(logits_ + r * W) >= floor); some; some &= some - 1)
                this->list(block, column(__builtin_ctz(some)), r);
    }

    // The weight of a row that is left, on this side of the floor.
    ORACLE_MEMBER V weight_of(int64_t r, V floor) const {
        return select<Real>(load(logits_ + r * W) >= floor, load(weights_ + r * W), V{});
    }

    // Sums of the weights that are left, of a block with such least logits.
    void sum(const Block& block, V least) {
        if (problem_.wants_moments) add_moments(block);
        const V floor = load(memory_.floor + first_);
        V mass{};
        // no logit reaches the floor of a lane without a query
        if (problem_.wants_mean)
            mass = any<Real>(~(least >= floor)) ? compact(block, floor) : take_all(block);
        else
            for (int64_t r = 0; r < block.count; ++r) mass += weight_of(r, floor);
        for (int lane = 0; lane < W; ++lane) memory_.mass[first_ + lane] += mass[lane];
    }

    // Writes the weights of the rows that have any for a tile of queries, and returns the sums of all.
    V compact(const Block& block, V floor) {
        // of its own: what is written is none of what is read
        int32_t* const index = memory_.index + first_ / Q * shape_.block;
        Real* const packed = memory_.packed + first_ * shape_.block;
        const int64_t step = shape_.block, count = block.count;
        int64_t place[TILES] = {};
        V mass{};
        for (int64_t r = 0; r < count; ++r) {
            const V weight = weight_of(r, floor);
            const uint32_t some = lanes_of<Real>(weight > V{});
            mass += weight;
#pragma GCC unroll 4
            for (int tile = 0; tile < TILES; ++tile) {
                // a row without weight is written over by the next
                const int64_t at = tile * step + place[tile];
                index[at] = static_cast<int32_t>(r);
                std::memcpy(packed + at * Q, reinterpret_cast<const char*>(&weight) + tile * Q * sizeof(Real),
                            Q * sizeof(Real));
                place[tile] += (some >> tile * Q & ((1u << Q) - 1)) != 0;
            }
        }
        for (int tile = 0; tile < TILES; ++tile) memory_.count[first_ / Q + tile] = static_cast<int32_t>(place[tile]);
        return mass;
    }

    // Writes the weights of a block whose rows all have some, and returns their sums.
    V take_all(const Block& block) {
        int32_t* const index = memory_.index + first_ / Q * shape_.block;
        Real* const packed = memory_.packed + first_ * shape_.block;
        const int64_t step = shape_.block, count = block.count;
        V mass{};
        for (int64_t r = 0; r < count; ++r) {
            const V weight = load(weights_ + r * W);
            mass += weight;
#pragma GCC unroll 4
            for (int tile = 0; tile < TILES; ++tile)
                std::memcpy(packed + (tile * step + r) * Q,
                            reinterpret_cast<const char*>(&weight) + tile * Q * sizeof(Real), Q * sizeof(Real));
        }
        for (int tile = 0; tile < TILES; ++tile) {
            std::iota(index + tile * step, index + tile * step + count, 0);
            memory_.count[first_ / Q + tile] = static_cast<int32_t>(count);
        }
        return mass;
    }

    void add_moments(const Block& block) {
        const V floor = load(memory_.floor + first_), reference = load(memory_.reference + first_);
        V squares{}, first_logit{}, half_norm{};
        for (int64_t r = 0; r < block.count; ++r) {
            const V logit = load(logits_ + r * W);
            const V weight = weight_of(r, floor);
            squares += weight * weight;
            first_logit += select<Real>(weight > V{}, weight * (logit - reference), V{});
            half_norm += weight * memory_.half_norms[r];
        }
        for (int lane = 0; lane < W; ++lane) {
            const int64_t b = first_ + lane;
            memory_.squares[b] += squares[lane];
            memory_.first_logit[b] += first_logit[lane], memory_.half_norm[b] += half_norm[lane];
        }
    }
};

// One query against the blocks of a thread's share: a lane is a row.
template <class Real>
class RowSoftmax : QuerySoftmax<Real> {
  public:
    using V = Vector<Real>;
    static constexpr int W = Tile<Real>::lanes;

    RowSoftmax(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>& memory, int64_t query)
        : QuerySoftmax<Real>(problem, shape, memory),
          of_{query, memory.logits + query * shape.rows(), memory.weights, 1} {}

    // Turns products into weights, and lists the rows that have any.
    __attribute__((noinline)) void add(const Block& block) {
        const int64_t b = of_.query, width = padded(block.count, W);
        const Real top = finish_logits(block, width);
        memory_.count[b] = 0;
        if (shape_.top) this->offer_top(block, of_, top);
        if (!(top >= memory_.floor[b])) return;
        this->raise_reference(b, top);
        const V reference = broadcast(memory_.reference[b]);
        V mass{};
        for (int64_t r = 0; r < width; r += W) {
            const V weight = exponential(load(of_.logits + r) - reference);
            store(of_.weights + r, weight);
            mass += weight;
        }
        memory_.met[b] += lane_sum<Real>(mass);
        list_rows(block, top);
        sum(width);
    }

  private:
    using QuerySoftmax<Real>::problem_;
    using QuerySoftmax<Real>::shape_;
    using QuerySoftmax<Real>::memory_;
    const Column<Real> of_;

    Real finish_logits(const Block& block, int64_t width) {
        const V bias = broadcast(static_cast<Real>(problem_.bias[of_.query]));
        const Real nothing = -std::numeric_limits<Real>::infinity();
        this->exclude(block, of_);
        for (int64_t r = 0; r < width; r += W) {
            const V shift = bias * load(memory_.half_norms + r) + load(memory_.log_weights + r);
            store(of_.logits + r, load(of_.logits + r) + shift);
        }
        std::fill(of_.logits + block.count, of_.logits + width, nothing);
        V top = broadcast(nothing);
        for (int64_t r = 0; r < width; r += W) {
            const V logit = load(of_.logits + r);
            top = select<Real>(logit > top, logit, top);
        }
        Real largest = nothing;
        for (int lane = 0; lane < W; ++lane) largest = std::max<Real>(largest, top[lane]);
        return largest;
    }

    void list_rows(const Block& block, Real top) {
        const V floor = broadcast(this->move_windows(of_.query, top));
        if (!(top >= floor[0])) return;
        for (int64_t r = 0; r < block.count; r += W)
            for (uint32_t some = lanes_of<Real>(load(of_.logits + r) >= floor); some; some &= some - 1)
                this->list(block, of_, r + __builtin_ctz(some));
    }

    void sum(int64_t width) {
        const int64_t b = of_.query, list = b * shape_.block;
        const V floor = broadcast(memory_.floor[b]), reference = broadcast(memory_.reference[b]);
        V mass{}, squares{}, first_logit{}, half_norm{};
        for (int64_t r = 0; r < width; r += W) {
            const V logit = load(of_.logits + r);
            const V weight = select<Real>(logit >= floor, load(of_.weights + r), V{});
            mass += weight;
            if (problem_.wants_moments) {
                squares += weight * weight;
                first_logit += select<Real>(weight > V{}, weight * (logit - reference), V{});
                half_norm += select<Real>(weight > V{}, weight * load(memory_.half_norms + r), V{});
            }
            for (uint32_t some = problem_.wants_mean ? lanes_of<Real>(weight > V{}) : 0; some; some &= some - 1) {
                const int lane = __builtin_ctz(some);
                memory_.index[list + memory_.count[b]] = static_cast<int32_t>(r + lane);
                memory_.packed[list + memory_.count[b]++] = weight[lane];
            }
        }
        memory_.mass[b] += lane_sum<Real>(mass), memory_.squares[b] += lane_sum<Real>(squares);
        memory_.first_logit[b] += lane_sum<Real>(first_logit), memory_.half_norm[b] += lane_sum<Real>(half_norm);
    }
};

}  // namespace oracle
