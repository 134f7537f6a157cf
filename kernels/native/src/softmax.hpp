// The running softmax of a scan: from the products of a block with a vector of queries to the rows that have weight.
#pragma once
#include "scan.hpp"

namespace oracle {

// weights may exceed one by e^20 before the sums are rescaled
constexpr double kSlack = 20.0;

// A block of rows [first, first + count) of the data.
struct Block {
    int64_t first, count;
};

// One vector of queries against the blocks of a thread's share.
template <class Real>
class VectorSoftmax {
  public:
    using V = Vector<Real>;
    using Mask = typename Simd<Real>::Mask;
    static constexpr int W = Tile<Real>::lanes, Q = Tile<Real>::queries;

    VectorSoftmax(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>& memory, int64_t vector)
        : problem_(problem),
          shape_(shape),
          memory_(memory),
          first_(vector * W),
          logits_(memory.logits + vector * W * shape.block),
          weights_(memory.weights) {}

    // Turns products into weights, and lists, for every tile of queries, the rows that have any.
    __attribute__((noinline)) void add(const Block& block) {
        const V top = finish_logits(block);
        const Mask active = top >= load(memory_.floor + first_);
        for (int tile = 0; tile < W / Q; ++tile) memory_.count[first_ / Q + tile] = 0;
        if (shape_.top) offer_top(block, top);
        if (!any<Real>(active)) return;
        raise_references(top, active);
        exponentiate(block, active);
        for (int lane = 0; lane < W; ++lane)
            if (active[lane]) move_windows(block, lane, top[lane]);
        sum(block);
    }

  private:
    const ScanProblem& problem_;
    const Shape<Real>& shape_;
    Memory<Real>& memory_;
    const int64_t first_;
    Real *logits_, *weights_;

    // Adds norms and weights to the products, takes out what is excluded, and returns the largest logits.
    V finish_logits(const Block& block) {
        V bias, top = broadcast(-std::numeric_limits<Real>::infinity());
        for (int lane = 0; lane < W; ++lane)
            bias[lane] = first_ + lane < shape_.batch ? static_cast<Real>(problem_.bias[first_ + lane]) : Real(0);
        exclude(block);
        for (int64_t r = 0; r < block.count; ++r) {
            const V shift = bias * memory_.half_norms[r] + memory_.log_weights[r];
            const V logit = load(logits_ + r * W) + shift;
            store(logits_ + r * W, logit);
            top = select<Real>(logit > top, logit, top);
        }
        return top;
    }

    void exclude(const Block& block) {
        for (int lane = 0; lane < W && first_ + lane < shape_.batch; ++lane)
            for (int64_t h = 0; h < problem_.ranges; ++h) {
                const int64_t* range = problem_.excluded + ((first_ + lane) * problem_.ranges + h) * 2;
                const int64_t start = std::max(range[0] - block.first, int64_t{0});
                const int64_t stop = std::min(range[1] - block.first, block.count);
                for (int64_t r = start; r < stop; ++r) logits_[r * W + lane] = -std::numeric_limits<Real>::infinity();
            }
    }

    // Keeps the rows of the largest logits, in falling order.
    void offer_top(const Block& block, V top) {
        const int64_t most = shape_.top;
        for (int lane = 0; lane < W; ++lane) {
            const int64_t b = first_ + lane;
            Real* logits = memory_.top_logits + b * most;
            int64_t* rows = memory_.top_rows + b * most;
            if (!(top[lane] > logits[most - 1])) continue;
            for (int64_t r = 0; r < block.count; ++r) {
                const Real logit = logits_[r * W + lane];
                if (!(logit > logits[most - 1])) continue;
                int64_t place = most - 1;
                for (; place > 0 && logit > logits[place - 1]; --place)
                    logits[place] = logits[place - 1], rows[place] = rows[place - 1];
                logits[place] = logit, rows[place] = block.first + r;
            }
        }
    }

