/* Batches, augmentation and shuffling. Random numbers are counter-based (Philox 4x32, ten rounds):
 * key = the seed; counter = (index, epoch, purpose). No state, so that order and number of threads
 * do not matter and a resumed run continues as if nothing had happened.
 *
 * An image goes through: a part of it is chosen and brought to the batch's size (a random part, or
 * the centre of one that has another size); it is moved and mirrored; its colours change. */
#include "runtime/dataset.h"
#include "runtime/pixels.h"

#include <Random123/philox.h>
#include <math.h>
#include <string.h>

enum {
  PURPOSE_AUGMENT = 0x61756773,
  PURPOSE_SHUFFLE = 0x73687566,
  PURPOSE_COLOUR = 0x636f6c72,
  PURPOSE_BOX = 0x626f7800 /* + number of the attempt */
};
enum { BOX_ATTEMPTS = 10 };

/* Which random numbers an image gets. */
typedef struct draw {
  uint64_t seed, epoch;
  uint32_t index;
} draw;

static philox4x32_ctr_t random_words(const draw *d, uint32_t purpose) {
  const philox4x32_ctr_t counter = {
      {d->index, (uint32_t)d->epoch, (uint32_t)(d->epoch >> 32), purpose}};
  const philox4x32_key_t key = {{(uint32_t)d->seed, (uint32_t)(d->seed >> 32)}};
  return philox4x32(counter, key);
}

/* A random number below n (n <= 2^31; the bias is below n / 2^64). */
static uint32_t below(uint32_t high, uint32_t low, uint32_t n) {
  const uint64_t word = (uint64_t)high << 32 | low;
  return (uint32_t)((unsigned __int128)word * n >> 64);
}

static double between(uint32_t word, double low, double high) {
  return low + (high - low) * (((double)word + 0.5) / 4294967296.0);
}

void qnet_dataset_shuffle(uint32_t *index, size_t count, uint64_t seed, uint64_t epoch) {
  for (size_t i = 0; i < count; i++)
    index[i] = (uint32_t)i;
  for (size_t i = count; i > 1; i--) {
    const draw d = {seed, epoch, (uint32_t)i};
    const philox4x32_ctr_t r = random_words(&d, PURPOSE_SHUFFLE);
    const size_t j = below(r.v[0], r.v[1], (uint32_t)i);
    const uint32_t last = index[i - 1];
    index[i - 1] = index[j];
    index[j] = last;
  }
}

/* ---- which part ---------------------------------------------------------------------------- */

/* The largest centred part of the batch's shape, without a border: as if the image were brought to
 * 8/7 of the batch's size (256 for 224) and cut. */
static qnet_box centre_box(const qnet_dataset *s, const qnet_item *item) {
  const double down = (double)item->height / (double)s->height;
  const double along = (double)item->width / (double)s->width;
  const double step = (down < along ? down : along) * 7 / 8;
  const qnet_box box = {.height = step * (double)s->height, .width = step * (double)s->width};
  return (qnet_box){((double)item->height - box.height) / 2, ((double)item->width - box.width) / 2,
                    box.height, box.width};
}

/* A share of the area from [smallest, 1] and a ratio of width to height from [3/4, 4/3], both by
 * chance, until they fit into the image. */
static qnet_box random_box(const qnet_item *item, double smallest, const draw *d) {
  for (uint32_t i = 0; i < BOX_ATTEMPTS; i++) {
    const philox4x32_ctr_t r = random_words(d, PURPOSE_BOX + i);
    const double area = between(r.v[0], smallest, 1) * (double)item->height * (double)item->width;
    const double ratio = exp(between(r.v[1], log(3.0 / 4), log(4.0 / 3)));
    const int64_t width = (int64_t)floor(sqrt(area * ratio) + 0.5);
    const int64_t height = (int64_t)floor(sqrt(area / ratio) + 0.5);
    if (width < 1 || height < 1 || width > item->width || height > item->height) continue;
    const uint32_t y = below(r.v[2], 0, (uint32_t)(item->height - height + 1));
    const uint32_t x = below(r.v[3], 0, (uint32_t)(item->width - width + 1));
    return (qnet_box){y, x, (double)height, (double)width};
  }
  /* A long and narrow image: as much of its middle as has an allowed ratio. */
  const double h = (double)item->height, w = (double)item->width;
  const double height = fmin(h, w * 4 / 3), width = fmin(w, h * 4 / 3);
  return (qnet_box){(h - height) / 2, (w - width) / 2, height, width};
}

static bool has_size(const qnet_dataset *s, const qnet_item *item) {
  return item->height == s->height && item->width == s->width;
}

