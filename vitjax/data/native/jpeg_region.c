/* Decodes a rectangle of a baseline JPEG to RGB, pixel for pixel as libjpeg-turbo decodes the whole image.
 *
 * A random crop needs a part of the image. The entropy-coded data cannot be jumped over, but outside of the rectangle
 * they need not be turned into coefficients, and below it not be read at all; only blocks inside are transformed.
 *
 * Whatever is unusual (progressive, arithmetic or 12-bit coding, CMYK, restart markers, sampling other than 4:4:4,
 * 4:2:2 and 4:2:0) or looks damaged is refused, never guessed: the caller then decodes with the library, whose pixels
 * and verdict hold. Hence no code here has to agree with the library on damaged data.
 *
 * The numbers are those of the library's defaults: the accurate integer inverse DCT (Loeffler, Ligtenberg, Moschytz,
 * ICASSP 1989; 13-bit constants, 2 extra bits between the passes), triangle-filtered chroma ("fancy upsampling") and
 * 16-bit fixed-point YCbCr to RGB. JPEG itself is ITU-T T.81; section numbers below are of it.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian processors only; without this module the library decodes whole images"
#endif

/* One source, compiled for AVX2 as well and chosen when the module is loaded, where the tool chain can do that. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

#define INLINE static inline __attribute__((always_inline))

#define LOOKUP_BITS 11
/* After each unit of at most 6 blocks x 64 symbols x 31 bits the reading position is checked: 1,488 bytes. */
#define READ_AHEAD 2048
/* With coefficients that sum up to no more, no intermediate of the library's 16-bit SIMD code can overflow. */
#define MAX_COEFFICIENT_SUM 5800

static const uint8_t ZIGZAG[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

typedef struct {
  const uint8_t *counts; /* 16 numbers of codes, by length; NULL: no table */
  const uint8_t *symbols;
  int num_symbols;
} HuffmanSpec;

typedef struct {
  int width, height, num_components, exif;
  int across, down; /* luma samples per chroma sample: 1 or 2 */
  int quant_of[3], dc_of[3], ac_of[3];
  const uint8_t *quant[4];
  HuffmanSpec dc[4], ac[4];
  const uint8_t *scan; /* entropy-coded data */
  const uint8_t *end;
} Jpeg;

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
} Huffman;

typedef struct {
  const uint8_t *next, *end;
  uint64_t bits; /* the next bits of the stream, from the most significant on */
  int count;     /* how many of them are loaded */
} Reader;

/* ---- headers ---------------------------------------------------------------------------------------------------- */

static int read_huffman_specs(Jpeg *jpeg, const uint8_t *p, const uint8_t *end) {
  while (p < end) {
    if (end - p < 17) return 0;
    int where = *p++, total = 0;
    for (int i = 0; i < 16; i++) total += p[i];
    if ((where & 0xEF) > 3 || total > 256 || end - p < 16 + total) return 0;
    HuffmanSpec *spec = (where >> 4 ? jpeg->ac : jpeg->dc) + (where & 3);
    *spec = (HuffmanSpec){p, p + 16, total};
    p += 16 + total;
  }
  return 1;
}

static int read_frame(Jpeg *jpeg, uint8_t ids[3], const uint8_t *p, size_t length) {
  if (jpeg->num_components || length < 6 || p[0] != 8) return 0;
  jpeg->height = p[1] << 8 | p[2];
  jpeg->width = p[3] << 8 | p[4];
  jpeg->num_components = p[5];
  if (!jpeg->height || !jpeg->width || length != 6 + 3 * (size_t)p[5]) return 0;
  if (jpeg->num_components != 1 && jpeg->num_components != 3) return 0;
  for (int i = 0; i < jpeg->num_components; i++) {
    const uint8_t *component = p + 6 + 3 * i;
    ids[i] = component[0];
    if (component[2] > 3) return 0;
    jpeg->quant_of[i] = component[2];
    if (i && component[1] != 0x11) return 0;
  }
  jpeg->across = p[7] >> 4;
  jpeg->down = p[7] & 15;
  if (jpeg->num_components == 1) {
    jpeg->across = jpeg->down = 1; /* one block per unit, whatever the factors say (A.2.2) */
    return 1;
  }
  /* 4:4:4, 4:2:2 or 4:2:0, wide enough for the library to filter the chroma. */
  if (jpeg->down > jpeg->across || jpeg->across < 1 || jpeg->across > 2 || jpeg->down < 1) return 0;
  return jpeg->across == 1 || jpeg->width > 4;
}

