// Rotation and attention within each sequence of a packed batch, forward and backward, in one pass over the scores.
//
// Scores never reach memory: a tile of them lives in registers, is turned into weights there and multiplied on.
// The forward keeps one number a query, the logarithm of its softmax's denominator; the backward computes the scores
// again from it (Dao et al. 2022). Most heads' scores are so small that exp cannot overflow; where the norms prove
// it, no maximum is searched for. Each head of a sequence is one task; threads take tasks from one queue, the
// longest first, and no result depends on which thread took it.
#include <atomic>
#include <numeric>

#include "backward.h"
#include "forward.h"

namespace {

typedef void (*Work)(const Problem&, const Task&, Scratch&);

// Longest sequences first. The forward cuts long ones, as all its queries are independent.
std::vector<Task> tasks_of(const int64_t* lengths, int64_t count, int heads, int cut) {
    std::vector<int64_t> starts(count), order(count);
    for (int64_t i = 0, start = 0; i < count; start += lengths[i++]) starts[i] = start;
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
    std::vector<Task> tasks;
    for (int64_t i : order)
        for (int head = 0; head < heads; ++head)
            for (int64_t first = 0; first < lengths[i]; first += cut)
                tasks.push_back({starts[i], int(lengths[i]), head, int(first), int(std::min(lengths[i], first + cut))});
    return tasks;
}

int run(const Problem& p, const int64_t* lengths, int64_t count, bool bfloat, bool is_forward, int threads) {
    try {
        const Work work = is_forward ? (bfloat ? forward<Half> : forward<Full>) : bfloat ? backward<Half> : backward<Full>;
        const std::vector<Task> tasks = tasks_of(lengths, count, p.heads, is_forward ? 512 : 1 << 30);
        std::atomic<size_t> next{0};
        std::atomic<bool> out_of_memory{false};
#pragma omp parallel num_threads(threads)
        {
            static thread_local Scratch scratch;
            try {
                for (size_t i; (i = next.fetch_add(1)) < tasks.size();) {
                    scratch.begin();
                    work(p, tasks[i], scratch);
                }
            } catch (const std::bad_alloc&) {
                out_of_memory = true;
            }
        }
        return out_of_memory;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

// Both return 0, or 1 where memory ran out. `lse` is (heads, tokens) float32, base 2; the forward's may be null.
extern "C" int plmft_attention_forward(const void* qkv, void* out, float* lse, const float* cosine, const float* sine,
                                       const int64_t* lengths, int64_t count, int64_t tokens, int heads, int width,
                                       float scale, int bfloat, int threads) {
    const Problem p = {qkv, nullptr, nullptr, out, lse, cosine, sine, tokens, heads, width, scale};
    return run(p, lengths, count, bfloat, true, threads);
}

extern "C" int plmft_attention_backward(const void* qkv, const void* out, const void* grad, void* result,
                                        const float* lse, const float* cosine, const float* sine,
                                        const int64_t* lengths, int64_t count, int64_t tokens, int heads, int width,
                                        float scale, int bfloat, int threads) {
    const Problem p = {qkv,  out,    grad,  result, const_cast<float*>(lse), cosine, sine, tokens,
                       heads, width, scale};
    return run(p, lengths, count, bfloat, false, threads);
}