static qnet_status take_part(const qnet_dataset *s, const qnet_item *item,
                             const qnet_augment *augment, const draw *d, uint8_t *out,
                             qnet_diag *diag) {
  const double smallest = augment ? augment->smallest_area : 0;
  const qnet_pixels in = {item->height, item->width, s->channels, item->pixels};
  const qnet_box box = smallest > 0 ? random_box(item, smallest, d) : centre_box(s, item);
  return qnet_pixels_resample(s->allocator, &in, box, s->height, s->width, out, diag);
}

/* ---- moving and mirroring ------------------------------------------------------------------ */

typedef struct placement {
  int64_t down, right; /* out(y, x) = in(y + down, x + right), 0 outside */
  bool mirrored;
} placement;

static placement choose_placement(const qnet_augment *augment, const draw *d) {
  const philox4x32_ctr_t r = random_words(d, PURPOSE_AUGMENT);
  placement p = {0, 0, augment->flip && (r.v[3] & 1)};
  if (augment->crop_pad > 0) {
    const uint32_t places = 2 * (uint32_t)augment->crop_pad + 1;
    p.down = (int64_t)below(r.v[0], 0, places) - augment->crop_pad;
    p.right = (int64_t)below(r.v[1], 0, places) - augment->crop_pad;
  }
  return p;
}

static void place_image(const qnet_dataset *s, const uint8_t *in, placement p, uint8_t *out) {
  const size_t pixel = (size_t)s->channels;
  for (int64_t y = 0; y < s->height; y++) {
    const int64_t from_y = y + p.down;
    for (int64_t x = 0; x < s->width; x++, out += pixel) {
      const int64_t from_x = (p.mirrored ? s->width - 1 - x : x) + p.right;
      if (from_y < 0 || from_y >= s->height || from_x < 0 || from_x >= s->width)
        memset(out, 0, pixel);
      else
        memcpy(out, in + (size_t)(from_y * s->width + from_x) * pixel, pixel);
    }
  }
}

/* ---- colours ------------------------------------------------------------------------------- */

static int32_t choose_factor(uint32_t word, double strength) {
  const double low = strength < 1 ? 1 - strength : 0;
  if (strength <= 0) return QNET_COLOUR_ONE;
  return (int32_t)floor(between(word, low, 1 + strength) * QNET_COLOUR_ONE + 0.5);
}

static void change_colours(const qnet_dataset *s, const qnet_augment *augment, const draw *d,
                           uint8_t *image) {
  if (augment->brightness <= 0 && augment->contrast <= 0 && augment->saturation <= 0) return;
  const philox4x32_ctr_t r = random_words(d, PURPOSE_COLOUR);
  const qnet_colour c = {
      choose_factor(r.v[0], augment->brightness), choose_factor(r.v[1], augment->contrast),
      choose_factor(r.v[2], augment->saturation), (int)below(r.v[3], 0, QNET_COLOUR_ORDERS)};
  qnet_pixels_colour(image, s->height * s->width, s->channels, &c);
}

/* ---- batches ------------------------------------------------------------------------------- */

/* One image, brought to the batch's size. */
static void fill_sized(const qnet_dataset *s, const uint8_t *image, const qnet_augment *augment,
                       const draw *d, uint8_t *out) {
  if (augment && (augment->crop_pad > 0 || augment->flip))
    place_image(s, image, choose_placement(augment, d), out);
  else
    memcpy(out, image, (size_t)(s->height * s->width * s->channels));
  if (augment) change_colours(s, augment, d, out);
}

static qnet_status fill_image(const qnet_dataset *s, const qnet_item *item,
                              const qnet_augment *augment, const draw *d, uint8_t *out,
                              qnet_diag *diag) {
  const size_t bytes = (size_t)(s->height * s->width * s->channels);
  if (has_size(s, item) && !(augment && augment->smallest_area > 0)) {
    fill_sized(s, item->pixels, augment, d, out);
    return QNET_OK;
  }
  uint8_t *const part = qnet_alloc(s->allocator, bytes);
  if (!part) return qnet_out_of_memory(diag);
  const qnet_status status = take_part(s, item, augment, d, part, diag);
  if (status == QNET_OK) fill_sized(s, part, augment, d, out);
  qnet_free(s->allocator, part, bytes);
  return status;
}

qnet_status qnet_dataset_batch(const qnet_dataset *s, const uint32_t *index, size_t count,
                               const qnet_augment *augment, uint64_t seed, uint64_t epoch,
                               uint8_t *images, int32_t *labels, qnet_diag *d) {
  const size_t bytes = (size_t)(s->height * s->width * s->channels);
  for (size_t i = 0; i < count; i++) {
    const draw numbers = {seed, epoch, index[i]};
    qnet_item item;
    labels[i] = s->labels[index[i]];
    QNET_TRY(s->load(s, index[i], &item, d));
    const qnet_status status = fill_image(s, &item, augment, &numbers, images + i * bytes, d);
    qnet_item_release(&item);
    QNET_TRY(status);
  }
  return QNET_OK;
}
