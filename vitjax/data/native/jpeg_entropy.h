/* Huffman-coded blocks: read to coefficients, or read over. */
#pragma once

#include "jpeg_headers.h"

#define LOOKUP_BITS 11
/* After each unit of at most 6 blocks x 64 symbols x 31 bits the reading position is checked: 1,488 bytes. */
#define READ_AHEAD 2048
/* With coefficients that sum up to no more, no intermediate of the library's 16-bit SIMD code can overflow. */
#define MAX_COEFFICIENT_SUM 5800

static const uint8_t ZIGZAG[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* A symbol: bits 0-7 length of code and value together, 8-15 of the code, 16-23 of the value, 24-31 coefficients that
 * it advances by (64: end of block). 0: a code that is longer than LOOKUP_BITS, or none. */
typedef struct {
  uint32_t fast[1 << LOOKUP_BITS];
  /* All symbols that end within the bits looked up: bits 0-7 their length, 16-23 what the last of them starts beyond,
   * 24-31 what they advance by. */
  uint32_t several[1 << LOOKUP_BITS];
  uint32_t entries[256];   /* by number of the symbol */
  int32_t first_code[17];  /* by length */
  int32_t first_index[17]; /* number of the first symbol of that length */
  int32_t limit[17];       /* one past the last code of that length */
  uint8_t spec[16 + 256];  /* what it was built of; all zeros: nothing */
} Huffman;

typedef struct {
  const uint8_t *next, *end;
  uint64_t bits; /* the next bits of the stream, from the most significant on */
  int count;     /* how many of them are loaded */
} Reader;

/* Builds a table, unless it is there from the image before, as with most encoders. Returns 0 where it is invalid. */
static int build_huffman(Huffman *table, const HuffmanSpec *spec, int is_ac) {
  size_t spec_size = 16 + (size_t)spec->num_symbols;
  if (!spec->num_symbols) return 0; /* it would match a table whose building failed */
  if (!memcmp(table->spec, spec->counts, spec_size)) return 1;
  memset(table, 0, sizeof *table);
  int code = 0, index = 0;
  for (int length = 1; length <= 16; length++) {
    int count = spec->counts[length - 1];
    if (code + count > 1 << length) return 0;
    table->first_code[length] = code;
    table->first_index[length] = index;
    table->limit[length] = code + count;
    for (int i = 0; i < count; i++, code++, index++) {
      int symbol = spec->symbols[index], run = symbol >> 4, value_bits = symbol & 15, advance = run + 1;
      if (!is_ac) {
        if (symbol > 11) return 0;
      } else if (!value_bits) {
        advance = run == 15 ? 16 : 64;
      }
      uint32_t entry = (uint32_t)(length + value_bits) | length << 8 | value_bits << 16 | (uint32_t)advance << 24;
      table->entries[index] = entry;
      if (length <= LOOKUP_BITS) {
        int spare = LOOKUP_BITS - length;
        for (int j = 0; j < 1 << spare; j++) table->fast[(code << spare) + j] = entry;
      }
    }
    code <<= 1;
  }
  for (uint32_t i = 0; is_ac && i < 1 << LOOKUP_BITS; i++) {
    uint32_t length = 0, before = 0, advance = 0;
    for (;;) {
      uint32_t entry = table->fast[i << length & ((1 << LOOKUP_BITS) - 1)], more = length + (entry & 0xFF);
      if (!entry || more > LOOKUP_BITS) break;
      length = more;
      before = advance;
      advance += entry >> 24;
      if (advance > 63) break;
    }
    table->several[i] = length | before << 16 | advance << 24;
  }
  memcpy(table->spec, spec->counts, spec_size); /* the symbols follow the counts */
  return 1;
}

INLINE void refill(Reader *reader) {
  const uint8_t *p = reader->next;
  uint64_t more = (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 | (uint64_t)p[3] << 32 |
                  (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 | (uint64_t)p[6] << 8 | (uint64_t)p[7];
  reader->bits |= more >> reader->count;
  reader->next += (63 - reader->count) >> 3;
  reader->count |= 56;
}

/* Returns the entry of the next symbol, or 0 where the bits are no code. At least 32 bits are loaded afterwards. */
INLINE uint32_t next_symbol(Reader *reader, const Huffman *table) {
  if (reader->count < 32) refill(reader);
  uint32_t entry = table->fast[reader->bits >> (64 - LOOKUP_BITS)];
  if (entry) return entry;
  for (int length = LOOKUP_BITS + 1; length <= 16; length++) {
    int code = (int)(reader->bits >> (64 - length));
    if (code < table->limit[length]) {
      if (code < table->first_code[length]) return 0;
      return table->entries[table->first_index[length] + code - table->first_code[length]];
    }
  }
  return 0;
}

INLINE void consume(Reader *reader, uint32_t entry) {
  int length = entry & 0xFF;
  reader->bits <<= length;
  reader->count -= length;
}

/* Returns the signed value that follows the code (F.2.2.1): n bits, or, where the first is 0, their complement, negated. */
INLINE int value_of(const Reader *reader, uint32_t entry) {
  int64_t rest = (int64_t)(reader->bits << (entry >> 8 & 0xFF));
  int64_t negative = ~(rest >> 63);
  int64_t size = (int64_t)((uint64_t)(rest ^ negative) >> 1 >> (63 - (entry >> 16 & 0xFF)));
  return (int)((size ^ negative) - negative);
}

INLINE int read_dc(Reader *reader, const Huffman *dc, int *last) {
  uint32_t entry = next_symbol(reader, dc);
  if (!entry) return 0;
  *last += value_of(reader, entry);
  consume(reader, entry);
  return *last >= -2048 && *last <= 2047;
}

/* Reads over a block; only its DC value is kept, which the next block is relative to. */
WIDE static int skip_block(Reader *shared, const Huffman *dc, const Huffman *ac, int *last) {
  Reader reader = *shared;
  if (!read_dc(&reader, dc, last)) return 0;
  for (uint32_t k = 1; k < 64;) {
    if (reader.count < 32) refill(&reader);
    uint32_t entry = ac->several[reader.bits >> (64 - LOOKUP_BITS)];
    if (!entry || k + (entry >> 16 & 0xFF) > 63) {
      entry = next_symbol(&reader, ac);
      if (!entry) return 0;
    }
    consume(&reader, entry);
    k += entry >> 24;
  }
  *shared = reader;
  return 1;
}

/* Reads a block: dequantised coefficients in rows. Returns 0 when damaged, 1 with nothing but DC, 2 otherwise. */
WIDE static int read_block(Reader *shared, const Huffman *dc, const Huffman *ac, int *last, const uint8_t *quant,
                      int32_t block[64]) {
  Reader reader = *shared;
  if (!read_dc(&reader, dc, last)) return 0;
  memset(block, 0, 64 * sizeof *block);
  block[0] = *last * quant[0];
  int sum = abs(block[0]), kind = 1;
  for (uint32_t k = 1; k < 64;) {
    uint32_t entry = next_symbol(&reader, ac);
    if (!entry) return 0;
    int value = value_of(&reader, entry);
    consume(&reader, entry);
    k += entry >> 24;
    if (!(entry >> 16 & 0xFF)) {
      if (entry >> 24 == 64) break;
      if (k > 63) return 0;
      continue;
    }
    if (k > 64) return 0;
    value *= quant[k - 1];
    block[ZIGZAG[k - 1]] = value;
    sum += abs(value);
    kind = 2;
  }
  *shared = reader;
  return sum > MAX_COEFFICIENT_SUM ? 0 : kind;
}

/* Copies entropy-coded data without the zeros stuffed after 0xFF, up to the first marker. Returns the length. */
static size_t unstuff(uint8_t *out, const uint8_t *p, const uint8_t *end) {
  uint8_t *start = out;
  while (p < end) {
    const uint8_t *stop = memchr(p, 0xFF, end - p);
    if (!stop) stop = end;
    memcpy(out, p, stop - p);
    out += stop - p;
    p = stop;
    if (end - p < 2 || p[1]) break;
    *out++ = 0xFF;
    p += 2;
  }
  memset(out, 0, READ_AHEAD);
  return out - start;
}