static int read_scan_header(Jpeg *jpeg, const uint8_t ids[3], const uint8_t *p, size_t length) {
  int n = jpeg->num_components;
  if (!n || length != 4 + 2 * (size_t)n || p[0] != n) return 0;
  for (int i = 0; i < n; i++) {
    int tables = p[2 + 2 * i];
    if (p[1 + 2 * i] != ids[i] || (tables & 0xCC)) return 0;
    jpeg->dc_of[i] = tables >> 4;
    jpeg->ac_of[i] = tables & 3;
    if (!jpeg->quant[jpeg->quant_of[i]] || !jpeg->dc[jpeg->dc_of[i]].counts || !jpeg->ac[jpeg->ac_of[i]].counts)
      return 0;
  }
  p += 1 + 2 * n;
  return p[0] == 0 && p[1] == 63 && p[2] == 0;
}

/* Reads everything up to the first scan; 0: not a JPEG that this file decodes. */
static int read_headers(Jpeg *jpeg, const uint8_t *data, size_t size) {
  const uint8_t *p = data, *end = data + size;
  uint8_t ids[3] = {0};
  int jfif = 0, adobe = -1;
  memset(jpeg, 0, sizeof *jpeg);
  if (size < 4 || p[0] != 0xFF || p[1] != 0xD8) return 0;
  p += 2;
  for (;;) {
    if (end - p < 4 || p[0] != 0xFF) return 0;
    int marker = p[1];
    if (marker == 0xFF) { /* fill bytes may precede a marker (B.1.1.2) */
      p++;
      continue;
    }
    size_t length = p[2] << 8 | p[3]; /* counts itself */
    if (length < 2 || (size_t)(end - p - 2) < length) return 0;
    const uint8_t *body = p + 4, *next = p + 2 + length;
    length -= 2;
    p = next;
    if (marker == 0xC0 || marker == 0xC1) {
      if (!read_frame(jpeg, ids, body, length)) return 0;
    } else if (marker == 0xC4) {
      if (!read_huffman_specs(jpeg, body, next)) return 0;
    } else if (marker == 0xDB) {
      for (; body < next; body += 65) {
        if (body[0] > 3 || next - body < 65) return 0; /* 8-bit tables alone */
        jpeg->quant[body[0]] = body + 1;
      }
    } else if (marker == 0xDD) {
      if (length != 2 || body[0] || body[1]) return 0;
    } else if (marker == 0xE0) {
      if (length >= 14 && !memcmp(body, "JFIF", 5)) jfif = 1;
    } else if (marker == 0xE1) {
      if (length >= 6 && !memcmp(body, "Exif", 5)) jpeg->exif = 1;
    } else if (marker == 0xEE) {
      if (length >= 12 && !memcmp(body, "Adobe", 5)) adobe = body[11];
    } else if (marker == 0xDA) {
      if (!read_scan_header(jpeg, ids, body, length)) return 0;
      break;
    } else if (marker < 0xE0 || marker > 0xFE || (marker > 0xEF && marker != 0xFE)) {
      return 0;
    }
  }
  if (jpeg->num_components == 3 && !jfif) { /* the library's rules for what the three components are */
    if (adobe < 0 ? ids[0] != 1 || ids[1] != 2 || ids[2] != 3 : adobe != 1) return 0;
  }
  jpeg->scan = p;
  /* A file that was cut off has no end marker; the library says so, also when the crop lies above the cut. */
  for (end -= 2; end > p; end--)
    if (end[0] == 0xFF && end[1] == 0xD9) {
      jpeg->end = end;
      return 1;
    }
  return 0;
}

/* ---- entropy coding ---------------------------------------------------------------------------------------------- */

