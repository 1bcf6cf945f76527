// Training batches of chain search (compfast/tasks/chain_search.py), bit for bit. Words of a
// sequence: order, chain, asked node; of each node a remainder (later in a chain a step) and an
// item; of each wrong link the node it leads to, a step and an item; then the pairs' order.
#pragma once

#include "words.h"

namespace compfast {

constexpr int32_t CHAIN_SEARCH_ITEMS = 4096, CHAIN_SEARCH_NODES = 256, CHAIN_SEARCH_MODULUS = 64;

struct ChainSearchStream {
  const int32_t* steps = nullptr;  // [step_count] from a node to the next, modulo `modulus`
  int64_t step_count = 0;
  int32_t chains = 0, links = 0;  // links of each chain
  int32_t order = 0;              // steps from the asked node to the label; named: at most
  int32_t named = 0;              // 1: the token before the asked node says the order
  int32_t to_end = 0;             // 1: the label is its chain's last node
  int32_t wrong_links = 0;        // 1: one more link, from a wrong node, into each chain
  int32_t item_low = 0, item_count = 0, modulus = 0;
};

static inline int64_t chain_search_nodes(const ChainSearchStream& s) {
  return (int64_t)s.chains * ((int64_t)s.links + 1 + s.wrong_links);
}

static inline int64_t chain_search_pairs(const ChainSearchStream& s) {
  return (int64_t)s.chains * ((int64_t)s.links + s.wrong_links);
}

static inline int64_t chain_search_positions(const ChainSearchStream& s) {
  return 2 * chain_search_pairs(s) + s.named + 1;
}

// Blocks of four words that a sequence owns.
static inline int64_t chain_search_blocks(const ChainSearchStream& s) {
  const int64_t words =
      3 + 2 * chain_search_nodes(s) + s.chains * s.wrong_links + chain_search_pairs(s) - 1;
  return (words + 3) / 4;
}

// Items 0..item_count-1, of which each is taken at most once: those of a remainder stand `modulus`
// apart, the taken ones first.
struct ChainSearchItems {
  int32_t item[CHAIN_SEARCH_ITEMS];
  int32_t taken[CHAIN_SEARCH_MODULUS];   // of each remainder
  int32_t moved[CHAIN_SEARCH_NODES][2];  // what changed places, in order
  int32_t moves;
};

static inline void chain_search_exchange(ChainSearchItems& items, int32_t a, int32_t b) {
  const int32_t item = items.item[a];
  items.item[a] = items.item[b];
  items.item[b] = item;
}

static inline int32_t chain_search_take(const ChainSearchStream& s, ChainSearchItems& items,
                                        int32_t remainder, uint32_t word) {
  const int32_t size = (s.item_count - remainder + s.modulus - 1) / s.modulus;
  const int32_t taken = items.taken[remainder]++;
  const int32_t first = remainder + s.modulus * taken;
  const int32_t chosen = first + s.modulus * (int32_t)below(word, (uint32_t)(size - taken));
  chain_search_exchange(items, first, chosen);
  items.moved[items.moves][0] = first;
  items.moved[items.moves++][1] = chosen;
  return items.item[first];
}

// All items are left again, in their first order.
static inline void chain_search_return(ChainSearchItems& items, int32_t modulus) {
  while (items.moves > 0) {
    items.moves--;
    chain_search_exchange(items, items.moved[items.moves][0], items.moved[items.moves][1]);
  }
  for (int32_t i = 0; i < modulus; i++) items.taken[i] = 0;
}

static inline int32_t chain_search_step(const ChainSearchStream& s, uint32_t word) {
  return s.steps[below(word, (uint32_t)s.step_count)];
}

static inline void chain_search_sequence(const ChainSearchStream& s, Words& words,
                                         ChainSearchItems& items, int32_t* tokens,
                                         int32_t* target) {
  const uint32_t order_word = next_word(words);
  const int32_t order = s.named != 0 ? 1 + (int32_t)below(order_word, (uint32_t)s.order) : s.order;
  const int32_t asked = (int32_t)below(next_word(words), (uint32_t)s.chains);
  const int32_t most = s.links - order;
  const int32_t start = (int32_t)below(next_word(words), (uint32_t)most + 1);
  const int32_t nodes = s.links + 1, at = s.to_end != 0 ? most : start;
  int32_t node[CHAIN_SEARCH_NODES], pairs = 0;  // [chains, links + 1]
  for (int32_t i = 0; i < s.chains * nodes; i++) {
    const uint32_t word = next_word(words);
    const int32_t remainder = i % nodes == 0
                                  ? (int32_t)below(word, (uint32_t)s.modulus)
                                  : (node[i - 1] + chain_search_step(s, word)) % s.modulus;
    node[i] = chain_search_take(s, items, remainder, next_word(words));
    if (i % nodes == 0) continue;
    tokens[2 * pairs] = s.item_low + node[i - 1];
    tokens[2 * pairs++ + 1] = s.item_low + node[i];
  }
  for (int32_t i = 0; i < s.chains * s.wrong_links; i++) {
    const int32_t place = 1 + (int32_t)below(next_word(words), (uint32_t)s.links);
    const int32_t into = node[i * nodes + place];
    const int32_t step = chain_search_step(s, next_word(words));
    const int32_t wrong =
        chain_search_take(s, items, (into - step + s.modulus) % s.modulus, next_word(words));
    tokens[2 * pairs] = s.item_low + wrong;
    tokens[2 * pairs++ + 1] = s.item_low + into;
  }
  for (int32_t last = pairs - 1; last > 0; last--) {
    const int32_t other = (int32_t)below(next_word(words), (uint32_t)last + 1);
    for (int32_t side = 0; side < 2; side++) {
      const int32_t token = tokens[2 * last + side];
      tokens[2 * last + side] = tokens[2 * other + side];
      tokens[2 * other + side] = token;
    }
  }
  if (s.named != 0) tokens[2 * pairs] = order;
  tokens[2 * pairs + s.named] = s.item_low + node[asked * nodes + at];
  *target = s.item_low + node[asked * nodes + at + order];
}

// Sequences [begin, end) of training step `step` into tokens [batch, T], targets [batch].
static inline void chain_search_batch(const ChainSearchStream& s, uint64_t seed, int64_t step,
                                      int64_t begin, int64_t end, int32_t* tokens,
                                      int32_t* targets) {
  const int64_t positions = chain_search_positions(s), blocks = chain_search_blocks(s);
  ChainSearchItems items;
  for (int32_t i = 0; i < s.item_count; i++) items.item[i] = i;
  items.moves = 0;
  for (int64_t b = begin; b < end; b++) {
    chain_search_return(items, s.modulus);
    Words words = words_of(seed, step, b, blocks);
    chain_search_sequence(s, words, items, tokens + b * positions, targets + b);
  }
}

}  // namespace compfast