    // Moves the references that the largest logits have left behind, and rescales the sums of these queries.
    void raise_references(V top, Mask active) {
        for (int lane = 0; lane < W; ++lane) {
            const int64_t b = first_ + lane;
            Real& reference = memory_.reference[b];
            if (!active[lane] || !(top[lane] > reference + Real(kSlack))) continue;
            const double step = memory_.met[b] > 0.0 ? double(reference) - double(top[lane]) : 0.0;
            reference = top[lane];
            if (step == 0.0) continue;
            const double factor = std::exp(step);
            memory_.first_logit[b] = factor * (memory_.first_logit[b] + step * memory_.mass[b]);
            memory_.met[b] *= factor, memory_.mass[b] *= factor, memory_.half_norm[b] *= factor;
            memory_.squares[b] *= factor * factor;
            if (problem_.wants_mean) rescale(b, factor);
        }
    }

    void rescale(int64_t b, double factor) {
        for (int64_t p = 0; p < shape_.panels; ++p) {
            const int64_t at = shape_.offset(p, b);
            for (int64_t d = 0; d < shape_.width; ++d) memory_.sums[at + d] *= static_cast<Real>(factor);
            for (int64_t d = 0; memory_.total && d < shape_.width; ++d) memory_.total[at + d] *= factor;
        }
    }

    // Weights of all rows, and their sums into what was met.
    void exponentiate(const Block& block, Mask active) {
        const V infinite = broadcast(std::numeric_limits<Real>::infinity());
        const V reference = select<Real>(active, load(memory_.reference + first_), infinite);
        V mass{};
        for (int64_t r = 0; r < block.count; ++r) {
            const V weight = exponential(load(logits_ + r * W) - reference);
            store(weights_ + r * W, weight);
            mass += weight;
        }
        for (int lane = 0; lane < W; ++lane) memory_.met[first_ + lane] += mass[lane];
    }

    // Moves the floor below which rows have no weight, and lists the rows whose rounding would show.
    void move_windows(const Block& block, int lane, Real top) {
        const int64_t b = first_ + lane;
        const double known = double(memory_.reference[b]) + std::log(memory_.met[b]);
        const double partition = std::max(known, double(top));
        const Windows window = windows_at(problem_.scan, problem_.law[b], partition);
        memory_.floor[b] = std::max(memory_.floor[b], static_cast<Real>(partition - window.weight));
        const Real floor = static_cast<Real>(partition - window.rescore);
        if (!(top >= floor) || memory_.list_count[b] > shape_.listed) return;
        for (int64_t r = 0; r < block.count; ++r) {
            if (!(logits_[r * W + lane] >= floor)) continue;
            const int64_t place = memory_.list_count[b]++;
            if (place >= shape_.listed) return;
            memory_.list_rows[b * shape_.listed + place] = block.first + r;
            memory_.list_logits[b * shape_.listed + place] = logits_[r * W + lane];
            weights_[r * W + lane] = 0;
        }
    }

    // Sums of the weights that are left, and the rows that have any for a tile of queries.
    void sum(const Block& block) {
        const V floor = load(memory_.floor + first_), reference = load(memory_.reference + first_);
        V mass{}, squares{}, first_logit{}, half_norm{};
        for (int64_t r = 0; r < block.count; ++r) {
            const V logit = load(logits_ + r * W);
            const V weight = select<Real>(logit >= floor, load(weights_ + r * W), V{});
            mass += weight;
            if (problem_.wants_moments) {
                squares += weight * weight;
                first_logit += select<Real>(weight > V{}, weight * (logit - reference), V{});
                half_norm += weight * memory_.half_norms[r];
            }
            if (problem_.wants_mean) compact(r, weight);
        }
        for (int lane = 0; lane < W; ++lane) {
            const int64_t b = first_ + lane;
            memory_.mass[b] += mass[lane], memory_.squares[b] += squares[lane];
            memory_.first_logit[b] += first_logit[lane], memory_.half_norm[b] += half_norm[lane];
        }
    }

    // Writes the weights of a row to the tiles in which it has any: no further than they were read.
    void compact(int64_t r, V weight) {
        for (int tile = 0; tile < W / Q; ++tile) {
            Real largest = 0;
            for (int q = 0; q < Q; ++q) largest = std::max(largest, weight[tile * Q + q]);
            if (!(largest > 0)) continue;
            const int64_t t = first_ / Q + tile;
            const int64_t place = memory_.count[t]++;
            memory_.index[t * shape_.block + place] = static_cast<int32_t>(r);
            for (int q = 0; q < Q; ++q) memory_.packed[(t * shape_.block + place) * Q + q] = weight[tile * Q + q];
        }
    }
};

}  // namespace oracle