static int build_huffman(Huffman *table, const HuffmanSpec *spec, int is_ac) {
  memset(table->fast, 0, sizeof table->fast);
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

/* ---- inverse DCT -------------------------------------------------------------------------------------------------- */

typedef int32_t Lanes __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

#define FIX(x) ((int32_t)((x)*8192 + 0.5))

/* Eight 8-point inverse transforms side by side, scaled by sqrt(8) (figure 8 of the paper), rounded off by `shift`. */
INLINE void transform(Lanes x[8], int shift) {
  Lanes z = (x[2] + x[6]) * FIX(0.541196100), half = (Lanes){0} + (1 << (shift - 1));
  Lanes even2 = z - x[6] * FIX(1.847759065), even3 = z + x[2] * FIX(0.765366865);
  Lanes even0 = ((x[0] + x[4]) << 13) + half, even1 = ((x[0] - x[4]) << 13) + half;
  Lanes a0 = even0 + even3, a3 = even0 - even3, a1 = even1 + even2, a2 = even1 - even2;
  Lanes b1 = (x[7] + x[1]) * -FIX(0.899976223), b2 = (x[5] + x[3]) * -FIX(2.562915447);
  Lanes b3 = x[7] + x[3], b4 = x[5] + x[1], b5 = (b3 + b4) * FIX(1.175875602);
  b3 = b5 - b3 * FIX(1.961570560);
  b4 = b5 - b4 * FIX(0.390180644);
  Lanes odd0 = x[7] * FIX(0.298631336) + b1 + b3, odd1 = x[5] * FIX(2.053119869) + b2 + b4;
  Lanes odd2 = x[3] * FIX(3.072711026) + b2 + b3, odd3 = x[1] * FIX(1.501321110) + b1 + b4;
  x[0] = (a0 + odd3) >> shift;
  x[7] = (a0 - odd3) >> shift;
  x[1] = (a1 + odd2) >> shift;
  x[6] = (a1 - odd2) >> shift;
  x[2] = (a2 + odd1) >> shift;
  x[5] = (a2 - odd1) >> shift;
  x[3] = (a3 + odd0) >> shift;
  x[4] = (a3 - odd0) >> shift;
}

#define LOW_1(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH_1(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_2(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_2(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)

INLINE void transpose(Lanes x[8]) {
  Lanes y[8];
  for (int i = 0; i < 8; i += 4) {
    Lanes a = LOW_1(x[i], x[i + 1]), b = HIGH_1(x[i], x[i + 1]);
    Lanes c = LOW_1(x[i + 2], x[i + 3]), d = HIGH_1(x[i + 2], x[i + 3]);
    y[i] = LOW_2(a, c);
    y[i + 1] = HIGH_2(a, c);
    y[i + 2] = LOW_2(b, d);
    y[i + 3] = HIGH_2(b, d);
  }
  for (int i = 0; i < 4; i++) {
    x[i] = LOW_4(y[i], y[i + 4]);
    x[i + 4] = HIGH_4(y[i], y[i + 4]);
  }
}

/* For x in the range of int16; two plain steps, which compilers turn into vector minima and maxima. */
INLINE uint8_t clamp(int32_t x) {
  int16_t y = (int16_t)x;
  y = y > 0 ? y : 0;
  y = y < 255 ? y : 255;
  return (uint8_t)y;
}

WIDE static void inverse_dct(const int32_t block[64], uint8_t *out, size_t stride) {
  Lanes x[8];
  memcpy(x, block, sizeof x);
  transform(x, 11);
  transpose(x);
  transform(x, 18);
  transpose(x);
  int32_t samples[64];
  uint8_t bytes[64];
  memcpy(samples, x, sizeof x);
  for (int i = 0; i < 64; i++) bytes[i] = clamp(samples[i] + 128);
  for (int r = 0; r < 8; r++) memcpy(out + r * stride, bytes + 8 * r, 8);
}

INLINE void fill_block(int32_t dc, uint8_t *out, size_t stride) {
  uint8_t value = clamp(((dc + 4) >> 3) + 128);
  for (int r = 0; r < 8; r++) memset(out + r * stride, value, 8);
}

/* ---- colour ------------------------------------------------------------------------------------------------------- */

/* Chroma of one row at the resolution of luma. sums[i] is sample i - 1 of the region, weighted over the rows; the
 * first and last are copies of their neighbours where the image ends. */
INLINE void widen(const int16_t *restrict sums, int count, int even_bias, int odd_bias, int shift,
                  uint16_t *restrict out) {
  int padded = (count + 15) & ~15; /* whole vectors; both buffers are longer */
  for (int i = 0; i < padded; i++) {
    int16_t centre = (int16_t)(3 * sums[i + 1]);
    int16_t even = (int16_t)((int16_t)(centre + sums[i] + even_bias) >> shift);
    int16_t odd = (int16_t)((int16_t)(centre + sums[i + 2] + odd_bias) >> shift);
    out[i] = (uint16_t)(even | odd << 8);
  }
}

/* Converts a row of pixels; reads and writes up to 15 more. `parts` has room for 3 * (count + 16) bytes. */
INLINE void to_rgb(const uint8_t *restrict y, const uint8_t *restrict cb, const uint8_t *restrict cr, int count,
                   uint8_t *restrict parts, uint8_t *restrict rgb) {
  int padded = (count + 15) & ~15;
  uint8_t *restrict r = parts, *restrict g = parts + padded, *restrict b = parts + 2 * padded;
  for (int i = 0; i < padded; i++) {
    int32_t blue = cb[i] - 128, red = cr[i] - 128;
    int16_t to_r = (int16_t)((91881 * red + 32768) >> 16), to_b = (int16_t)((116130 * blue + 32768) >> 16);
    int16_t to_g = (int16_t)((-22554 * blue - 46802 * red + 32768) >> 16);
    r[i] = clamp((int16_t)(y[i] + to_r));
    g[i] = clamp((int16_t)(y[i] + to_g));
    b[i] = clamp((int16_t)(y[i] + to_b));
  }
  for (int i = 0; i < padded; i += 16, rgb += 48) {
    Bytes x, y, z;
    memcpy(&x, r + i, 16);
    memcpy(&y, g + i, 16);
    memcpy(&z, b + i, 16);
    Bytes low = __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    Bytes high = __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    Bytes middle = __builtin_shufflevector(low, high, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 0, 0, 0, 0);
    Bytes first = __builtin_shufflevector(low, z, 0, 1, 16, 2, 3, 17, 4, 5, 18, 6, 7, 19, 8, 9, 20, 10);
    Bytes second = __builtin_shufflevector(middle, z, 1, 21, 2, 3, 22, 4, 5, 23, 6, 7, 24, 8, 9, 25, 10, 11);
    Bytes third = __builtin_shufflevector(high, z, 26, 6, 7, 27, 8, 9, 28, 10, 11, 29, 12, 13, 30, 14, 15, 31);
    memcpy(rgb, &first, 16);
    memcpy(rgb + 16, &second, 16);
    memcpy(rgb + 32, &third, 16);
  }
}

/* ---- regions ------------------------------------------------------------------------------------------------------ */

typedef struct {
  int top, left, height, width;
} Box;

/* Samples of one component that were decoded: rows and columns [.., ..) of the component. */
typedef struct {
  int top, left, bottom, right; /* what exists of the image there; beyond lies padding */
  size_t stride;
  uint8_t *samples;
} Plane;

typedef struct {
  int first_row, last_row, first_column, last_column; /* units, inclusive */
} Units;

INLINE int smaller(int a, int b) { return a < b ? a : b; }
INLINE int larger(int a, int b) { return a > b ? a : b; }

/* Units that hold the pixels [first, first + size), and the chroma samples beside them that the filter reads. */
static void units_along(int first, int size, int total, int factor, int *from, int *to) {
  int last = first + size - 1, unit = 8 * factor;
  *from = first / unit;
  *to = last / unit;
  if (factor == 2) {
    int chroma_end = (total + 1) / 2 - 1;
    *from = smaller(*from, larger(first / 2 - 1, 0) / 8);
    *to = larger(*to, smaller(last / 2 + 1, chroma_end) / 8);
  }
}

WIDE static int read_units(const Jpeg *jpeg, Huffman *const dc[3], Huffman *const ac[3], const Units *units, Plane planes[3],
                      Reader *reader) {
  int across = jpeg->across, down = jpeg->down;
  int units_per_row = (jpeg->width + 8 * across - 1) / (8 * across), last[3] = {0};
  int32_t block[64];
  for (int row = 0; row <= units->last_row; row++) {
    int end = row == units->last_row ? units->last_column + 1 : units_per_row;
    for (int column = 0; column < end; column++) {
      int wanted = row >= units->first_row && column >= units->first_column && column <= units->last_column;
      for (int i = 0; i < jpeg->num_components; i++) {
        int h = i ? 1 : across, v = i ? 1 : down;
        for (int b = 0; b < h * v; b++) {
          if (!wanted) {
            if (!skip_block(reader, dc[i], ac[i], &last[i])) return 0;
            continue;
          }
          int kind = read_block(reader, dc[i], ac[i], &last[i], jpeg->quant[jpeg->quant_of[i]], block);
          size_t y = 8 * ((size_t)(row - units->first_row) * v + b / h);
          size_t x = 8 * ((size_t)(column - units->first_column) * h + b % h);
          uint8_t *out = planes[i].samples + y * planes[i].stride + x;
          if (!kind) return 0;
          if (kind == 1)
            fill_block(block[0], out, planes[i].stride);
          else
            inverse_dct(block, out, planes[i].stride);
        }
      }
      if (reader->next - reader->count / 8 > reader->end) return 0;
    }
  }
  return 1;
}

/* Writes chroma samples [first, first + count + 2) of image row y, weighted over rows, where `down` is 2. */
INLINE void weigh_rows(const Plane *plane, int y, int down, int first, int count, int16_t *sums) {
  int near = down == 2 ? y / 2 : y, far = down == 2 ? (y & 1 ? near + 1 : near - 1) : near;
  far = smaller(larger(far, 0), plane->bottom - 1);
  const uint8_t *a = plane->samples + (size_t)(near - plane->top) * plane->stride - plane->left;
  const uint8_t *b = plane->samples + (size_t)(far - plane->top) * plane->stride - plane->left;
  int left = larger(first, 0), right = smaller(first + count + 2, plane->right);
  int16_t *out = sums - first;
  if (down == 2)
    for (int x = left; x < right; x++) out[x] = (int16_t)(3 * a[x] + b[x]);
  else
    for (int x = left; x < right; x++) out[x] = a[x];
  if (first < left) sums[0] = sums[1];
  if (right < first + count + 2) sums[count + 1] = sums[count];
}

WIDE static void write_rgb(const Jpeg *jpeg, const Plane planes[3], const Box *box, int16_t *sums, uint16_t *chroma[2],
                           uint8_t *parts, uint8_t *line, uint8_t *rgb) {
  int across = jpeg->across, down = jpeg->down;
  for (int y = box->top; y < box->top + box->height; y++, rgb += 3 * (size_t)box->width) {
    const uint8_t *row[3];
    row[0] = planes[0].samples + (size_t)(y - planes[0].top) * planes[0].stride + box->left - planes[0].left;
    if (jpeg->num_components == 1) {
      for (int x = 0; x < box->width; x++) rgb[3 * x] = rgb[3 * x + 1] = rgb[3 * x + 2] = row[0][x];
      continue;
    }
    for (int i = 1; i < 3; i++) {
      const Plane *plane = &planes[i];
      if (across == 1) {
        row[i] = plane->samples + (size_t)(y - plane->top) * plane->stride + box->left - plane->left;
        continue;
      }
      int first = box->left / 2, count = (box->left + box->width - 1) / 2 - first + 1;
      weigh_rows(plane, y, down, first - 1, count, sums);
      if (down == 2)
        widen(sums, count, 8, 7, 4, chroma[i - 1]);
      else
        widen(sums, count, 1, 2, 2, chroma[i - 1]);
      row[i] = (uint8_t *)chroma[i - 1] + (box->left & 1);
    }
    to_rgb(row[0], row[1], row[2], box->width, parts, line);
    memcpy(rgb, line, 3 * (size_t)box->width);
  }
}

/* Decodes the box into rgb[height][width][3]; 0: refused. */
static int read_region(const uint8_t *data, size_t size, const Box *box, uint8_t *rgb) {
  Jpeg jpeg;
  if (!read_headers(&jpeg, data, size)) return 0;
  if (box->top < 0 || box->left < 0 || box->height < 1 || box->width < 1) return 0;
  if (box->height > jpeg.height - box->top || box->width > jpeg.width - box->left) return 0;
  Units units;
  units_along(box->top, box->height, jpeg.height, jpeg.down, &units.first_row, &units.last_row);
  units_along(box->left, box->width, jpeg.width, jpeg.across, &units.first_column, &units.last_column);
  size_t rows = units.last_row - units.first_row + 1, columns = units.last_column - units.first_column + 1;
  size_t luma = 64 * rows * columns * jpeg.across * jpeg.down, chroma = 64 * rows * columns;
  size_t line = ((size_t)box->width + 47) & ~(size_t)15, scan = (size_t)(jpeg.end - jpeg.scan) + READ_AHEAD;
  size_t tables = 8 * sizeof(Huffman);
  uint8_t *memory = malloc(tables + 10 * line + luma + 2 * chroma + scan);
  if (!memory) return 0;
  Huffman *table = (Huffman *)memory;
  int16_t *sums = (int16_t *)(memory + tables);
  uint16_t *lines[2] = {(uint16_t *)sums + line, (uint16_t *)sums + line + line / 2};
  uint8_t *parts = memory + tables + 4 * line, *row = parts + 3 * line;
  uint8_t *samples = row + 3 * line, *stream = samples + luma + 2 * chroma;
  Plane planes[3];
  Huffman *dc[3], *ac[3];
  int good = 1;
  for (int i = 0; good && i < jpeg.num_components; i++) {
    int h = i ? 1 : jpeg.across, v = i ? 1 : jpeg.down;
    int part_across = i ? jpeg.across : 1, part_down = i ? jpeg.down : 1;
    planes[i] = (Plane){8 * v * units.first_row,
                        8 * h * units.first_column,
                        (jpeg.height + part_down - 1) / part_down,
                        (jpeg.width + part_across - 1) / part_across,
                        8 * h * columns,
                        samples + (i ? luma + (i - 1) * chroma : 0)};
    dc[i] = &table[jpeg.dc_of[i]];
    ac[i] = &table[4 + jpeg.ac_of[i]];
    int known = 0; /* Cb and Cr mostly share their tables */
    for (int j = 0; j < i; j++) known |= jpeg.dc_of[j] == jpeg.dc_of[i];
    good = known || build_huffman(dc[i], &jpeg.dc[jpeg.dc_of[i]], 0);
    known = 0;
    for (int j = 0; j < i; j++) known |= jpeg.ac_of[j] == jpeg.ac_of[i];
    good = good && (known || build_huffman(ac[i], &jpeg.ac[jpeg.ac_of[i]], 1));
  }
  if (good) {
    Reader reader = {stream, stream + unstuff(stream, jpeg.scan, jpeg.end), 0, 0};
    good = read_units(&jpeg, dc, ac, &units, planes, &reader);
  }
  if (good) write_rgb(&jpeg, planes, box, sums, lines, parts, row, rgb);
  free(memory);
  return good;
}

/* ---- Python ------------------------------------------------------------------------------------------------------- */

static PyObject *size_of(PyObject *module, PyObject *data) {
  (void)module;
  Py_buffer view;
  Jpeg jpeg;
  if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)) return NULL;
  int good = read_headers(&jpeg, view.buf, view.len);
  PyBuffer_Release(&view);
  if (!good) Py_RETURN_NONE;
  return Py_BuildValue("iiO", jpeg.height, jpeg.width, jpeg.exif ? Py_True : Py_False);
}

