/* JPEG through libjpeg, whose errors are long jumps; the rules of png.c keep this sound. libjpeg
 * takes its own memory from the C library; how much is bounded.
 *
 * To libjpeg a file that ends early is worth a warning and grey pixels. Here it is an error, as is
 * any other damage to the pixels; bytes too many are not. */
#include "runtime/image_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

enum { CMYK = 4 };
static const long max_memory = 256L << 20;

typedef struct decoder {
  const qnet_image_source *source;
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr errors;
  jmp_buf exit;
  qnet_blob *image;
  uint8_t *line; /* of CMYK; else NULL */
  qnet_status status;
} decoder;

/* ---- what libjpeg calls -------------------------------------------------------------------- */

static void give_up(decoder *p, qnet_status status) {
  p->status = status;
  longjmp(p->exit, 1);
}

static void on_error(j_common_ptr jpeg) {
  decoder *const p = jpeg->client_data;
  char text[JMSG_LENGTH_MAX];
  if (jpeg->err->msg_code == JERR_OUT_OF_MEMORY) give_up(p, qnet_out_of_memory(p->source->diag));
  jpeg->err->format_message(jpeg, text);
  give_up(p, qnet_error_in(p->source->diag, p->source->path, "the JPEG file is damaged: %s", text));
}

static void on_message(j_common_ptr jpeg, int level) {
  if (level >= 0) return; /* only a trace */
  switch (jpeg->err->msg_code) {
  case JWRN_EXTRANEOUS_DATA:
  case JWRN_TOO_MUCH_DATA:
  case JWRN_ADOBE_XFORM:
  case JWRN_BOGUS_PROGRESSION:
  case JWRN_NOT_SEQUENTIAL: return;
  default: on_error(jpeg);
  }
}

static void on_output(j_common_ptr jpeg) {
  (void)jpeg;
}

/* ---- decoding ------------------------------------------------------------------------------ */

static void choose_colours(decoder *p) {
  struct jpeg_decompress_struct *const j = &p->jpeg;
  switch (j->jpeg_color_space) {
  case JCS_GRAYSCALE: j->out_color_space = JCS_GRAYSCALE; break;
  case JCS_CMYK:
  case JCS_YCCK: j->out_color_space = JCS_CMYK; break;
  default: j->out_color_space = JCS_RGB; break;
  }
}

static void create_image(decoder *p) {
  const struct jpeg_decompress_struct *const j = &p->jpeg;
  const uint64_t channels = j->out_color_space == JCS_GRAYSCALE ? 1 : 3;
  const qnet_status status =
      qnet_image_create(p->source, j->image_height, j->image_width, channels, &p->image);
  if (status != QNET_OK) give_up(p, status);
  if (j->out_color_space != JCS_CMYK) return;
  p->line = qnet_alloc(p->source->allocator, (size_t)j->image_width * CMYK);
  if (!p->line) give_up(p, qnet_out_of_memory(p->source->diag));
}

static uint8_t product(int a, int b) {
  return (uint8_t)((a * b + 127) / 255);
}

/* Adobe's files, which are nearly all that exist, hold 255 for no ink. */
static void convert_cmyk(const decoder *p, uint8_t *row) {
  const int flip = p->jpeg.saw_Adobe_marker ? 0 : 255;
  for (size_t x = 0; x < p->jpeg.image_width; x++) {
    const uint8_t *ink = p->line + CMYK * x;
    for (int c = 0; c < 3; c++)
      row[3 * x + (size_t)c] = product(ink[c] ^ flip, ink[3] ^ flip);
  }
}

/* Returns normally or jumps. */
static void decode_or_jump(decoder *p) {
  struct jpeg_decompress_struct *const j = &p->jpeg;
  jpeg_create_decompress(j);
  j->client_data = p;
  j->mem->max_memory_to_use = max_memory;
  jpeg_mem_src(j, p->source->data, p->source->size);
  jpeg_read_header(j, TRUE);
  choose_colours(p);
  /* Before any pixel is unpacked: a small file may announce a giant. */
  create_image(p);
  jpeg_start_decompress(j);
  const size_t stride = p->image->bytes / j->image_height;
  while (j->output_scanline < j->output_height) {
    uint8_t *const row = (uint8_t *)p->image->data + j->output_scanline * stride;
    JSAMPROW to = p->line ? p->line : row;
    jpeg_read_scanlines(j, &to, 1);
    if (p->line) convert_cmyk(p, row);
  }
  jpeg_finish_decompress(j);
}

static void decode(decoder *p) {
  if (setjmp(p->exit)) return;
  decode_or_jump(p);
}

qnet_status qnet_jpeg_decode(const qnet_image_source *s, qnet_blob **out) {
  decoder p = {.source = s};
  p.jpeg.err = jpeg_std_error(&p.errors);
  p.jpeg.client_data = &p;
  p.errors.error_exit = on_error;
  p.errors.emit_message = on_message;
  p.errors.output_message = on_output;
  decode(&p);
  if (p.line) qnet_free(s->allocator, p.line, (size_t)p.jpeg.image_width * CMYK);
  jpeg_destroy_decompress(&p.jpeg);
  if (p.status == QNET_OK)
    *out = p.image;
  else
    qnet_blob_release(p.image);
  return p.status;
}
