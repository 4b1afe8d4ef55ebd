/* Everything in a JPEG file before its entropy-coded data; section numbers are of ITU-T T.81. */
#pragma once

#include "common.h"

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