static PyObject *read_into(PyObject *module, PyObject *arguments) {
  (void)module;
  Py_buffer data, out;
  Box box;
  if (!PyArg_ParseTuple(arguments, "y*(iiii)w*", &data, &box.top, &box.left, &box.height, &box.width, &out)) return NULL;
  int fits = box.height > 0 && box.width > 0 && box.height < 65536 && box.width < 65536 &&
             (int64_t)out.len >= 3 * (int64_t)box.height * box.width;
  int good = 0;
  if (fits) {
    Py_BEGIN_ALLOW_THREADS
    good = read_region(data.buf, data.len, &box, out.buf);
    Py_END_ALLOW_THREADS
  }
  PyBuffer_Release(&data);
  PyBuffer_Release(&out);
  if (!fits) {
    PyErr_SetString(PyExc_ValueError, "the box is empty, or `out` is smaller than height * width * 3 bytes");
    return NULL;
  }
  return PyBool_FromLong(good);
}

static PyMethodDef methods[] = {
    {"size", size_of, METH_O, "size(data) -> (height, width, has_exif), or None where `read` would refuse the header."},
    {"read", read_into, METH_VARARGS,
     "read(data, (top, left, height, width), out) -> whether the pixels, RGB, were written to the start of `out`."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_jpeg_region", "Rectangles of baseline JPEGs; see jpeg_region.c.", 0, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg_region(void) { return PyModule_Create(&definition); }
